package logic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

const (
	syncs = storage.Feature(wire.FeatureSync)
	old   = storage.Feature(0)
)

// reached are the channels that the pushes so far are for, sorted.
func (l *fakeLinks) reached() (out []string) {
	for _, p := range l.pushes() {
		out = append(out, p.Channels...)
	}
	slices.Sort(out)
	return out
}

// Whom a message is pushed to. The sender is alice on gateway-1, on a device that is not "".
func TestReceivers(t *testing.T) {
	type device struct {
		gateway, account, device string
		features                 storage.Feature
	}
	sending := device{"gateway-1", "alice", "sending", syncs}
	for _, test := range []struct {
		name      string
		online    []device
		dest      string
		duplicate bool
		want      []string
	}{
		{"nobody is on line", nil, "bob", false, nil},
		{"the receiver", []device{sending, {"gateway-1", "bob", "", old}}, "bob", false, []string{"gateway-1.bob"}},
		{
			"the receiver's devices, on two gateways",
			[]device{{"gateway-1", "bob", "", old}, {"gateway-2", "bob", "web", syncs}},
			"bob", false,
			[]string{"gateway-1.bob", "gateway-2.bob.web"},
		},
		{
			"the sender's other devices, if they keep cursors",
			[]device{sending, {"gateway-2", "alice", "web", syncs}, {"gateway-2", "alice", "", old}},
			"bob", false,
			[]string{"gateway-2.alice.web"},
		},
		{"a note to oneself", []device{sending, {"gateway-2", "alice", "web", syncs}}, "alice", false, []string{"gateway-2.alice.web"}},
		{"a stranger", []device{{"gateway-1", "carol", "", old}}, "bob", false, nil},
		{
			"a message sent again, to those that know by its seq",
			[]device{sending, {"gateway-1", "bob", "", old}, {"gateway-1", "bob", "web", syncs}, {"gateway-1", "alice", "tab", syncs}},
			"bob", true,
			[]string{"gateway-1.alice.tab", "gateway-1.bob.web"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := build(t, nil)
			for _, d := range test.online {
				f.online(d.gateway, d.account, d.features, d.device)
			}
			h := talkTo("alice", test.dest)
			h.ChannelID = "gateway-1.alice.sending"
			u := &utterance{c: &Context{Packet: wire.LogicPkt{Header: h}, node: f.Node}, draft: storage.Draft{
				App: "demo", Sender: "alice", Kind: storage.KindUser, Dest: test.dest, Duplicate: test.duplicate,
				Members: slices.Compact([]string{"alice", test.dest}),
			}}
			f.dispatch.messages([]*utterance{u})
			require.Equal(t, test.want, f.links.reached())
		})
	}
}

func TestPushOfAMessage(t *testing.T) {
	f := start(t, nil)
	f.online("gateway-1", "bob", syncs, "tab")
	f.online("gateway-2", "bob", old, "")
	f.online("gateway-2", "bob", syncs, "web")
	var resp pb.MessageResp
	f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Type: 2, Body: "hi", Extra: "x", ClientId: "c"}, &resp)
	f.idle()
	pushes := f.links.pushes()
	require.Len(t, pushes, 2, "one packet a gateway")
	slices.SortFunc(pushes, func(a, b pushed) int { return cmp.Compare(a.gateway, b.gateway) })
	header := wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush, Dest: "bob"}
	header.Channels = []string{"gateway-1.bob.tab"}
	require.Equal(t, header, pushes[0].Header)
	p := pushes[1]
	header.Channels = []string{"gateway-2.bob", "gateway-2.bob.web"}
	header.Delivered = []wire.Delivered{{Conversation: 7, From: resp.Seq, To: resp.Seq, MessageID: resp.MessageId}}
	require.Equal(t, header, p.Header, "where a client acknowledges, the gateway learns what it is sent")
	var m pb.MessagePush
	require.NoError(t, proto.Unmarshal(p.Body, &m))
	want := &pb.MessagePush{
		MessageId: resp.MessageId, Type: 2, Body: "hi", Extra: "x", Sender: "alice", SendTime: resp.SendTime,
		Seq: resp.Seq, Conversation: resp.Conversation, ClientId: "c",
	}
	require.True(t, proto.Equal(want, &m), "%v", &m)
}

