package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// leaseFixture is a gateway whose links run and whose leases the test steps.
func leaseFixture(t *testing.T) (*fixture, *logic) {
	registry := memory.NewRegistry()
	n := startLogic(t, registry, "logic-1")
	f, _ := build(t, registry, func(c *Config) { c.Lease = time.Hour })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.links.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	f.links.Update([]naming.Instance{n.self})
	await.Until(t, "the link", func() bool { return f.links.Usable() == 1 })
	f.leases.refreshed = time.Now()
	return f, n
}

// online adds sessions that have logged in.
func (f *fixture) online(count int) []*fakeChannel {
	channels := make([]*fakeChannel, count)
	for i := range channels {
		ch := newFakeChannel(fmt.Sprintf("%s.%d", gatewayID, i))
		s := &session{
			identity: newIdentity("", fmt.Sprint("user-", i), "", "", ""),
			ch:       ch, granted: true, online: true, stored: true, features: wire.FeatureSync,
		}
		ch.SetAttachment(s)
		f.deps.Channels.Add(ch)
		channels[i] = ch
	}
	return channels
}

// settle steps until there is nothing to do.
func (f *fixture) settle() {
	f.t.Helper()
	for more := true; more; {
		var err error
		more, err = f.leases.step(context.Background())
		require.NoError(f.t, err)
	}
}

// commands are those of the packets that a logic node got, in order, repeated ones once.
func (n *logic) commands() (out []wire.Command) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.received {
		out = append(out, p.Command)
	}
	return slices.Compact(out)
}

func restored(t *testing.T, packets []wire.LogicPkt) (sizes []int, channels map[string]bool) {
	channels = map[string]bool{}
	for _, p := range packets {
		var req pb.SessionRestoreReq
		require.NoError(t, proto.Unmarshal(p.Body, &req))
		sizes = append(sizes, len(req.Sessions))
		for _, s := range req.Sessions {
			channels[s.Channel] = true
		}
	}
	return sizes, channels
}

func (f *fixture) hintWanted() bool { return len(f.hints.wanted) == 1 }

func TestLostLeaseRestoresInBatches(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	require.Equal(t, []wire.Command{wire.CmdSessionRenew}, n.commands(), "nothing to restore at first")
	<-f.hints.wanted // of the first grant

	f.online(1200)
	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{Lost: true}))
	f.leases.renewed = time.Now().Add(-f.cfg.Lease / 2)
	f.settle()
	sizes, channels := restored(t, n.got(wire.CmdSessionRestore))
	require.Equal(t, []int{500, 500, 200}, sizes)
	require.Len(t, channels, 1200)
	require.True(t, f.hintWanted(), "pushes were lost meanwhile")
}

// A restoration that failed half-way was never finished: the next renewal found the lease.
func TestRestoreGoesOnAfterAFailure(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	<-f.hints.wanted
	f.online(700)
	var calls atomic.Int32
	n.on(wire.CmdSessionRestore, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		if calls.Add(1) == 2 {
			refused(wire.StatusSystemException)(n, a, p)
			return
		}
		reply(&pb.SessionRestoreResp{})(n, a, p)
	})
	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{Lost: true}))
	f.leases.renewed = time.Time{}
	_, err := f.leases.step(t.Context())
	require.NoError(t, err)
	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{}))
	_, err = f.leases.step(t.Context())
	require.NoError(t, err)
	_, err = f.leases.step(t.Context())
	require.Error(t, err)
	require.False(t, f.hintWanted(), "not before all can be reached again")
	f.leases.renewed = time.Now().Add(-f.cfg.Lease / 2) // a renewal in between
	f.settle()
	sizes, channels := restored(t, n.got(wire.CmdSessionRestore))
	require.Equal(t, []int{500, 200, 200}, sizes)
	require.Len(t, channels, 700)
	require.True(t, f.hintWanted())
}

// A renewal whose answer was lost may have been told that the store knew nothing.
func TestFailedRenewalRestores(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	<-f.hints.wanted
	f.online(3)
	n.on(wire.CmdSessionRenew, refused(wire.StatusSystemException))
	f.leases.renewed = time.Now().Add(-f.cfg.Lease / 2)
	_, err := f.leases.step(t.Context())
	require.Error(t, err)
	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{}))
	f.settle()
	_, channels := restored(t, n.got(wire.CmdSessionRestore))
	require.Len(t, channels, 3)
	require.False(t, f.hintWanted(), "the lease has not run out")

	f.leases.renewed = time.Now().Add(-2 * f.cfg.Lease) // it has
	f.settle()
	require.True(t, f.hintWanted())
}

// stampOf is an answer to a login with this stamp.
func stampOf(stamp int64) *wire.LogicPkt {
	return &wire.LogicPkt{Header: wire.Header{Meta: []wire.Meta{{Key: container.MetaStamp, Value: fmt.Sprint(stamp)}}}}
}

