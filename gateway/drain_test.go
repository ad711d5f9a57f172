package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// stopping begins to stop the gateway and waits until it says so.
func (f *fixture) stopping() <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- f.stop() }()
	<-f.draining
	return ended
}

// leaving waits until the channel has been told to go.
func (f *fixture) leaving(c *client) *session {
	ch, ok := f.deps.Channels.Get(c.channel)
	require.True(f.t, ok)
	s := sessionOf(ch)
	await.Until(f.t, "the channel is leaving", s.isLeaving)
	return s
}

func TestDrainAnswersOpenRequestsFirst(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 1)
	n.on(wire.CmdUserTalk, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { respond(a, p, wire.StatusSuccess, nil) }
	})
	busy, idle := f.login("alice"), f.login("bob")
	busy.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	answer := <-asked
	ended := f.stopping()
	idle.ended(im.ReasonGoingAway)
	f.leaving(busy)
	list, err := f.registry.Client().Find(t.Context(), naming.ServiceGateway)
	require.NoError(t, err)
	require.Empty(t, list, "it has left the registry before")

	late := f.dial()
	late.sendLogin(&pb.LoginReq{Token: tokenOf("late")})
	late.answered(wire.CmdSignIn, 1, wire.StatusSystemException)
	late.ended(im.ReasonUnavailable)

	answer()
	busy.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	busy.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
	require.Zero(t, f.connections.Load())
}

// The answer that a link broke came after the close of a channel that was leaving: never.
func TestDrainAnswersWhatALinkLost(t *testing.T) {
	f, n := startPair(t, nil)
	n.on(wire.CmdUserTalk, mute)
	c := f.login("alice")
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	n.await(t, wire.CmdUserTalk, 1)
	ended := f.stopping()
	f.leaving(c)
	n.stop()
	c.answered(wire.CmdUserTalk, 1, wire.StatusSystemException)
	c.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
}

// A login that is under way is answered too, and its client told to go.
func TestDrainAnswersLogins(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 2)
	n.on(wire.CmdSignIn, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { signInHandler(n, a, p) }
	})
	old, moves := f.another().dial(), f.dial()
	old.sendLogin(&pb.LoginReq{Token: tokenOf("alice")})
	moves.sendLogin(&pb.LoginReq{Token: tokenOf("bob"), Features: []string{"goaway"}})
	answers := []func(){<-asked, <-asked}
	ended := f.stopping()
	for _, answer := range answers {
		answer()
	}
	old.answered(wire.CmdSignIn, 1, wire.StatusSuccess)
	old.ended(im.ReasonGoingAway)
	moves.answered(wire.CmdSignIn, 1, wire.StatusSuccess)
	require.Zero(t, moves.goneAway())
	moves.conn.Close()
	require.NoError(t, <-ended)
}

// another registers a gateway to which clients can move.
func (f *fixture) another() *fixture {
	f.t.Helper()
	f.register("gateway-2")
	return f
}

func (f *fixture) register(gateway string) naming.Naming {
	f.t.Helper()
	client := f.registry.Client()
	require.NoError(f.t, client.Register(f.t.Context(), naming.Instance{
		ID: gateway, Service: naming.ServiceGateway, Node: gateway, Address: "127.0.0.1:1", State: naming.StateReady,
	}))
	return client
}

// A gateway whose clients cannot go anywhere does not keep them waiting.
func TestGoAwayIsNotForTheOnlyGateway(t *testing.T) {
	f, _ := startPair(t, func(c *Config) { c.Drain = time.Hour })
	c := f.login("alice", "goaway")
	ended := f.stopping()
	c.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
	require.Zero(t, f.counter("goaways_total", ""))
}

// When all gateways stop, none waits for its clients to move to another.
func TestGoAwayEndsWithTheOtherGateways(t *testing.T) {
	f, _ := startPair(t, func(c *Config) { c.Drain = time.Hour })
	other := f.register("gateway-2")
	c := f.login("alice", "goaway")
	ended := f.stopping()
	c.goneAway()
	require.NoError(t, other.Deregister(t.Context(), "gateway-2"))
	c.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
	require.EqualValues(t, 1, f.counter("drained_total", "closed"))
}