// A group across gateways: each gets its packet, none a channel of the other (flaw 1), also where
// one of them takes nothing.
func TestPushToAGroup(t *testing.T) {
	f := start(t, nil)
	members := []string{"alice"}
	var want []string
	for i := range 30 {
		account := fmt.Sprint("user-", i)
		members = append(members, account)
		want = append(want, f.online(fmt.Sprint("gateway-", i%3), account, old, "")...)
	}
	f.store.members["demo/9"] = members
	f.links.fails["gateway-1"] = container.ErrNotLinked
	h := asClient("alice", wire.CmdGroupTalk)
	h.Dest = "9"
	f.succeeds(h, &pb.MessageReq{Body: "all"}, nil)
	f.idle()
	pushes := f.links.pushes()
	require.Len(t, pushes, 2)
	for _, p := range pushes {
		require.Equal(t, "9", p.Dest)
		for _, ch := range p.Channels {
			require.Equal(t, p.gateway, ch[:len("gateway-0")])
		}
		require.Len(t, p.Channels, 10)
	}
	slices.Sort(want)
	require.Subset(t, want, f.links.reached())
}

// The channels of one gateway are sent in parts, so that a packet stays far below a link's limit.
func TestManyChannelsAreSentInParts(t *testing.T) {
	f := build(t, nil)
	var targets targets
	for i := range 2*maxChannels + 1 {
		targets.add(&storage.Session{Gateway: "gateway-1", Channel: fmt.Sprintf("gateway-1.%06d", i)})
	}
	f.dispatch.send(targets, wire.Header{Command: wire.CmdGroupTalk}, &pb.MessagePush{Body: "hi"})
	var sizes []int
	seen := map[string]bool{}
	for _, p := range f.links.pushes() {
		sizes = append(sizes, len(p.Channels))
		for _, ch := range p.Channels {
			seen[ch] = true
		}
	}
	require.Equal(t, []int{maxChannels, maxChannels, 1}, sizes)
	require.Len(t, seen, 2*maxChannels+1)
}

// The messages of a batch are pushed in order, and tenants are not mixed.
func TestBatchOfPushes(t *testing.T) {
	f := start(t, func(c *Config) { c.Shards = 1 })
	f.online("gateway-1", "bob", old, "")
	f.store.gate, f.store.entered = make(chan struct{}), make(chan int, 100)
	f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "0"})
	<-f.store.entered
	for i := 1; i < 50; i++ {
		f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: fmt.Sprint(i)})
	}
	other := talkTo("alice", "bob")
	other.App = "another"
	f.give(other, &pb.MessageReq{Body: "of another tenant"})
	close(f.store.gate)
	f.idle()
	pushes := f.links.pushes()
	require.Len(t, pushes, 50)
	for i, p := range pushes {
		var m pb.MessagePush
		require.NoError(t, proto.Unmarshal(p.Body, &m))
		require.Equal(t, fmt.Sprint(i), m.Body)
	}
}

// Pushes that failed because the session store did not answer were lost, and nobody ever learned of
// it: as soon as it answers, all gateways hint all clients, once (I4).
func TestSessionStoreDownHintsAll(t *testing.T) {
	f := start(t, nil)
	f.online("gateway-1", "bob", old, "")
	f.sessions.setDown(true)
	for range 10 {
		f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
	}
	f.idle()
	require.Empty(t, f.links.pushes())
	require.Empty(t, f.links.broadcasts())
	f.sessions.setDown(false)
	f.links.happened.Until(t, "the hint", func() bool { return len(f.links.broadcasts()) > 0 })
	require.Equal(t, []wire.LogicPkt{{Header: wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}, Body: []byte{}}}, f.links.broadcasts())
	f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
	f.idle()
	require.Len(t, f.links.pushes(), 1)
	require.Len(t, f.links.broadcasts(), 1)
}

