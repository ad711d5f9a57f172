package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// What a client claims about itself is dropped; its body reaches logic as it was (I9).
func TestForwardStampsWhoAsks(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	c.send(wire.Header{
		Command: wire.CmdUserTalk, Sequence: 7, Dest: "bob", ChannelID: "forged", Status: 42,
		Meta: []wire.Meta{{Key: "admin", Value: "1"}},
		Link: wire.Link{App: "other", Account: "root", Device: "forged", Channels: []string{"x", "y"}},
	}, []byte("body \xff untouched"))
	c.answered(wire.CmdUserTalk, 7, wire.StatusSuccess)
	got := n.await(t, wire.CmdUserTalk, 1)[0]
	require.Equal(t, wire.Header{
		Command: wire.CmdUserTalk, Sequence: 7, Dest: "bob", ChannelID: c.channel,
		Link: wire.Link{App: "demo", Account: "alice"},
	}, got.Header)
	require.Equal(t, "body \xff untouched", string(got.Body))
}

// What a signed-in client may not send, and its answer.
func TestRefusedRequests(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	for i, h := range []wire.Header{
		{Command: ""},
		{Command: wire.CmdSignIn},
		{Command: wire.CmdUserTalk, Flag: wire.FlagResponse},
		{Command: wire.CmdUserTalk, Flag: wire.FlagPush},
		{Command: wire.CmdUserTalk, Flag: 77},
		{Command: wire.CmdSignOut, Flag: wire.FlagPush},
		{Command: wire.CmdLinkHello},
		{Command: wire.CmdLinkDrain},
		{Command: wire.CmdLinkPushes},
		{Command: wire.CmdSessionRenew},
		{Command: wire.CmdSessionRestore},
		{Command: wire.CmdSessionEnd},
		{Command: wire.CmdLeaseEnd},
	} {
		h.Sequence = uint32(i)
		c.send(h, nil)
		c.answered(h.Command, h.Sequence, wire.StatusInvalidCommand)
	}
	c.send(wire.Header{Command: "chat.unknown", Sequence: 99}, nil)
	c.answered("chat.unknown", 99, wire.StatusSuccess) // logic's to answer
	require.Empty(t, n.got(wire.CmdUserTalk))
}

func TestMalformedPacketsCloseTheConnection(t *testing.T) {
	f, _ := startPair(t, nil)
	for name, payload := range map[string]string{
		"nothing":               "",
		"no magic":              "hello",
		"half a LogicPkt":       "\xc3\x11\xa3\x65\x00\x00\x00\x09",
		"a broken header":       "\xc3\x11\xa3\x65\x00\x00\x00\x01\x0a\x00\x00\x00\x00",
		"bytes after the body":  "\xc3\x11\xa3\x65\x00\x00\x00\x00\x00\x00\x00\x00more",
		"half a BasicPkt":       "\xc3\x15\xa7\x65\x00\x01",
		"a BasicPkt too short":  "\xc3\x15\xa7\x65\x00\x01\x00\x09ab",
		"bytes after BasicPkts": "\xc3\x15\xa7\x65\x00\x01\x00\x00ab",
	} {
		t.Run(name, func(t *testing.T) {
			c := f.login("alice")
			c.t = t
			require.NoError(t, c.conn.Send([]byte(payload)))
			c.ended(im.ReasonProtocolError)
		})
	}
}

func TestPingIsAnswered(t *testing.T) {
	f, _ := startPair(t, nil)
	c := f.login("alice")
	require.NoError(t, c.conn.Send(wire.Marshal(&wire.BasicPkt{Code: wire.CodePong, Body: []byte("unasked")})))
	require.NoError(t, c.conn.Send(wire.Marshal(&wire.BasicPkt{Code: wire.CodePing, Body: []byte("body")})))
	frame, err := c.conn.Read()
	require.NoError(t, err)
	require.Equal(t, wire.Pong, frame.GetPayload())
}

// The rate limit counts whatever is a LogicPkt: what is refused for another reason was free.
func TestRateLimit(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Rate = limit.Rate{PerSecond: 0.001, Burst: 3} })
	c := f.login("alice")
	for i := range uint32(2) {
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: i, Dest: "bob"}, nil)
		c.answered(wire.CmdUserTalk, i, wire.StatusSuccess)
	}
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 2, Flag: wire.FlagPush}, nil)
	c.answered(wire.CmdUserTalk, 2, wire.StatusInvalidCommand)
	for i := range uint32(3) {
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 10 + i, Flag: wire.Flag(i)}, nil)
		p := c.answered(wire.CmdUserTalk, 10+i, wire.StatusRateLimited)
		var refusal pb.ErrorResp
		require.NoError(t, proto.Unmarshal(p.Body, &refusal))
		require.InDelta(t, 1_000_000, refusal.RetryAfterMs, 30_000, "ms until there is a token")
	}
	require.Len(t, n.got(wire.CmdUserTalk), 2)
	require.EqualValues(t, 3, f.counter("limited_total", limitRequests))
	c.send(wire.Header{Command: wire.CmdSignOut, Sequence: 20}, nil)
	c.answered(wire.CmdSignOut, 20, wire.StatusSuccess)

	other := f.login("bob")
	other.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "alice"}, nil)
	other.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
}

