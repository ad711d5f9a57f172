package container

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// sink is the client of a link that is up and goes nowhere.
type sink struct {
	im.Client
	sent atomic.Int64
}

func (s *sink) Send([]byte) error { s.sent.Add(1); return nil }

// linksTo returns Links that are connected to all of the list, without a network.
func linksTo(list ...naming.Instance) *Links {
	s := newDialler(nil).Links
	s.Update(list)
	for _, l := range s.links {
		l.client = &sink{}
	}
	s.choose()
	return s
}

// run is the ready instance of a node in its n-th run.
func run(node string, n int) naming.Instance {
	return instance(fmt.Sprintf("logic-%s-%d", node, n), node, naming.StateReady, "nowhere:1")
}

const keys = 30_000

// assign returns the peer of each key.
func assign(t *testing.T, s *Links) []string {
	out := make([]string, keys)
	for i := range out {
		l, err := s.Select(Key(fmt.Sprintf("account-%d", i)))
		require.NoError(t, err)
		out[i] = l.Peer()
	}
	return out
}

func TestSelectSpreadsKeysEvenly(t *testing.T) {
	counts := map[string]int{}
	for _, peer := range assign(t, linksTo(run("a", 1), run("b", 1), run("c", 1))) {
		counts[peer]++
	}
	require.Len(t, counts, 3)
	for peer, n := range counts {
		require.InEpsilon(t, keys/3, n, 0.05, peer)
	}
}

func TestSelectMovesKeysToANewNodeOnly(t *testing.T) {
	before := assign(t, linksTo(run("a", 1), run("b", 1), run("c", 1)))
	after := assign(t, linksTo(run("a", 1), run("b", 1), run("c", 1), run("d", 1)))
	moved := 0
	for i := range before {
		if before[i] != after[i] {
			moved++
			require.Equal(t, run("d", 1).ID, after[i])
		}
	}
	require.InEpsilon(t, keys/4, moved, 0.05)
}

func TestSelectIsStableAcrossARestart(t *testing.T) {
	before := assign(t, linksTo(run("a", 1), run("b", 1), run("c", 1)))
	after := assign(t, linksTo(run("a", 1), run("b", 2), run("c", 1)))
	for i := range before {
		if before[i] == run("b", 1).ID {
			require.Equal(t, run("b", 2).ID, after[i])
		} else {
			require.Equal(t, before[i], after[i])
		}
	}
}

// Nodes of one name, as on one host that gave them none, had all keys on one of them.
func TestSelectSpreadsOverNodesOfOneName(t *testing.T) {
	counts := map[string]int{}
	for _, peer := range assign(t, linksTo(run("host", 1), run("host", 2))) {
		counts[peer]++
	}
	for peer, n := range counts {
		require.InEpsilon(t, keys/2, n, 0.05, peer)
	}
}

