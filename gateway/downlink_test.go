package gateway

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func TestPushReachesItsChannels(t *testing.T) {
	f, n := startPair(t, nil)
	a, b, other := f.login("alice"), f.login("bob"), f.login("carol")
	n.push(t, wire.CmdUserTalk, &pb.MessagePush{Body: "hi"}, a.channel, "gateway-1.gone", b.channel)
	for _, c := range []*client{a, b} {
		p := c.read()
		require.Equal(t, wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, p.Header, "clients see no links")
		var m pb.MessagePush
		require.NoError(t, proto.Unmarshal(p.Body, &m))
		require.Equal(t, "hi", m.Body)
	}
	require.EqualValues(t, 1, f.counter("undelivered_total", "gone"))
	n.push(t, wire.CmdGroupTalk, nil, other.channel)
	require.Equal(t, wire.CmdGroupTalk, other.read().Command, "and nothing before")
}

// pushTogether is link.pushes of talks with these bodies.
func (n *logic) pushTogether(t testing.TB, delivered []wire.Delivered, bodies []string, channels ...string) {
	t.Helper()
	var all pb.LinkPushes
	for _, body := range bodies {
		talk := wire.LogicPkt{Header: wire.Header{Command: wire.CmdGroupTalk, Flag: wire.FlagPush, Dest: "9"}}
		talk.Body, _ = proto.Marshal(&pb.MessagePush{Body: body})
		all.Packets = append(all.Packets, talk.Append(nil))
	}
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdLinkPushes, Flag: wire.FlagPush, Link: wire.Link{Channels: channels, Delivered: delivered}}}
	p.Body, _ = proto.Marshal(&all)
	require.NoError(t, n.hub.Push(gatewayID, p.Append(nil)))
}

func TestPushesTogether(t *testing.T) {
	f, n := startPair(t, nil)
	old, syncs := f.login("alice"), f.login("bob", "sync")
	runs := slices.Concat(runOf(7, 1, 30), runOf(7, 2, 31), runOf(7, 3, 32))
	n.pushTogether(t, runs, []string{"a", "b", "c"}, old.channel, "gateway-1.gone", syncs.channel)
	n.push(t, wire.CmdUserTalk, &pb.MessagePush{Body: "d"}, old.channel, syncs.channel)
	for _, c := range []*client{old, syncs} {
		for _, want := range []string{"a", "b", "c", "d"} {
			p := c.read()
			require.Equal(t, wire.FlagPush, p.Flag)
			require.Equal(t, wire.Link{}, p.Link, "clients see no links")
			var m pb.MessagePush
			require.NoError(t, proto.Unmarshal(p.Body, &m))
			require.Equal(t, want, m.Body)
		}
	}
	require.EqualValues(t, 3, f.counter("undelivered_total", "gone"))
	n.on(wire.CmdTalkAck, reply(nil))
	old.send(wire.Header{Command: wire.CmdTalkAck, Sequence: 1}, nil)
	require.Equal(t, runs, n.await(t, wire.CmdTalkAck, 1)[0].Delivered)
}

// What cannot be read was for somebody: all sync.
func TestMalformedPushesTogether(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice", "sync")
	n.pushTogether(t, runOf(7, 1, 30), []string{"a", "b"}, c.channel)
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
	require.EqualValues(t, 1, f.counter("hinted_total", "logic"))
}

// While a login is not answered what is pushed together is held with all else, in order.
func TestPushesTogetherAreHeld(t *testing.T) {
	ch := newFakeChannel("c")
	s := &session{ch: ch, login: &signIn{}}
	require.NoError(t, s.deliver([]byte("a"), nil, false))
	require.NoError(t, s.deliverAll([][]byte{[]byte("b"), []byte("c")}, slices.Concat(runOf(7, 1, 30), runOf(7, 2, 31))))
	require.Empty(t, ch.pushed)
	require.NoError(t, s.begin([]byte("resp")))
	require.NoError(t, s.deliverAll([][]byte{[]byte("d"), []byte("e")}, nil))
	require.Equal(t, "resp a b c d e", string(bytes.Join(ch.pushed, []byte(" "))))
	require.Equal(t, slices.Concat(runOf(7, 1, 30), runOf(7, 2, 31)), s.asks(wire.CmdTalkAck, nil))
	ch.full = true
	require.ErrorIs(t, s.deliverAll([][]byte{[]byte("f")}, runOf(7, 3, 32)), im.ErrQueueFull)
	require.Len(t, s.asks(wire.CmdTalkAck, nil), 2, "what could not be queued is not in it")
}

