package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// A message between accounts on different gateways, one on WebSocket and one on TCP, both ways.
func testTalk(t *testing.T, c *site) {
	for i, urls := range [][2]string{
		{c.GatewayURLs[0], c.GatewayURLs[1]},
		{c.GatewayURLs[1], c.GatewayTCPURLs[0]},
		{c.GatewayTCPURLs[0], c.GatewayTCPURLs[1]},
	} {
		alice := c.user(t, urls[0], fmt.Sprintf("talk-alice-%d", i), legacy())
		bob := c.user(t, urls[1], fmt.Sprintf("talk-bob-%d", i), legacy())
		require.Empty(t, alice.granted, "a client that asks for no features gets none")

		var sent pb.MessageResp
		req := &pb.MessageReq{Type: 2, Body: "hello, Bob: ✓ \x00 end", Extra: `{"size":1}`}
		alice.must(wire.CmdUserTalk, bob.account, req, &sent)
		require.WithinDuration(t, time.Now(), time.Unix(0, sent.SendTime), time.Minute)
		require.EqualValues(t, 1, sent.Seq, "the first of the conversation")

		var got pb.MessagePush
		p := bob.pushed(wire.CmdUserTalk, &got)
		require.Equal(t, bob.account, p.Dest)
		want := &pb.MessagePush{
			MessageId: sent.MessageId, SendTime: sent.SendTime, Seq: sent.Seq, Conversation: sent.Conversation,
			Type: req.Type, Body: req.Body, Extra: req.Extra, Sender: alice.account,
		}
		require.True(t, proto.Equal(want, &got), "got %v, want %v", &got, want)

		answer := bob.say(alice.account, "hello, Alice")
		require.Equal(t, sent.Conversation, answer.Conversation)
		require.EqualValues(t, 2, answer.Seq)
		require.Greater(t, answer.MessageId, sent.MessageId)
		alice.hears(wire.CmdUserTalk, alice.account, bob.account, "hello, Alice")
	}
}

// A message that is sent again under its client_id is the same message (I3), whichever node it comes to.
func testIdempotence(t *testing.T, c *site) {
	first := c.user(t, c.GatewayURLs[0], "again-alice", modern("a"))
	second := c.user(t, c.GatewayTCPURLs[1], "again-alice", modern("b"))
	bob := c.user(t, c.GatewayURLs[1], "again-bob", legacy())

	req := &pb.MessageReq{Type: 1, Body: "once", ClientId: "c-1"}
	var one, two pb.MessageResp
	first.must(wire.CmdUserTalk, "again-bob", req, &one)
	second.must(wire.CmdUserTalk, "again-bob", req, &two)
	require.True(t, proto.Equal(&one, &two), "%v is not %v", &two, &one)
	require.EqualValues(t, 2, first.say("again-bob", "twice").Seq)

	bob.hears(wire.CmdUserTalk, "again-bob", "again-alice", "once")
	bob.hears(wire.CmdUserTalk, "again-bob", "again-alice", "twice")
}