// goneAway reads gateway.goaway.
func (c *client) goneAway() time.Duration {
	c.t.Helper()
	p := c.read()
	require.Equal(c.t, wire.Header{Command: wire.CmdGoAway, Flag: wire.FlagPush}, p.Header)
	var m pb.GoAway
	require.NoError(c.t, proto.Unmarshal(p.Body, &m))
	return time.Duration(m.DelayMs) * time.Millisecond
}

// A client that understands gateway.goaway is served as ever until it has moved, and nobody waits
// once it has (I8).
func TestGoAway(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Drain = time.Hour })
	c, other := f.another().login("alice", "goaway"), f.login("bob", "goaway")
	ended := f.stopping()
	await.Until(t, "that it is not ready", func() bool { return f.Ready() != nil && f.Ready().Error() == "draining" })
	for _, c := range []*client{c, other} {
		require.LessOrEqual(t, c.goneAway(), time.Second, "two clients need no spreading")
		c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
		c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
		n.push(t, wire.CmdUserTalk, nil, c.channel)
		require.Equal(t, wire.FlagPush, c.read().Flag)
	}
	// One is displaced by its own login elsewhere, the other closes when it has logged in.
	n.push(t, wire.CmdSignIn, &pb.KickoutNotify{ChannelId: c.channel, Reason: "reconnected"}, c.channel)
	require.Equal(t, wire.CmdSignIn, c.read().Command)
	c.ended(im.ReasonDisplaced)
	other.conn.Close()
	require.NoError(t, <-ended)
	require.EqualValues(t, 2, f.counter("goaways_total", ""))
	require.EqualValues(t, 2, f.counter("drained_total", "moved"))
	require.Zero(t, f.counter("drained_total", "closed"))
	commands := n.commands()
	require.Equal(t, wire.CmdLeaseEnd, commands[len(commands)-1])
}

// A client that does not move in time is closed, after its answer.
func TestGoAwayThatIsIgnored(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 1)
	n.on(wire.CmdUserTalk, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { respond(a, p, wire.StatusSuccess, nil) }
	})
	c := f.another().login("alice", "goaway")
	start := time.Now()
	ended := f.stopping()
	c.goneAway()
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	answer := <-asked
	f.leaving(c)
	require.Greater(t, time.Since(start), f.cfg.Drain*moveGrace/100-10*time.Millisecond)
	answer()
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	c.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
	require.Zero(t, f.counter("drained_total", "moved"))
	require.EqualValues(t, 1, f.counter("drained_total", "closed"))
}

// A gateway that stops serves its clients with logic nodes that come meanwhile.
func TestDrainFollowsTheLogicNodes(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Drain = time.Hour })
	c := f.another().login("alice", "goaway", "sync")
	ended := f.stopping()
	c.goneAway()
	startLogic(t, f.registry, "logic-2")
	await.Until(t, "the second link", func() bool { return f.links.Usable() == 2 })
	n.stop()
	await.Until(t, "the end of the first", func() bool { return f.links.Usable() == 1 })
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	p := c.read()
	for p.Command == wire.CmdSyncHint {
		p = c.read()
	}
	require.Equal(t, wire.StatusSuccess, p.Status)
	c.conn.Close()
	require.NoError(t, <-ended)
}

// A registry that hung took the time in which clients move: those that had not were cut off with their requests open (I7, I8).
func TestDrainWhileTheRegistryHangs(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Drain = time.Hour })
	c := f.another().login("alice", "goaway")
	goOn := f.naming.hang()
	defer goOn()
	ended := f.stopping()
	c.goneAway()
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	c.conn.Close()
	n.await(t, wire.CmdLeaseEnd, 1) // without a client it is over
	goOn()
	require.NoError(t, <-ended)
	require.EqualValues(t, 1, f.counter("drained_total", "moved"))
	list, err := f.registry.Client().Find(t.Context(), naming.ServiceGateway)
	require.NoError(t, err)
	require.Len(t, list, 1, "what could not be said at first was said in the end")
	require.Equal(t, "gateway-2", list[0].ID)
}