// Which links are chosen from, after what the registry and the peers say.
func TestUsable(t *testing.T) {
	a, b := run("a", 1), run("b", 1)
	joining := b
	joining.State = naming.StateJoining
	for _, test := range []struct {
		name   string
		change func(*Links)
		usable []string
	}{
		{"both are ready", func(*Links) {}, []string{a.ID, b.ID}},
		{"one is joining", func(s *Links) { s.Update([]naming.Instance{a, joining}) }, []string{a.ID}},
		{"one has left the registry", func(s *Links) { s.Update([]naming.Instance{a}) }, []string{a.ID}},
		{"the registry is empty", func(s *Links) { s.Update(nil) }, []string{a.ID, b.ID}},
		{"one drains", func(s *Links) { s.links[b.ID].drain() }, []string{a.ID}},
		{"both drain", func(s *Links) { s.links[a.ID].drain(); s.links[b.ID].drain() }, nil},
		{"one drains and the other has left", func(s *Links) { s.links[b.ID].drain(); s.Update([]naming.Instance{b}) }, []string{a.ID}},
		{"one is down", func(s *Links) { s.links[b.ID].down(io.EOF) }, []string{a.ID}},
		{"one is down and the other has left", func(s *Links) { s.links[b.ID].down(io.EOF); s.Update(nil) }, []string{a.ID}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := linksTo(a, b)
			test.change(s)
			var got []string
			for _, l := range *s.usable.Load() {
				got = append(got, l.Peer())
			}
			slices.Sort(got)
			require.Equal(t, test.usable, got)
			_, err := s.Select(Key("k"))
			if len(test.usable) == 0 {
				require.ErrorIs(t, err, ErrNoPeer)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

func TestUnlinked(t *testing.T) {
	a, b, c := run("a", 1), run("b", 1), run("c", 1)
	s := linksTo(a, b)
	require.Empty(t, s.Unlinked([]naming.Instance{a, b}))
	// A node that the registry was asked about before the subscription has told of it was not missed.
	require.Equal(t, []string{c.ID}, s.Unlinked([]naming.Instance{a, c}))
	c.State = naming.StateJoining
	require.Empty(t, s.Unlinked([]naming.Instance{a, c}), "it takes no traffic")
	s.links[b.ID].down(io.EOF)
	require.Equal(t, []string{b.ID}, s.Unlinked([]naming.Instance{a, b}))
	s.links[a.ID].drain()
	s.links[a.ID].down(io.EOF)
	require.Equal(t, []string{b.ID}, s.Unlinked([]naming.Instance{a, b}), "a drained peer is not waited for")
}

func TestForwardIsAnswered(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	d := startDialler(t, n.self)
	d.awaitUsable(t, 1)
	req, payload := talk("c1", 7)
	require.NoError(t, d.Forward(Key("k"), req, payload))
	d.Until(t, "the answer", func() bool { return len(d.packets()) == 1 })
	require.Equal(t, uint32(7), d.packets()[0].Sequence)
	require.Equal(t, "c1", n.packets()[0].ChannelID)
	l, err := d.Select(0)
	require.NoError(t, err)
	require.False(t, l.Answered(req), "it is not open any more")
}

// A client that repeats a sequence has as many open requests, not one: what was counted open for it
// was never counted off, and its channel never closed on leaving.
func TestRepeatedSequenceIsOpenAsOften(t *testing.T) {
	s := linksTo(run("a", 1))
	req, payload := talk("c1", 1)
	for range 2 {
		require.NoError(t, s.Forward(0, req, payload))
	}
	l, err := s.Select(0)
	require.NoError(t, err)
	require.True(t, l.Answered(req))
	require.True(t, l.Answered(req))
	require.False(t, l.Answered(req))
}

func TestDownReportsOpenRequestsOnce(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	n.setHandle(mute)
	d := startDialler(t, n.self)
	d.awaitUsable(t, 1)
	want := map[Open]int{}
	for i := range uint32(5) {
		req, payload := talk("c", i/2) // 0 0 1 1 2
		want[req]++
		require.NoError(t, d.Forward(uint64(i), req, payload))
	}
	n.Until(t, "the requests", func() bool { return n.count() == 5 })
	n.stop()
	d.Until(t, "the end of the link", func() bool { return len(d.downList()) == 1 })
	require.Equal(t, down{"logic-1", want, false}, d.downList()[0])
	require.Empty(t, d.link("logic-1").requests())
	req, payload := talk("c", 9)
	require.ErrorIs(t, d.Forward(0, req, payload), ErrNoPeer)
}

// link is the link to a peer; nil if there is none.
func (s *Links) link(peer string) *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[peer]
}

// requests are those that are open.
func (l *Link) requests() map[Open]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.open)
}

// A request that finds its link broken goes to another node: it was answered with an error before,
// though it was on no wire yet.
func TestForwardGoesAroundABrokenLink(t *testing.T) {
	a, b := run("a", 1), run("b", 1)
	s := linksTo(a, b)
	broken := s.links[a.ID]
	broken.client = nil // and choose has not been called yet
	for i := range uint64(100) {
		req, payload := talk("c", uint32(i))
		require.NoError(t, s.Forward(mix(i), req, payload))
	}
	require.Len(t, s.links[b.ID].open, 100)
	require.Empty(t, broken.open)
}

func TestRedialAfterThePeerComesBack(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	joining := n.self
	joining.State = naming.StateJoining
	d := startDialler(t, joining)
	d.awaitUps(t, false) // a peer that takes no traffic yet has had nothing to say
	d.Update([]naming.Instance{n.self})
	d.awaitUsable(t, 1)

	n.stop()
	d.Until(t, "the end of the link", func() bool { return len(d.downList()) == 1 })
	require.Zero(t, d.Usable())
	require.Equal(t, []string{"logic-1"}, d.Unlinked([]naming.Instance{n.self}))

	startNode(t, "logic-1", n.self.Address)
	d.awaitUsable(t, 1)
	d.awaitUps(t, false, true)
	require.Len(t, d.downList(), 1)
}

// Pushes of a node that takes traffic before it is linked are lost as well: nobody was told.
func TestUpTellsThatAReadyPeerWasMissed(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	d := startDialler(t, n.self)
	d.awaitUps(t, true)
}

// A peer that the registry forgot and found again had a second link, which displaced the first and
// failed what was open on it.
func TestRelistedPeerKeepsItsLink(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	n.setHandle(mute)
	d := startDialler(t, n.self)
	d.awaitUsable(t, 1)
	req, payload := talk("c", 1)
	require.NoError(t, d.Forward(0, req, payload))
	link := d.link("logic-1")

	for range 10 {
		d.Update(nil)
		require.Equal(t, 1, d.Usable(), "a node that is known is used while the registry is empty")
		d.Update([]naming.Instance{n.self})
	}
	require.Same(t, link, d.link("logic-1"))
	require.Equal(t, 1, d.Usable())
	require.Contains(t, link.requests(), req)

	d.Update(nil)
	n.stop()
	d.Until(t, "the link is forgotten", func() bool { return d.link("logic-1") == nil })
	require.Len(t, d.upList(), 1)
	require.Len(t, d.downList(), 1)

	back := startNode(t, "logic-1", n.self.Address)
	d.Update([]naming.Instance{back.self})
	d.awaitUsable(t, 1)
}

func TestRequest(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	late, cancel := context.WithCancel(t.Context())
	answers := map[wire.Command]func(im.Agent, *wire.LogicPkt){
		wire.CmdSessionRenew: func(a im.Agent, p *wire.LogicPkt) {
			p.Flag = wire.FlagResponse
			_ = a.Push(marshal(p.Header, &pb.LeaseRenewResp{Lost: true}))
		},
		wire.CmdSessionEnd: func(a im.Agent, p *wire.LogicPkt) {
			p.Flag, p.Status = wire.FlagResponse, wire.StatusSystemException
			_ = a.Push(marshal(p.Header, &pb.ErrorResp{Message: "busy"}))
		},
		wire.CmdLeaseEnd: func(a im.Agent, p *wire.LogicPkt) { a.(im.Channel).Close(im.ReasonGoingAway) },
		wire.CmdSync:     func(im.Agent, *wire.LogicPkt) { cancel() },
	}
	n.setHandle(func(a im.Agent, p *wire.LogicPkt) { answers[p.Command](a, p) })
	d := startDialler(t, n.self)
	d.awaitUsable(t, 1)
	l := d.link("logic-1")

	var resp pb.LeaseRenewResp
	require.NoError(t, l.Request(t.Context(), wire.Header{Command: wire.CmdSessionRenew}, &pb.LeaseRenewReq{}, &resp))
	require.True(t, resp.Lost)

	err := l.Request(t.Context(), wire.Header{Command: wire.CmdSessionEnd}, nil, nil)
	var refused *wire.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, wire.Error{Status: wire.StatusSystemException, Message: "busy"}, *refused)

	require.ErrorIs(t, l.Request(late, wire.Header{Command: wire.CmdSync}, nil, nil), context.Canceled)
	require.ErrorIs(t, l.Request(t.Context(), wire.Header{Command: wire.CmdLeaseEnd}, nil, nil), ErrLinkDown)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.waiters)
}