// A group whose members are on both gateways: each member gets each notice and message once.
func testGroup(t *testing.T, c *site) {
	owner := c.user(t, c.GatewayURLs[0], "group-owner", legacy())
	near := c.user(t, c.GatewayTCPURLs[0], "group-near", legacy())
	far := c.user(t, c.GatewayURLs[1], "group-far", legacy())
	late := c.user(t, c.GatewayTCPURLs[1], "group-late", legacy())
	alien := c.user(t, c.GatewayURLs[1], "group-alien", legacy())

	var created pb.GroupCreateResp
	owner.must(wire.CmdGroupCreate, "", &pb.GroupCreateReq{
		Name: "friends", Avatar: "a.png", Introduction: "of tests", Owner: "group-alien",
		Members: []string{"group-near", "group-far", "group-near", "group-owner"},
	}, &created)
	id := created.GroupId
	for _, u := range []*user{near, far} {
		var notify pb.GroupCreateNotify
		u.pushed(wire.CmdGroupCreate, &notify)
		require.Equal(t, id, notify.GroupId)
		require.ElementsMatch(t, []string{"group-owner", "group-near", "group-far"}, slices.Compact(slices.Sorted(slices.Values(notify.Members))))
	}

	owner.sayIn(id, "before late")
	near.hears(wire.CmdGroupTalk, id, "group-owner", "before late")
	far.hears(wire.CmdGroupTalk, id, "group-owner", "before late")

	// One joins for oneself, whatever the body claims.
	late.must(wire.CmdGroupJoin, "", &pb.GroupJoinReq{Account: "group-alien", GroupId: id}, nil)
	for _, u := range []*user{owner, near, far} {
		var notify pb.GroupJoinNotify
		u.pushed(wire.CmdGroupJoin, &notify)
		require.Equal(t, []string{id, "group-late"}, []string{notify.GroupId, notify.Account})
	}
	alien.refusedAGroup(id)

	far.sayIn(id, "with late")
	for _, u := range []*user{owner, near, late} {
		u.hears(wire.CmdGroupTalk, id, "group-far", "with late")
	}
	for _, cmd := range []wire.Command{wire.CmdGroupDetail, wire.CmdGroupMembers} {
		var group pb.GroupGetResp
		late.must(cmd, "", &pb.GroupGetReq{GroupId: id}, &group)
		require.Equal(t, []string{id, "friends", "a.png", "of tests", "group-owner"},
			[]string{group.Id, group.Name, group.Avatar, group.Introduction, group.Owner})
		var members []string
		for _, m := range group.Members {
			members = append(members, m.Account)
			require.WithinDuration(t, time.Now(), time.Unix(0, m.JoinTime), time.Minute)
		}
		require.ElementsMatch(t, []string{"group-owner", "group-near", "group-far", "group-late"}, members)
		require.WithinDuration(t, time.Now(), time.Unix(0, group.CreatedAt), time.Minute)
	}

	// Who joined late cannot read what was said before.
	var index pb.MessageIndexResp
	late.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{}, &index)
	require.Len(t, index.Indexes, 1, "only what was said since")
	require.Equal(t, []string{id, "group-far"}, []string{index.Indexes[0].Group, index.Indexes[0].AccountB})

	near.must(wire.CmdGroupQuit, "", &pb.GroupQuitReq{Account: "group-far", GroupId: id}, nil)
	for _, u := range []*user{owner, far, late} {
		var notify pb.GroupQuitNotify
		u.pushed(wire.CmdGroupQuit, &notify)
		require.Equal(t, []string{id, "group-near"}, []string{notify.GroupId, notify.Account})
	}
	near.refusedAGroup(id)

	// The last word is heard by all that are left: what one got twice, or got without being meant,
	// would be before it.
	owner.sayIn(id, "last")
	far.hears(wire.CmdGroupTalk, id, "group-owner", "last")
	late.hears(wire.CmdGroupTalk, id, "group-owner", "last")
	for _, u := range []*user{near, alien} {
		owner.say(u.account, "you are not in it")
		u.hears(wire.CmdUserTalk, u.account, "group-owner", "you are not in it")
	}
}

// refusedAGroup tries everything that only members may do.
func (u *user) refusedAGroup(id string) {
	u.t.Helper()
	u.refused(wire.StatusUnauthorized, wire.CmdGroupTalk, id, &pb.MessageReq{Type: 1, Body: "let me in"})
	u.refused(wire.StatusUnauthorized, wire.CmdGroupDetail, "", &pb.GroupGetReq{GroupId: id})
	u.refused(wire.StatusUnauthorized, wire.CmdGroupMembers, "", &pb.GroupGetReq{GroupId: id})
	u.refused(wire.StatusUnauthorized, wire.CmdGroupQuit, "", &pb.GroupQuitReq{GroupId: id})
	u.refused(wire.StatusUnauthorized, wire.CmdHistory, "", &pb.HistoryReq{Group: id})
	u.refused(wire.StatusUnauthorized, wire.CmdHistory, "", &pb.HistoryReq{Conversation: id})
}