func TestRoute(t *testing.T) {
	f, _ := build(t, memory.NewRegistry(), nil)
	key := func(app, account, channel string, cmd wire.Command, dest string) uint64 {
		s := &session{identity: newIdentity(app, account, "", "", ""), ch: newFakeChannel(channel)}
		return f.route(s, &wire.LogicPkt{Header: wire.Header{Command: cmd, Dest: dest}})
	}
	require.Equal(t, key("a", "alice", "1", wire.CmdUserTalk, "bob"), key("a", "bob", "2", wire.CmdUserTalk, "alice"), "one conversation")
	require.NotEqual(t, key("a", "alice", "1", wire.CmdUserTalk, "bob"), key("b", "alice", "1", wire.CmdUserTalk, "bob"), "two tenants")
	require.NotEqual(t, key("a", "alice", "1", wire.CmdUserTalk, "bob"), key("a", "alice", "1", wire.CmdUserTalk, "carol"))
	require.Equal(t, key("a", "alice", "1", wire.CmdGroupTalk, "g"), key("a", "bob", "2", wire.CmdGroupTalk, "g"), "one group")
	require.NotEqual(t, key("a", "alice", "1", wire.CmdGroupTalk, "g"), key("b", "alice", "1", wire.CmdGroupTalk, "g"))
	require.Equal(t, key("a", "alice", "1", wire.CmdSync, ""), key("a", "alice", "1", wire.CmdHistory, "x"), "one channel")
	require.NotEqual(t, key("a", "alice", "1", wire.CmdSync, ""), key("a", "alice", "2", wire.CmdSync, ""))
}

// A client may repeat a sequence: every request has its answer, and afterwards nothing is open.
func TestRepeatedSequence(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	for range 3 {
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 5, Dest: "bob"}, nil)
	}
	for range 3 {
		c.answered(wire.CmdUserTalk, 5, wire.StatusSuccess)
	}
	n.await(t, wire.CmdUserTalk, 3)
	c.send(wire.Header{Command: wire.CmdSignOut, Sequence: 6}, nil)
	c.answered(wire.CmdSignOut, 6, wire.StatusSuccess)
	c.ended(im.ReasonSignedOut) // an open request would hold it
}

func TestRequestsWithoutALogicNode(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice", "sync")
	n.stop()
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
	await.Until(t, "the link's end", func() bool { return f.links.Usable() == 0 })
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	p := c.answered(wire.CmdUserTalk, 1, wire.StatusSystemException)
	require.Equal(t, "bob", p.Dest)
	require.NotContains(t, string(p.Body), "peer", "no internal detail")
}

// What was open on a link that broke is answered once, so that the client can ask again at once.
func TestLinkDownAnswersWhatWasOpen(t *testing.T) {
	f, n := startPair(t, nil)
	n.on(wire.CmdUserTalk, mute)
	c := f.login("alice", "sync")
	for i := range uint32(3) {
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1 + i/2, Dest: "bob"}, nil)
	}
	n.await(t, wire.CmdUserTalk, 3)
	n.stop()
	seen := map[string]int{}
	for range 4 {
		p := c.read()
		seen[fmt.Sprint(p.Command, p.Sequence, " ", p.Flag, " ", int(p.Status))]++
	}
	require.Equal(t, map[string]int{"chat.user.talk1 1 300": 2, "chat.user.talk2 1 300": 1, "sync.hint0 2 0": 1}, seen)
	ch, ok := f.deps.Channels.Get(c.channel)
	require.True(t, ok)
	require.Zero(t, sessionOf(ch).open.Load())
}

// Thousands of open requests are answered at once when the node dies, not when they time out.
func TestLinkDownAnswersAtOnce(t *testing.T) {
	f, n := startPair(t, nil)
	n.on(wire.CmdUserTalk, mute)
	const count = 5000
	c := f.login("alice", "sync")
	for i := range uint32(count) {
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: i, Dest: "bob"}, nil)
	}
	n.await(t, wire.CmdUserTalk, count)
	start := time.Now()
	n.stop()
	for answered := 0; answered < count; {
		if p := c.read(); p.Flag == wire.FlagResponse {
			require.Equal(t, wire.StatusSystemException, p.Status)
			answered++
		}
	}
	t.Logf("%d requests were answered %v after their node was killed", count, time.Since(start).Round(time.Microsecond))
	require.Less(t, time.Since(start), 2*time.Second)
}

func TestSignOutWaitsForOpenRequests(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 1)
	n.on(wire.CmdUserTalk, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { respond(a, p, wire.StatusSuccess, &pb.MessageResp{MessageId: 1}) }
	})
	c := f.login("alice")
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	answer := <-asked
	c.send(wire.Header{Command: wire.CmdSignOut, Sequence: 2}, nil)
	c.answered(wire.CmdSignOut, 2, wire.StatusSuccess)
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 3, Dest: "bob"}, nil) // is not forwarded any more
	answer()
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	c.ended(im.ReasonSignedOut)
	ended := n.await(t, wire.CmdSessionEnd, 1)[0]
	var req pb.SessionEndReq
	require.NoError(t, proto.Unmarshal(ended.Body, &req))
	require.Len(t, req.Sessions, 1)
	require.Equal(t, c.channel, req.Sessions[0].Channel)
	require.Len(t, n.got(wire.CmdUserTalk), 1)
}