// A stopping node must get nothing after the answer to its link.drain: it was not handled any more,
// and its client got an error in the middle of a graceful stop.
func TestDrainMovesTrafficWithoutLoss(t *testing.T) {
	a, b := startNode(t, "logic-a", "127.0.0.1:0"), startNode(t, "logic-b", "127.0.0.1:0")
	d := startDialler(t, a.self, b.self)
	d.awaitUsable(t, 2)

	const underWay = 1000 // more would fill the link's queue when the machine is busy elsewhere
	var forwarded atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for n := uint32(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if forwarded.Load()-int64(len(d.packets())) > underWay { // as clients wait for their answers
					runtime.Gosched()
					continue
				}
				req, payload := talk(fmt.Sprint("c", i), n)
				if err := d.Forward(mix(uint64(n)), req, payload); err != nil {
					t.Errorf("forward: %v", err)
					return
				}
				forwarded.Add(1)
			}
		})
	}
	d.Until(t, "traffic", func() bool { return a.count() > 1000 && b.count() > 1000 })
	require.NoError(t, b.Drain(t.Context()))
	handled := b.count()
	require.NoError(t, b.server.Shutdown(context.Background()))
	d.Until(t, "the end of the link", func() bool { return len(d.downList()) == 1 })
	close(stop)
	clients.Wait()
	require.Equal(t, handled, b.count(), "nothing may come after the answer to link.drain")
	require.True(t, d.downList()[0].clean)
	require.Empty(t, d.downList()[0].open)
	d.Until(t, "all answers", func() bool { return int64(len(d.packets())) == forwarded.Load() })
	require.EqualValues(t, forwarded.Load(), a.count()+b.count())
}