// Several devices of one account are on line at once; what one of them sends reaches the others that
// announce "sync", and no client that does not.
func testDevices(t *testing.T, c *site) {
	phone := c.user(t, c.GatewayURLs[0], "devices-alice", modern("phone"))
	web := c.user(t, c.GatewayTCPURLs[1], "devices-alice", modern("web"))
	old := c.user(t, c.GatewayURLs[1], "devices-alice", legacy())
	bob := c.user(t, c.GatewayURLs[0], "devices-bob", modern(""))
	require.Equal(t, []string{"sync"}, phone.granted)

	var sent pb.MessageResp
	phone.must(wire.CmdUserTalk, "devices-bob", &pb.MessageReq{Type: 1, Body: "from my phone", ClientId: "c-1"}, &sent)
	bob.hears(wire.CmdUserTalk, "devices-bob", "devices-alice", "from my phone")
	m := web.hears(wire.CmdUserTalk, "devices-bob", "devices-alice", "from my phone")
	require.Equal(t, []any{sent.MessageId, sent.Seq, sent.Conversation, "c-1"}, []any{m.MessageId, m.Seq, m.Conversation, m.ClientId})

	// The answer reaches all three; it is the first that the old one and the phone itself hear of.
	bob.say("devices-alice", "to all of you")
	for _, u := range []*user{phone, web, old} {
		u.hears(wire.CmdUserTalk, "devices-alice", "devices-bob", "to all of you")
	}

	// A note to oneself: the devices that sync have it.
	old.say("devices-alice", "note")
	phone.hears(wire.CmdUserTalk, "devices-alice", "devices-alice", "note")
	web.hears(wire.CmdUserTalk, "devices-alice", "devices-alice", "note")
}

// A newer login of the same device takes over: the older session is told and closed.
func testKick(t *testing.T, c *site) {
	for i, k := range []struct {
		old, new string
		login    *pb.LoginReq
	}{
		{c.GatewayURLs[0], c.GatewayURLs[0], legacy()},
		{c.GatewayURLs[0], c.GatewayTCPURLs[1], legacy()},
		{c.GatewayTCPURLs[1], c.GatewayURLs[0], modern("tablet")},
	} {
		account := fmt.Sprintf("kick-alice-%d", i)
		bystander := c.user(t, c.GatewayURLs[1], account, modern("other"))
		first := c.user(t, k.old, account, k.login)
		second := c.user(t, k.new, account, k.login)

		var notify pb.KickoutNotify
		first.pushed(wire.CmdSignIn, &notify)
		require.True(t, proto.Equal(&pb.KickoutNotify{
			ChannelId: first.channel, Reason: "device", Device: k.login.Device, Platform: k.login.Platform,
		}, &notify), "%v", &notify)
		first.closed(im.ReasonDisplaced)

		bob := c.user(t, c.GatewayTCPURLs[0], fmt.Sprintf("kick-bob-%d", i), legacy())
		bob.say(account, "which one are you?")
		second.hears(wire.CmdUserTalk, account, bob.account, "which one are you?")
		bystander.hears(wire.CmdUserTalk, account, bob.account, "which one are you?")
	}
}

// The end of a displaced connection comes late, and removes nothing of the session that displaced it (flaw 2).
func testLateGoodbye(t *testing.T, c *site) {
	first := c.user(t, c.GatewayURLs[0], "late-alice", modern("d"))
	displaced := func() float64 {
		return metric(t, "hermod_gateway_connections_closed_total", `"displaced"`, c.Gateways[0])
	}
	before := displaced()
	second := c.user(t, c.GatewayURLs[1], "late-alice", modern("d"))
	first.closed(im.ReasonDisplaced)
	eventually(t, wait, "the gateway sees the first connection end", func() bool { return displaced() > before })
	// A gateway reports the ends of connections in their order: when a later one's is known, so is the first's.
	marker := c.user(t, c.GatewayURLs[0], "late-marker", modern("d"))
	marker.must(wire.CmdSignOut, "", nil, nil)
	eventually(t, wait, "the marker's session ends", func() bool { return len(c.found(t, "late-marker")) == 0 })

	sessions := c.found(t, "late-alice")
	require.Len(t, sessions, 1)
	require.Equal(t, second.channel, sessions[0].Channel)
	c.user(t, c.GatewayTCPURLs[0], "late-bob", legacy()).say("late-alice", "still there?")
	second.hears(wire.CmdUserTalk, "late-alice", "late-bob", "still there?")
}