// hanging answers nothing while it hangs: each command ends with a time-out.
type hanging struct {
	storage.Sessions
	hangs atomic.Bool
}

func (s *hanging) wait() error {
	if !s.hangs.Load() {
		return nil
	}
	time.Sleep(time.Second)
	return errors.New("i/o timeout")
}

func (s *hanging) Changes(ctx context.Context, since string) (storage.Changes, error) {
	if err := s.wait(); err != nil {
		return storage.Changes{}, err
	}
	return s.Sessions.Changes(ctx, since)
}

func (s *hanging) Ping(context.Context) error { return s.wait() }

// While the session store hung, each batch waited for it, and so did the commits behind it: a sender had its answer after a
// time-out, although the database was healthy.
func TestSessionStoreThatHangsStopsNoCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, func(c *Config) { c.LocationAge = age })
		bob := f.online("gateway-1", "bob", syncs, "")
		store := &hanging{Sessions: f.sessions}
		f.dispatch.sessions, f.dispatch.locations.sessions = store, store
		store.hangs.Store(true)
		begin := time.Now()
		for range 100 {
			f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
		}
		f.idle()
		require.Less(t, time.Since(begin), 1500*time.Millisecond, "one time-out for all")
		require.EqualValues(t, 200, f.counter("unpushed_total", "session_store"))
		require.Empty(t, f.links.broadcasts())

		time.Sleep(time.Minute)
		f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
		f.idle()
		require.Empty(t, f.links.broadcasts(), "none can be told yet")
		store.hangs.Store(false)
		f.links.happened.Until(t, "the hint", func() bool { return len(f.links.broadcasts()) > 0 })
		f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
		f.idle()
		require.Equal(t, bob, f.links.reached(), "it is asked again")
		require.Len(t, f.links.broadcasts(), 1)
	})
}

// Nothing is left unpushed when no hint is to come, whatever was the matter before.
func TestLookUpsFailAtOnceOnlyBeforeAHint(t *testing.T) {
	f := build(t, nil)
	bob := []storage.AccountKey{{App: "demo", Account: "bob"}}
	f.sessions.setDown(true)
	_, err := f.dispatch.find(bob)
	require.ErrorIs(t, err, errStoreDown)
	f.sessions.setDown(false)
	_, err = f.dispatch.find(bob)
	require.ErrorIs(t, err, errNotAsked)
	f.dispatch.settle()
	_, err = f.dispatch.find(bob)
	require.NoError(t, err)
	require.Len(t, f.links.broadcasts(), 1)

	f.dispatch.failing.Store(false)
	f.dispatch.missed() // for another reason
	_, err = f.dispatch.find(bob)
	require.NoError(t, err)
}

// A node that stops while it owes hints gives them before.
func TestOwedHintsAreSettled(t *testing.T) {
	f := build(t, nil)
	f.dispatch.settle()
	require.Empty(t, f.links.broadcasts())
	f.dispatch.missed()
	f.dispatch.missed()
	f.dispatch.settle()
	f.dispatch.settle()
	require.Len(t, f.links.broadcasts(), 1)
}

func TestCountOfPushes(t *testing.T) {
	f := build(t, nil)
	f.links.fails = map[string]error{"full": im.ErrQueueFull, "gone": container.ErrNotLinked, "broken": errors.New("x")}
	for _, g := range []string{"full", "gone", "broken", "up"} {
		f.dispatch.send(targets{{gateway: g, channels: []string{"a", "b"}}}, wire.Header{Command: wire.CmdUserTalk}, &pb.MessagePush{})
	}
	require.EqualValues(t, 2, f.counter("pushed_total", ""))
	require.EqualValues(t, 2, f.counter("unpushed_total", "queue_full"))
	require.EqualValues(t, 4, f.counter("unpushed_total", "not_linked"))
}

// counter is the value of a counter, and of its label if it has one.
func (f *fixture) counter(name, label string) float64 {
	f.t.Helper()
	families, err := f.metered.Gather()
	require.NoError(f.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "hermod_logic_"+name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