// A store that was set back has the lease, but not what was stored last: it says so if it is behind
// the largest stamp; if it has counted on to that meanwhile, a stamp comes for the second time.
func TestStoreThatWentBack(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	<-f.hints.wanted
	f.online(3)
	login := func(stamps ...int64) {
		for _, stamp := range stamps {
			_, _, err := f.loginAnswer(new(session), stampOf(stamp))
			require.NoError(t, err)
		}
	}
	renewal := func() (seen int64) {
		f.leases.renewed = time.Now().Add(-f.cfg.Lease / 2)
		f.settle()
		all := n.got(wire.CmdSessionRenew)
		var req pb.LeaseRenewReq
		require.NoError(t, proto.Unmarshal(all[len(all)-1].Body, &req))
		return req.Stamp
	}
	require.Zero(t, renewal())
	login(1, 3, 2, 0, 0, 5) // answers overtake each other, one is lost, and a store of the release before has none
	require.EqualValues(t, 5, renewal())
	login(6, 4)
	require.EqualValues(t, 6, renewal())
	n.on(wire.CmdSessionRestore, reply(&pb.SessionRestoreResp{Stamp: 9}))
	f.leases.restoreAll()
	f.settle()
	require.EqualValues(t, 9, renewal())
	require.Len(t, n.got(wire.CmdSessionRestore), 1)
	require.False(t, f.hintWanted())

	n.on(wire.CmdSessionRestore, reply(&pb.SessionRestoreResp{}))
	for range 5 {
		renewal() // the largest is never forgotten
	}
	before := len(n.got(wire.CmdSessionRenew))
	login(7, 8, 9, 10, 11)
	f.settle()
	require.Len(t, n.got(wire.CmdSessionRenew), before+1, "is it behind the largest, too?")
	require.Len(t, n.got(wire.CmdSessionRestore), 2)
	require.True(t, f.hintWanted(), "pushes were lost meanwhile")
	<-f.hints.wanted
	login(21, 22, 23)
	require.EqualValues(t, 23, renewal())
	login(24, 21) // of the period before
	login(22, 23) // said once
	f.settle()
	require.Len(t, n.got(wire.CmdSessionRestore), 3)
	<-f.hints.wanted

	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{Lost: true}))
	require.EqualValues(t, 24, renewal())
	n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{}))
	require.Zero(t, renewal(), "the store has said so, and counts from where it is")
	login(20, 21, 22)
	require.EqualValues(t, 22, renewal())
	require.Len(t, n.got(wire.CmdSessionRestore), 4)
}

func TestDisplacedSessionsAreClosed(t *testing.T) {
	f, n := leaseFixture(t)
	channels := f.online(3)
	n.on(wire.CmdSessionRestore, reply(&pb.SessionRestoreResp{Displaced: []string{channels[1].id, "gateway-1.gone"}}))
	f.leases.restoreAll()
	f.settle()
	require.Equal(t, im.ReasonNone, channels[0].reason())
	require.Equal(t, im.ReasonDisplaced, channels[1].reason())
	var p wire.LogicPkt
	require.NoError(t, p.Unmarshal(channels[1].pushed[0]))
	require.Equal(t, wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}, p.Header)

	// One that was kicked and still has an open request has been told why.
	sessionOf(channels[2]).open.Add(1)
	f.deliverPush(&wire.LogicPkt{Header: wire.Header{
		Command: wire.CmdSignIn, Flag: wire.FlagPush, Link: wire.Link{Channels: []string{channels[2].id}},
	}})
	n.on(wire.CmdSessionRestore, reply(&pb.SessionRestoreResp{Displaced: []string{channels[2].id}}))
	f.leases.restoreAll()
	f.settle()
	require.Len(t, channels[2].pushed, 1)
	sessionOf(channels[2]).answered()
	require.Equal(t, im.ReasonDisplaced, channels[2].reason())
}

// Only what is granted is stored again: a login that is under way stores its session by itself, and
// would not learn whom it displaces if we had done so before.
func TestRestoreLeavesOutWhatIsNotGranted(t *testing.T) {
	f, n := leaseFixture(t)
	channels := f.online(3)
	sessionOf(channels[0]).granted = false
	f.deps.Channels.Remove(channels[1].id)
	f.leases.restoreAll()
	f.settle()
	_, stored := restored(t, n.got(wire.CmdSessionRestore))
	require.Equal(t, map[string]bool{channels[2].id: true}, stored)
	require.Len(t, n.got(wire.CmdSessionEnd), 1)
}