// Signing out is answered, closes the connection and ends the session.
func testSignOut(t *testing.T, c *site) {
	for i, url := range []string{c.GatewayURLs[0], c.GatewayTCPURLs[1]} {
		alice := c.user(t, url, fmt.Sprintf("signout-alice-%d", i), legacy())
		alice.must(wire.CmdSignOut, "", nil, nil)
		alice.closed(im.ReasonSignedOut)
		eventually(t, wait, "the session ends", func() bool { return len(c.found(t, alice.account)) == 0 })
	}
}

// What a client writes into the fields that are the server's is ignored (I9).
func testLies(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "lies-alice", legacy())
	bob := c.user(t, c.GatewayURLs[1], "lies-bob", legacy())
	body, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: "who am I?"})
	require.NoError(t, err)
	answer, err := alice.ask(within(t), &wire.LogicPkt{Header: wire.Header{
		Command: wire.CmdUserTalk, ChannelID: bob.channel, Status: 42, Dest: "lies-bob",
		Meta: []wire.Meta{{Key: "account", Value: "lies-carol", Type: wire.MetaString}},
		Link: wire.Link{App: "other", Account: "lies-carol", Device: "x", Channels: []string{bob.channel}},
	}, Body: body})
	require.NoError(t, err)
	require.Equal(t, wire.StatusSuccess, answer.Status)
	require.Empty(t, answer.Link, "a client learns nothing of what services tell each other")
	var m pb.MessagePush
	p := bob.pushed(wire.CmdUserTalk, &m)
	require.Equal(t, "lies-alice", m.Sender)
	require.Empty(t, p.Link)
	require.Empty(t, p.Meta)
}

// Requests that are well formed and cannot be done.
func testRefusedDrafts(t *testing.T, c *site) {
	u := c.user(t, c.GatewayURLs[0], "drafts-alice", modern("d"))
	text := &pb.MessageReq{Type: 1, Body: "hello"}
	u.refused(wire.StatusNoDestination, wire.CmdUserTalk, "", text)
	u.refused(wire.StatusNoDestination, wire.CmdGroupTalk, "", text)
	u.refused(wire.StatusNoDestination, wire.CmdGroupTalk, "12345", text)
	u.refused(wire.StatusNoDestination, wire.CmdGroupTalk, "no number", text)
	u.refused(wire.StatusInvalidBody, wire.CmdUserTalk, string(make([]byte, 300)), text)
	u.refused(wire.StatusInvalidBody, wire.CmdUserTalk, "bob", &pb.MessageReq{Body: string(make([]byte, 61<<10))})
	u.refused(wire.StatusInvalidBody, wire.CmdUserTalk, "bob", &pb.MessageReq{Body: "x", ClientId: string(make([]byte, 65))})
	u.refused(wire.StatusNoDestination, wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: 1})
	u.refused(wire.StatusInvalidBody, wire.CmdOfflineContent, "", &pb.MessageContentReq{MessageIds: make([]int64, 201)})
	u.refused(wire.StatusInvalidBody, wire.CmdOfflineContent, "", &pb.MessageContentReq{})
	u.refused(wire.StatusInvalidBody, wire.CmdHistory, "", &pb.HistoryReq{})
	u.refused(wire.StatusInvalidBody, wire.CmdHistory, "", &pb.HistoryReq{Conversation: "x"})
	u.refused(wire.StatusInvalidBody, wire.CmdSync, "", &pb.SyncReq{Cursors: []*pb.Cursor{{Conversation: "-1"}}})
	u.refused(wire.StatusNoDestination, wire.CmdGroupJoin, "", &pb.GroupJoinReq{GroupId: "12345"})
	u.refused(wire.StatusNoDestination, wire.CmdGroupDetail, "", &pb.GroupGetReq{GroupId: "12345"})
	u.must(wire.CmdUserTalk, "drafts-bob", text, nil)
}
