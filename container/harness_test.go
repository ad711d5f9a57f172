package container

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("the secret of the tests, 32 bytes")

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

func instance(id, node string, state naming.State, address string) naming.Instance {
	return naming.Instance{ID: id, Service: naming.ServiceLogic, Node: node, Address: address, State: state}
}

// node is the accepting side: a hub behind a server. It answers every request with success, unless
// it is told otherwise.
type node struct {
	*Hub
	await.Events
	self   naming.Instance
	server *transport.Server

	mu       sync.Mutex
	handle   func(im.Agent, *wire.LogicPkt)
	received []wire.LogicPkt
}

func mute(im.Agent, *wire.LogicPkt) {}

// succeed answers with an empty body.
func succeed(a im.Agent, p *wire.LogicPkt) {
	answer := wire.LogicPkt{Header: p.Header}
	answer.Flag, answer.Link = wire.FlagResponse, wire.Link{}
	_ = a.Push(answer.Append(nil))
}

// startNode listens on the address, which may be "127.0.0.1:0", until stop or the test's end.
func startNode(t *testing.T, id, address string, change ...func(*Hub)) *node {
	n := &node{Events: await.NewEvents(), handle: succeed}
	n.server = transport.NewServer(transport.Options{Driver: transport.DriverGoroutine},
		transport.Endpoint{Address: address, Protocol: tcp.Protocol()})
	require.NoError(t, n.server.Listen())
	n.self = instance(id, id, naming.StateReady, n.server.Addr(0).String())
	n.Hub = NewHub(HubOptions{Self: n.self, Secret: secret, Receive: n.receive, Changed: n.Happened, Log: quiet()})
	for _, f := range change {
		f(n.Hub)
	}
	n.server.SetAcceptor(n.Hub)
	n.server.SetMessageListener(n.Hub)
	n.server.SetStateListener(n.Hub)
	ended := make(chan error, 1)
	go func() { ended <- n.server.Start() }()
	t.Cleanup(func() {
		n.stop()
		require.NoError(t, <-ended)
	})
	return n
}

// stop closes the listener and cuts the links.
func (n *node) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.server.Shutdown(now)
	_ = n.server.Shutdown(context.Background()) // waits for the first to be through
}

func (n *node) receive(_ string, a im.Agent, p *wire.LogicPkt) {
	n.mu.Lock()
	n.received = append(n.received, *p)
	handle := n.handle
	n.mu.Unlock()
	handle(a, p)
	n.Happened()
}

func (n *node) count() int { return len(n.packets()) }

func (n *node) packets() []wire.LogicPkt {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.received[:len(n.received):len(n.received)]
}

func (n *node) setHandle(f func(im.Agent, *wire.LogicPkt)) {
	n.mu.Lock()
	n.handle = f
	n.mu.Unlock()
}

// dialler is the dialling side, and what it has been told.
type dialler struct {
	*Links
	await.Events

	mu       sync.Mutex
	ups      []bool // missed
	downs    []down
	received []wire.LogicPkt
}

type down struct {
	peer  string
	open  map[Open]int
	clean bool
}

func tcpClient(id, name string) im.Client {
	return tcp.NewClient(id, name, transport.ClientOptions{DialWait: time.Second})
}

// newDialler makes the Links of a gateway; nil: a TCP client.
func newDialler(newClient func(id, name string) im.Client) *dialler {
	if newClient == nil {
		newClient = tcpClient
	}
	d := &dialler{Events: await.NewEvents()}
	d.Links = NewLinks(LinksOptions{
		Self:      naming.Instance{ID: "gateway-1", Service: naming.ServiceGateway, Node: "gateway"},
		Secret:    secret,
		NewClient: newClient,
		Receive:   d.receive,
		Up: func(_ *Link, missed bool) {
			d.mu.Lock()
			d.ups = append(d.ups, missed)
			d.mu.Unlock()
			d.Happened()
		},
		Down: func(l *Link, open map[Open]int, clean bool) {
			d.mu.Lock()
			d.downs = append(d.downs, down{l.Peer(), open, clean})
			d.mu.Unlock()
			d.Happened()
		},
		Changed: d.Happened,
		Log:     quiet(),
	})
	return d
}

// startDialler is newDialler with Run, until the test's end.
func startDialler(t *testing.T, peers ...naming.Instance) *dialler {
	d := newDialler(nil)
	d.start(t, peers...)
	return d
}

func (d *dialler) start(t *testing.T, peers ...naming.Instance) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	d.Update(peers)
}

func (d *dialler) receive(l *Link, p *wire.LogicPkt) {
	if p.Flag == wire.FlagResponse {
		l.Answered(Open{Channel: p.ChannelID, Sequence: p.Sequence, Command: p.Command})
	}
	c := *p
	c.Body = append([]byte(nil), p.Body...)
	d.mu.Lock()
	d.received = append(d.received, c)
	d.mu.Unlock()
	d.Happened()
}

func (d *dialler) upList() []bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ups[:len(d.ups):len(d.ups)]
}

func (d *dialler) downList() []down {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.downs[:len(d.downs):len(d.downs)]
}

func (d *dialler) packets() []wire.LogicPkt {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.received[:len(d.received):len(d.received)]
}

// awaitUps waits until links have come up as often as this, with pushes missed or not.
func (d *dialler) awaitUps(t *testing.T, missed ...bool) {
	t.Helper()
	d.Until(t, "links to come up", func() bool { return len(d.upList()) == len(missed) })
	require.Equal(t, missed, d.upList())
}

// awaitUsable waits until n links can be chosen from.
func (d *dialler) awaitUsable(t *testing.T, n int) {
	t.Helper()
	d.Until(t, "usable links", func() bool { return d.Usable() == n })
}

// talk is a client's request as it goes over a link.
func talk(channel string, sequence uint32) (Open, []byte) {
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, ChannelID: channel, Sequence: sequence}}
	return Open{Channel: channel, Sequence: sequence, Command: wire.CmdUserTalk}, p.Append(nil)
}

// pipeDialer connects a client with the other end of a pipe.
type pipeDialer struct{ ends chan net.Conn }

func (d pipeDialer) DialAndHandshake(im.DialerContext) (net.Conn, error) {
	here, there := net.Pipe()
	d.ends <- there
	return here, nil
}