// When the time of a drain was over before clients were to have moved, it asked the registry in a loop without a pause.
func TestDrainEndsWithItsTime(t *testing.T) {
	f, _ := startPair(t, func(c *Config) { c.Drain = time.Hour })
	f.another().login("alice", "goaway")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.moveClients(over)
	}()
	select {
	case <-ended:
	case <-time.After(await.Patience):
		t.Error("it goes on without time")
	}
}

func TestMoveDelay(t *testing.T) {
	for _, test := range []struct {
		span, elapsed time.Duration
		random        float64
		want          time.Duration
	}{
		{6 * time.Second, 0, 0, 0},
		{6 * time.Second, 0, 0.5, 3 * time.Second},
		{6 * time.Second, time.Second, 0.5, 2 * time.Second},
		{6 * time.Second, time.Second, 0.1, 0},
		{0, 0, 0.9, 0},
	} {
		require.Equal(t, test.want, moveDelay(test.span, test.elapsed, test.random), test)
	}
}

func TestDrainSpreadsTheClosesAndEndsInTime(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.Drain = 500 * time.Millisecond })
	n.on(wire.CmdUserTalk, mute)
	stuck := f.login("stuck") // its request is never answered
	stuck.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	n.await(t, wire.CmdUserTalk, 1)
	var clients []*client
	for i := range 120 {
		clients = append(clients, f.login(fmt.Sprint("user-", i)))
	}
	start := time.Now()
	ended := f.stopping()
	for _, c := range clients {
		c.ended(im.ReasonGoingAway)
	}
	require.GreaterOrEqual(t, time.Since(start), 100*time.Millisecond, "1,000 a second")
	stuck.ended(im.ReasonGoingAway)
	require.NoError(t, <-ended)
}

// Nothing waits for a gateway without clients, or without anybody else.
func TestDrainAlone(t *testing.T) {
	f := start(t, memory.NewRegistry(), nil)
	require.Error(t, f.Ready())
	require.NoError(t, f.stop())
}

// A server that cannot serve ends the gateway, which leaves the registry.
func TestRunFailsWithItsServer(t *testing.T) {
	registry := memory.NewRegistry()
	f, server := build(t, registry, nil)
	require.NoError(t, server.Shutdown(context.Background()))
	err := f.Run(t.Context())
	require.ErrorIs(t, err, im.ErrServerClosed)
	list, err := registry.Client().Find(t.Context(), naming.ServiceGateway)
	require.NoError(t, err)
	require.Empty(t, list)
}

// The gateway is ready with a lease and a logic node, says why it is not, and recovers.
func TestReady(t *testing.T) {
	registry := memory.NewRegistry()
	f := start(t, registry, nil)
	await.Until(t, "a reason", func() bool {
		err := f.Ready()
		return err != nil && err.Error() == "no ready logic node is connected"
	})
	n := startLogic(t, registry, "logic-1")
	var down atomic.Bool
	down.Store(true)
	n.on(wire.CmdSessionRenew, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		if down.Load() {
			refused(wire.StatusSystemException)(n, a, p)
			return
		}
		reply(&pb.LeaseRenewResp{})(n, a, p)
	})
	n.await(t, wire.CmdSessionRenew, 2)
	await.Until(t, "the session store as the reason", func() bool {
		err := f.Ready()
		return err != nil && strings.HasPrefix(err.Error(), "no lease for sessions")
	})
	down.Store(false)
	f.ready()
	registry.SetDown(true)
	n.stop()
	await.Until(t, "unreadiness", func() bool { return f.Ready() != nil })
	registry.SetDown(false)
	startLogic(t, registry, "logic-2")
	f.ready()
}