// A kick is a push and then the end: a push alone would leave the session open (flaw 3).
func TestKick(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	n.push(t, wire.CmdSignIn, &pb.KickoutNotify{ChannelId: c.channel}, c.channel)
	p := c.read()
	require.Equal(t, wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}, p.Header)
	c.ended(im.ReasonDisplaced)
	n.await(t, wire.CmdSessionEnd, 1)
}

// A logic node asks for sessions that stand in a login's way: those that the gateway does not know end.
func TestUnknownSessionsAreEnded(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	stale := &pb.Session{App: "demo", Account: "alice", Device: "tablet", Channel: "gateway-1.gone"}
	n.push(t, wire.CmdSessionEnd, &pb.SessionEndReq{Sessions: []*pb.Session{{App: "demo", Account: "alice", Channel: c.channel}, stale}})
	var req pb.SessionEndReq
	require.NoError(t, proto.Unmarshal(n.await(t, wire.CmdSessionEnd, 1)[0].Body, &req))
	require.Len(t, req.Sessions, 1)
	require.True(t, proto.Equal(stale, req.Sessions[0]), "%v", req.Sessions)
}

// A session that was displaced, as one is that has moved to another gateway, has what it asked answered
// and no error in between; what it asks from then on is not forwarded. It was cut off before.
func TestKickAnswersOpenRequestsFirst(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 1)
	n.on(wire.CmdUserTalk, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { respond(a, p, wire.StatusSuccess, nil) }
	})
	c := f.login("alice")
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	answer := <-asked
	n.push(t, wire.CmdSignIn, &pb.KickoutNotify{ChannelId: c.channel}, c.channel)
	require.Equal(t, wire.CmdSignIn, c.read().Command)
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 2, Dest: "bob"}, nil)
	c.send(wire.Header{Command: wire.CmdSignOut, Sequence: 3}, nil)
	answer()
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	c.ended(im.ReasonDisplaced)
	require.Len(t, n.got(wire.CmdUserTalk), 1)
}

// A channel that leaves and whose request is never answered goes all the same: a displaced session
// must not live on.
func TestLeaveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := newFakeChannel("c")
		s := &session{ch: ch, online: true}
		s.open.Store(1)
		require.NoError(t, s.displace([]byte("kickout")))
		time.Sleep(leaveWait - 1)
		require.Equal(t, im.ReasonNone, ch.reason())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, im.ReasonDisplaced, ch.reason())
	})
}

// Which reason a client is told that was given several.
func TestReasonToLeave(t *testing.T) {
	for _, test := range []struct {
		reasons []im.Reason
		want    im.Reason
	}{
		{[]im.Reason{im.ReasonGoingAway, im.ReasonSyncNeeded}, im.ReasonGoingAway},
		{[]im.Reason{im.ReasonSignedOut, im.ReasonGoingAway}, im.ReasonSignedOut},
		// One that is told to come back would displace the one that has displaced it.
		{[]im.Reason{im.ReasonGoingAway, im.ReasonDisplaced}, im.ReasonDisplaced},
		{[]im.Reason{im.ReasonDisplaced, im.ReasonGoingAway}, im.ReasonDisplaced},
	} {
		ch := newFakeChannel("c")
		s := &session{ch: ch, online: true}
		s.open.Store(1)
		for _, r := range test.reasons {
			s.leave(r)
		}
		require.Equal(t, im.ReasonNone, ch.reason())
		s.answered()
		require.Equal(t, test.want, ch.reason())
	}
}

// A client that is on line is hinted, or closed if it understands no hints; one that is logging in
// was closed as well, although it has nothing to lose yet.
func TestHint(t *testing.T) {
	for _, test := range []struct {
		name   string
		online bool
		has    wire.Features
		pushes int
		closed im.Reason
	}{
		{"a client that syncs", true, wire.FeatureSync, 1, im.ReasonNone},
		{"an old client", true, 0, 0, im.ReasonSyncNeeded},
		{"one that is logging in", false, 0, 0, im.ReasonNone},
	} {
		t.Run(test.name, func(t *testing.T) {
			ch := newFakeChannel("c")
			hint(&session{ch: ch, online: test.online, features: test.has})
			require.Len(t, ch.pushed, test.pushes)
			require.Equal(t, test.closed, ch.reason())
		})
	}
	ch := newFakeChannel("c")
	hint(sessionOf(ch)) // Connect has not seen it
	require.Equal(t, im.ReasonNone, ch.reason())
}

func TestHintsOfALogicNode(t *testing.T) {
	f, n := startPair(t, nil)
	a, b, old := f.login("alice", "sync"), f.login("bob", "sync"), f.login("carol")
	n.push(t, wire.CmdSyncHint, nil, a.channel)
	require.Equal(t, wire.CmdSyncHint, a.read().Command)
	// Without channels it is for all: the node does not know whom it could not reach.
	n.push(t, wire.CmdSyncHint, nil)
	require.Equal(t, wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}, a.read().Header)
	require.Equal(t, wire.CmdSyncHint, b.read().Command)
	old.ended(im.ReasonSyncNeeded)
}