// A drained node still pushes what others had forwarded to it. If its link does not end in order, that may be lost, and it
// was not told to anybody: all that was asked for was that the link had been drained and nothing was open.
func TestDrainedLinkEnds(t *testing.T) {
	packet := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, Body: make([]byte, 16<<10)}
	payload := packet.Append(nil)
	for _, test := range []struct {
		name  string
		end   func(n *node, cut func())
		clean bool
	}{
		{"in order", func(n *node, _ func()) {
			go func() { _ = n.server.Shutdown(context.Background()) }()
		}, true},
		{"cut", func(_ *node, cut func()) { cut() }, false},
		{"with a full queue", func(n *node, _ func()) {
			for n.Push("gateway-1", payload) == nil {
			}
			go func() { _ = n.server.Shutdown(context.Background()) }()
		}, false},
	} {
		for name, driver := range map[string]transport.Driver{"auto": transport.DriverAuto, "goroutine": transport.DriverGoroutine} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				n := startNode(t, "logic-1", "127.0.0.1:0")
				self := n.self
				var cut func()
				self.Address, cut = relay(t, n.self.Address)
				d := newDialler(func(id, name string) im.Client {
					return tcp.NewClient(id, name, transport.ClientOptions{Driver: driver})
				})
				d.start(t, self)
				d.awaitUsable(t, 1)
				require.NoError(t, n.Drain(t.Context()))
				d.mu.Lock() // it receives nothing
				require.NoError(t, n.Push("gateway-1", payload))
				test.end(n, cut)
				d.mu.Unlock()
				d.Until(t, "the end of the link", func() bool { return len(d.downList()) == 1 })
				require.Equal(t, test.clean, d.downList()[0].clean)
			})
		}
	}
}

// relay stands between a dialler and the address of a node. cut ends the connection on both sides, which say nothing more.
func relay(t *testing.T, to string) (address string, cut func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns := make(chan net.Conn, 2)
	var copying sync.WaitGroup
	copying.Go(func() {
		defer close(conns)
		here, err := ln.Accept()
		if err != nil {
			return
		}
		_ = ln.Close()
		conns <- here
		there, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		conns <- there
		copying.Go(func() {
			_, _ = io.Copy(here, there)
			_ = here.(*net.TCPConn).CloseWrite()
		})
		copying.Go(func() {
			_, _ = io.Copy(there, here)
			_ = there.(*net.TCPConn).CloseWrite()
		})
	})
	cut = func() {
		_ = ln.Close()
		for conn := range conns {
			_ = conn.Close()
		}
		copying.Wait()
	}
	t.Cleanup(cut)
	return ln.Addr().String(), cut
}

func TestRunEndsAllLinks(t *testing.T) {
	a, b := startNode(t, "logic-a", "127.0.0.1:0"), startNode(t, "logic-b", "127.0.0.1:0")
	dead := instance("logic-c", "c", naming.StateReady, "127.0.0.1:1")
	d := newDialler(nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	d.Update([]naming.Instance{a.self, b.self, dead})
	d.awaitUsable(t, 2)
	stop()
	<-ended
	require.Zero(t, d.Usable())
	for _, n := range []*node{a, b} {
		n.Until(t, "the link's end", func() bool { return !n.Linked("gateway-1") })
	}
	d.Update([]naming.Instance{a.self}) // too late: nothing is started
	require.Zero(t, d.Usable())
	require.Equal(t, []string{"logic-a", "logic-b", "logic-c"}, slices.Sorted(maps.Keys(d.links)))
}

// A malformed packet ends the link, on both sides: what it was would never be answered.
func TestMalformedPacketEndsTheLink(t *testing.T) {
	for _, test := range []struct {
		name string
		send func(d *dialler, n *node) error
	}{
		{"from the dialling side", func(d *dialler, _ *node) error {
			l := d.link("logic-1")
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.client.Send([]byte("garbage"))
		}},
		{"from the accepting side", func(_ *dialler, n *node) error { return n.Push("gateway-1", []byte("garbage")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := startNode(t, "logic-1", "127.0.0.1:0")
			d := startDialler(t, n.self)
			d.awaitUsable(t, 1)
			n.Until(t, "the link", func() bool { return n.Linked("gateway-1") })
			require.NoError(t, test.send(d, n))
			d.Until(t, "another link", func() bool { return len(d.upList()) == 2 })
			require.Len(t, d.downList(), 1)
			require.Zero(t, n.count())
		})
	}
}

// A link that breaks as soon as it is up is dialled with growing pauses: the backoff was reset by
// every handshake, and each time all clients were hinted.
func TestBackoffOfALinkThatBreaksAtOnce(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	up := make(chan time.Time, 16)
	n.opts.Changed = func() {
		n.Hub.mu.RLock()
		defer n.Hub.mu.RUnlock()
		if ch, ok := n.peers["gateway-1"]; ok {
			select {
			case up <- time.Now():
			default:
			}
			go ch.Close(im.ReasonInternal)
		}
	}
	startDialler(t, n.self)
	first := <-up
	var last time.Time
	for range 5 {
		last = <-up
	}
	// 50 ms growing by half each time, jittered by half: at least 25+37+56+84+126 ms.
	require.Greater(t, last.Sub(first), 300*time.Millisecond)
}
