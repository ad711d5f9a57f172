package logic

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func talkTo(account, dest string) wire.Header {
	h := asClient(account, wire.CmdUserTalk)
	h.Dest = dest
	return h
}

func TestTalkIsValidated(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxBody = 100 })
	long := strings.Repeat("x", 60)
	for _, test := range []struct {
		name   string
		dest   string
		req    *pb.MessageReq
		status wire.Status
	}{
		{"a message", "bob", &pb.MessageReq{Type: 1, Body: "hi"}, wire.StatusSuccess},
		{"an empty one", "bob", &pb.MessageReq{}, wire.StatusSuccess},
		{"a note to oneself", "alice", &pb.MessageReq{Body: "hi"}, wire.StatusSuccess},
		{"no destination", "", &pb.MessageReq{Body: "hi"}, wire.StatusNoDestination},
		{"a long body", "bob", &pb.MessageReq{Body: long + long}, wire.StatusInvalidBody},
		{"a long body and extra", "bob", &pb.MessageReq{Body: long, Extra: long}, wire.StatusInvalidBody},
		{"a client id as long as allowed", "bob", &pb.MessageReq{ClientId: strings.Repeat("c", maxClientID)}, wire.StatusSuccess},
		{"a longer one", "bob", &pb.MessageReq{ClientId: strings.Repeat("c", maxClientID+1)}, wire.StatusInvalidBody},
	} {
		for _, cmd := range []wire.Command{wire.CmdUserTalk, wire.CmdGroupTalk} {
			h := asClient("alice", cmd)
			h.Dest = test.dest
			require.Equal(t, test.status, f.ask(h, test.req).Status, "%s: %s", cmd, test.name)
		}
	}
	f.idle()
}

func TestTalkIsStoredAsAsked(t *testing.T) {
	f := start(t, nil)
	var resp pb.MessageResp
	start := time.Now().UnixNano()
	f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Type: 3, Body: "hi", Extra: "more", ClientId: "c1"}, &resp)
	d := *f.store.batches[0][0]
	require.Equal(t, resp.SendTime, d.SendTime)
	require.GreaterOrEqual(t, d.SendTime, start)
	require.Equal(t, storage.Draft{
		App: "demo", Sender: "alice", Kind: storage.KindUser, Dest: "bob", ClientID: "c1", Type: 3, Body: "hi", Extra: "more",
		SendTime: d.SendTime, Conversation: 7, Seq: 1, MessageID: 1, Members: []string{"alice", "bob"},
	}, d)
	require.Equal(t, "7", resp.Conversation)
	require.EqualValues(t, 1, resp.Seq)
	require.EqualValues(t, 1, resp.MessageId)
}

// What gathers while a commit runs is one batch, in order, and no answer comes before its commit.
func TestGroupCommit(t *testing.T) {
	f := start(t, func(c *Config) { c.Shards, c.BatchMax = 1, 8 })
	f.store.gate, f.store.entered = make(chan struct{}), make(chan int)
	send := func(n int) {
		h := talkTo("alice", "bob")
		h.Sequence = uint32(n)
		f.give(h, &pb.MessageReq{Body: fmt.Sprint(n)})
	}
	send(0)
	require.Equal(t, 1, <-f.store.entered)
	for n := 1; n <= 20; n++ {
		send(n)
	}
	require.Empty(t, f.agent.got(), "success means durable (I1)")
	for _, size := range []int{8, 8, 4} {
		f.store.gate <- struct{}{}
		require.Equal(t, size, <-f.store.entered)
	}
	f.store.gate <- struct{}{}
	f.idle()
	answers := f.agent.got()
	require.Len(t, answers, 21)
	for n, p := range answers {
		require.EqualValues(t, n, p.Sequence, "in the order of coming")
		var resp pb.MessageResp
		require.NoError(t, proto.Unmarshal(p.Body, &resp))
		require.EqualValues(t, n+1, resp.Seq)
	}
	for n, body := range f.store.committed() {
		require.Equal(t, fmt.Sprint(n), body)
	}
}

// Both sides of a conversation go to one shard: it has one writer.
func TestShardOfAConversation(t *testing.T) {
	user := func(app, from, to string) uint64 {
		return shardOf(&storage.Draft{App: app, Sender: from, Dest: to, Kind: storage.KindUser})
	}
	group := func(app, from, to string) uint64 {
		return shardOf(&storage.Draft{App: app, Sender: from, Dest: to, Kind: storage.KindGroup})
	}
	require.Equal(t, user("a", "alice", "bob"), user("a", "bob", "alice"))
	require.Equal(t, group("a", "alice", "1"), group("a", "bob", "1"))
	require.NotEqual(t, user("a", "alice", "bob"), user("b", "alice", "bob"))
	require.NotEqual(t, group("a", "alice", "1"), group("b", "alice", "1"))
}

func TestFullShardRefuses(t *testing.T) {
	f := start(t, func(c *Config) { c.Shards, c.QueueMax = 1, 3 })
	f.store.gate, f.store.entered = make(chan struct{}), make(chan int, 10)
	f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "under way"})
	<-f.store.entered
	for range 3 {
		f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "waits"})
	}
	require.Contains(t, f.fails(talkTo("alice", "bob"), &pb.MessageReq{Body: "too much"}, wire.StatusSystemException), "busy")
	close(f.store.gate)
	f.idle()
	require.NotContains(t, f.store.committed(), "too much")
	require.Len(t, f.agent.got(), 5)
}

func TestFailedCommitIsAnsweredAndNotPushed(t *testing.T) {
	f := start(t, nil)
	f.online("gateway-1", "bob", 0, "")
	f.store.set(func() { f.store.err = errors.New("deadlock on 10.0.0.7") })
	require.NotContains(t, f.fails(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, wire.StatusSystemException), "10.0.0.7")
	f.idle()
	require.Empty(t, f.links.pushes())
	f.store.set(func() { f.store.err = nil })
	f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
	f.idle()
	require.Len(t, f.links.pushes(), 1)
}

// A commit that takes too long is given up.
func TestSlowCommitTimesOut(t *testing.T) {
	f := start(t, func(c *Config) { c.Timeout = 20 * time.Millisecond })
	f.store.gate = make(chan struct{})
	f.fails(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, wire.StatusSystemException)
	f.idle()
}

// One draft that is refused does not take the others of its batch with it.
func TestRefusedDraft(t *testing.T) {
	f := start(t, func(c *Config) { c.Shards = 1 })
	f.online("gateway-1", "bob", 0, "")
	f.store.refuse["42"] = storage.ErrNotMember
	f.store.gate, f.store.entered = make(chan struct{}), make(chan int, 10)
	f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "first"})
	<-f.store.entered
	group := asClient("alice", wire.CmdGroupTalk)
	group.Dest, group.Sequence = "42", 2
	f.give(group, &pb.MessageReq{Body: "not a member"})
	f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "third"})
	close(f.store.gate)
	f.idle()
	statuses := map[uint32]wire.Status{}
	for _, p := range f.agent.got() {
		statuses[p.Sequence] = p.Status
	}
	require.Equal(t, map[uint32]wire.Status{1: wire.StatusSuccess, 2: wire.StatusUnauthorized}, statuses)
	require.Len(t, f.links.pushes(), 2)
}