// A link that breaks hints, and again when it is back: what was said between is lost too (I4).
func TestHintsOfABrokenLink(t *testing.T) {
	registry := memory.NewRegistry()
	n := startLogic(t, registry, "logic-1")
	f := start(t, registry, nil).ready()
	c := f.login("alice", "sync")
	n.hub.Push(gatewayID, []byte("garbage")) //nolint:errcheck // breaks the link
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
	restored := n.await(t, wire.CmdSessionRestore, 1)[0]
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
	// A kick may have been among what was lost: the sessions are stored again, under the fence that
	// the login was given.
	var req pb.SessionRestoreReq
	require.NoError(t, proto.Unmarshal(restored.Body, &req))
	require.Len(t, req.Sessions, 1)
	require.Equal(t, c.channel, req.Sessions[0].Channel)
	require.EqualValues(t, 4711, req.Sessions[0].LoginAt)
}

// An old client is closed when the link is back, not before: it would have been closed twice.
func TestABrokenLinkClosesOldClientsOnce(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	n.hub.Push(gatewayID, []byte("garbage")) //nolint:errcheck // breaks the link
	c.ended(im.ReasonSyncNeeded)
	require.Zero(t, f.counter("hinted_total", "link_down"))
	await.Until(t, "the count", func() bool { return f.counter("hinted_total", "link_up") == 1 })
}

// A logic node of the next version may push commands that this gateway does not know, and stamp
// headers with fields that it does not know: what is for clients goes on to them, without the fields, and
// what is for the gateway is passed over.
func TestPushesOfANewerNode(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	unknown := func(h wire.Header) []byte {
		field := protowire.AppendTag(nil, 99, protowire.BytesType)
		field = protowire.AppendBytes(field, []byte("new"))
		p := wire.LogicPkt{Header: h}
		packet := p.Append(nil)
		headerLen := binary.BigEndian.Uint32(packet[4:])
		out := slices.Concat(packet[:8+headerLen], field, packet[8+headerLen:])
		binary.BigEndian.PutUint32(out[4:], headerLen+uint32(len(field)))
		return out
	}
	require.NoError(t, n.hub.Push(gatewayID, unknown(wire.Header{Command: "gateway.new", Flag: wire.FlagPush})))
	require.NoError(t, n.hub.Push(gatewayID, unknown(wire.Header{
		Command: "chat.new", Flag: wire.FlagPush, Link: wire.Link{Channels: []string{c.channel}},
	})))
	require.Equal(t, wire.Header{Command: "chat.new", Flag: wire.FlagPush}, c.read().Header)
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
}

// A response that was not asked for, or whose client has gone, harms nobody.
func TestStrayResponses(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	stray := func(h wire.Header) {
		h.Flag = wire.FlagResponse
		require.NoError(t, n.hub.Push(gatewayID, (&wire.LogicPkt{Header: h}).Append(nil)))
	}
	stray(wire.Header{Command: wire.CmdSignIn, ChannelID: c.channel, Sequence: 1})
	stray(wire.Header{Command: wire.CmdUserTalk, ChannelID: "gateway-1.gone", Sequence: 1})
	stray(wire.Header{Command: wire.CmdSessionRenew, Sequence: 1 << 30})
	require.NoError(t, n.hub.Push(gatewayID, (&wire.LogicPkt{Header: wire.Header{Command: "a.request"}}).Append(nil)))
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 9, Dest: "bob"}, nil)
	c.answered(wire.CmdUserTalk, 9, wire.StatusSuccess)
}

func TestCountOfPushes(t *testing.T) {
	f, _ := build(t, memory.NewRegistry(), nil)
	full, closed := newFakeChannel("full"), newFakeChannel("closed")
	full.full = true
	closed.Close(im.ReasonTimeout)
	for _, ch := range []*fakeChannel{full, closed, newFakeChannel("open")} {
		ch.SetAttachment(&session{ch: ch, online: true})
		f.deps.Channels.Add(ch)
	}
	f.deliver(nil, &wire.LogicPkt{Header: wire.Header{
		Command: wire.CmdUserTalk, Flag: wire.FlagPush,
		Link: wire.Link{Channels: []string{"full", "closed", "open", "gone"}},
	}})
	for _, reason := range []string{"queue_full", "closed", "gone"} {
		require.EqualValues(t, 1, f.counter("undelivered_total", reason), reason)
	}
	require.EqualValues(t, 1, f.counter("delivered_total", ""))
}