// A client that logged in after the lease had ended, and whose LoginResp was still on its way when the sessions
// were stored again, was in no round, and the store had forgotten it by then: it got no pushes, and no hint.
func TestLoginWhileTheLeaseIsLost(t *testing.T) {
	for name, test := range map[string]struct {
		stamp string
		lost  bool // noticed while the login is under way
	}{
		"stored without a lease": {"0", false},
		"lost meanwhile":         {"7", true},
	} {
		t.Run(name, func(t *testing.T) {
			f, n := startPair(t, func(c *Config) { c.Lease = time.Hour })
			renewals := len(n.await(t, wire.CmdSessionRenew, 1))
			var logins atomic.Int32
			n.on(wire.CmdSignIn, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
				stamp := "8"
				if logins.Add(1) == 1 {
					stamp = test.stamp
					if test.lost {
						f.leases.lost()
					}
				}
				granted := wire.LogicPkt{Header: wire.Header{
					Command: p.Command, ChannelID: p.ChannelID, Sequence: p.Sequence, Flag: wire.FlagResponse,
					Meta: []wire.Meta{{Key: container.MetaStamp, Value: stamp}},
				}}
				granted.Body, _ = proto.Marshal(&pb.LoginResp{ChannelId: p.ChannelID, Account: p.Account})
				_ = a.Push(granted.Append(nil))
			})
			f.login("alice", "sync")
			require.EqualValues(t, 2, logins.Load(), "it is not answered before the store has it for sure")
			if !test.lost {
				n.await(t, wire.CmdSessionRenew, renewals+1) // at once
			}
		})
	}
}

// From its grant on a session is stored again with the others, though its client has no LoginResp yet: a loss that
// comes after the look whether there was one.
func TestRestoreIncludesWhatIsGranted(t *testing.T) {
	f, n := leaseFixture(t)
	channels := f.online(1)
	sessionOf(channels[0]).online = false
	f.leases.restoreAll()
	f.settle()
	_, stored := restored(t, n.got(wire.CmdSessionRestore))
	require.Equal(t, map[string]bool{channels[0].id: true}, stored)
}

// Many sessions to end or to restore must not keep the lease from being renewed: it ran out under
// live connections (I6).
func TestRenewalGoesFirst(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	for _, ch := range f.online(1500) {
		f.deps.Channels.Remove(ch.id)
	}
	f.online(600)
	f.leases.restoreAll()
	for range 4 {
		f.leases.renewed = time.Time{} // due again
		for range 2 {
			_, err := f.leases.step(t.Context())
			require.NoError(t, err)
		}
	}
	require.Len(t, n.got(wire.CmdSessionRenew), 5)
	require.NotEmpty(t, f.leases.ended)
	f.settle()
	require.Len(t, n.got(wire.CmdSessionEnd), 3)
}

func TestSessionEndIsRetried(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Lease = time.Hour })
	var calls atomic.Int32
	n.on(wire.CmdSessionEnd, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		if calls.Add(1) <= 2 {
			refused(wire.StatusSystemException)(n, a, p)
			return
		}
		reply(nil)(n, a, p)
	})
	c := f.login("alice")
	c.conn.Close()
	for _, p := range n.await(t, wire.CmdSessionEnd, 3) {
		var req pb.SessionEndReq
		require.NoError(t, proto.Unmarshal(p.Body, &req))
		require.Len(t, req.Sessions, 1)
		require.Equal(t, c.channel, req.Sessions[0].Channel)
	}
}

// While the store is down what is to be ended is bounded: every failed login adds to it.
func TestEndedSessionsAreBounded(t *testing.T) {
	f, _ := build(t, memory.NewRegistry(), nil)
	f.leases.ended = make([]*pb.Session, maxEnded-1)
	for _, ch := range f.online(3) {
		f.deps.Channels.Remove(ch.id)
	}
	require.Len(t, f.leases.ended, maxEnded)
	require.Equal(t, gatewayID+".2", f.leases.ended[maxEnded-1].Channel, "the oldest give way")
	require.EqualValues(t, 2, f.counter("sessions_unended_total", ""))
}

// The first and last words of a gateway to the store, with nothing after the end: a renewal after it
// gave the lease back, and two flushes at once cut each other's batch.
func TestLeaseEndIsTheLastWord(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Lease = 300 * time.Millisecond })
	var clients []*client
	for i := range 20 {
		clients = append(clients, f.login(fmt.Sprint("user-", i)))
	}
	n.await(t, wire.CmdSessionRenew, 3)
	stopped := f.stopping()
	for _, c := range clients {
		c.ended(im.ReasonGoingAway)
	}
	require.NoError(t, <-stopped)
	commands := n.commands()
	require.Equal(t, wire.CmdLeaseEnd, commands[len(commands)-1])
	ended := map[string]bool{}
	for _, p := range n.got(wire.CmdSessionEnd) {
		var req pb.SessionEndReq
		require.NoError(t, proto.Unmarshal(p.Body, &req))
		for _, s := range req.Sessions {
			ended[s.Channel] = true
		}
	}
	require.Len(t, ended, 20)
}
