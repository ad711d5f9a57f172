package boot

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/naming"
)

// pipe forwards connections to an address until it is told to hold: then nothing moves, in neither
// direction, and nobody is told. Connections that are made meanwhile wait too.
type pipe struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while it forwards; guarded by mu
	conns []net.Conn    // guarded by mu
}

func newPipe(t *testing.T, target string) *pipe {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &pipe{listener: listener, target: target, open: make(chan struct{})}
	close(p.open)
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.release()
		p.wg.Wait()
	})
	return p
}

func (p *pipe) serve() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = from.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, from, to)
		p.mu.Unlock()
		p.wg.Go(func() { p.forward(from, to) })
		p.wg.Go(func() { p.forward(to, from) })
	}
}

func (p *pipe) forward(from, to net.Conn) {
	defer to.Close()   //nolint:errcheck // a pipe
	defer from.Close() //nolint:errcheck // a pipe
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		open := p.open
		p.mu.Unlock()
		<-open
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *pipe) hold() {
	p.mu.Lock()
	p.open = make(chan struct{})
	p.mu.Unlock()
}

func (p *pipe) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// through is a registry whose logic nodes are behind pipes.
type through struct {
	naming.Naming
	t     *testing.T
	mu    sync.Mutex
	pipes map[string]*pipe // by node; guarded by mu
}

func (n *through) pipe(node string) *pipe {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pipes[node]
}

func (n *through) behind(list []naming.Instance) []naming.Instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]naming.Instance, len(list))
	for i, instance := range list {
		if n.pipes[instance.Node] == nil {
			n.pipes[instance.Node] = newPipe(n.t, instance.Address)
		}
		instance.Address = n.pipes[instance.Node].listener.Addr().String()
		out[i] = instance
	}
	return out
}

// Find implements naming.Naming.
func (n *through) Find(ctx context.Context, service string) ([]naming.Instance, error) {
	list, err := n.Naming.Find(ctx, service)
	return n.behind(list), err
}

// Subscribe implements naming.Naming.
func (n *through) Subscribe(service string, f func([]naming.Instance)) (naming.Subscription, error) {
	return n.Naming.Subscribe(service, func(list []naming.Instance) { f(n.behind(list)) })
}

// A link that is half-open, because a network or a node stands still, is found: what is open on it is
// answered, so that clients ask again and another node does it. Who is at the gateway of that link
// learns what the node at its other end has stored meanwhile for others. Nobody loses his connection.
func TestHalfOpenLinkUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	c := newCluster(t)
	logics := []*node[*Logic]{c.logic("logic-0"), c.logic("logic-1")}
	env := c.env()
	network := &through{Naming: env.Naming, t: t, pipes: map[string]*pipe{}}
	env.Naming = network
	cut, whole := c.gatewayOf("gateway-0", env), c.gateway("gateway-1")
	awaitReady(t, logics...)
	awaitReady(t, cut, whole)
	urls := []string{cut.Service.TCP, whole.Service.WS}
	a := startApps(t, 12, func(i int, o *client.Options) { o.URL = urls[(i+i/2)%2] })
	stored(t, logics[0], 20)
	stored(t, logics[1], 20)

	start := time.Now()
	network.pipe("logic-0").hold()
	await(t, "hints", func() bool { return cut.counter(t, "hermod_gateway_hinted_total") > 0 })
	t.Logf("the link is found to be dead after %v", time.Since(start).Round(time.Millisecond))
	require.Less(t, time.Since(start), linkReadWait+3*time.Second)
	a.progress()
	t.Logf("all senders go on after %v", time.Since(start).Round(time.Millisecond))
	require.Zero(t, whole.counter(t, "hermod_gateway_hinted_total"))
	stored(t, logics[0], 20) // for the other gateway
	at := time.Now()
	a.caughtUp()
	t.Logf("all receivers have what they missed after %v", time.Since(at).Round(time.Millisecond))

	start = time.Now()
	network.pipe("logic-0").release()
	hinted := cut.counter(t, "hermod_gateway_hinted_total")
	await(t, "hints", func() bool { return cut.counter(t, "hermod_gateway_hinted_total") > hinted })
	t.Logf("hinted again after %v", time.Since(start).Round(time.Millisecond))
	a.progress()
	trouble, _ := a.unharmed()
	require.Empty(t, trouble)
}
