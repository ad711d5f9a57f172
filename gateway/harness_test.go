package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("the secret of the tests, 32 bytes")

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

// handler is what a logic node of the tests does with a request.
type handler func(n *logic, a im.Agent, p *wire.LogicPkt)

// reply answers with a body.
func reply(body proto.Message) handler {
	return func(_ *logic, a im.Agent, p *wire.LogicPkt) { respond(a, p, wire.StatusSuccess, body) }
}

// refused answers with a status.
func refused(status wire.Status) handler {
	return func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		respond(a, p, status, &pb.ErrorResp{Message: "refused"})
	}
}

func mute(*logic, im.Agent, *wire.LogicPkt) {}

func respond(a im.Agent, p *wire.LogicPkt, status wire.Status, body proto.Message) {
	answer := wire.LogicPkt{Header: wire.Header{
		Command: p.Command, ChannelID: p.ChannelID, Sequence: p.Sequence, Dest: p.Dest,
		Flag: wire.FlagResponse, Status: status,
	}}
	if p.Command == wire.CmdSignIn {
		answer.Meta = []wire.Meta{{Key: container.MetaLoginAt, Value: "4711"}}
	}
	if body != nil {
		answer.Body, _ = proto.Marshal(body)
	}
	_ = a.Push(answer.Append(nil))
}

// logic is a logic node that does what the test says: by default it takes everything.
type logic struct {
	await.Events
	self   naming.Instance
	hub    *container.Hub
	server *transport.Server
	naming naming.Naming

	mu       sync.Mutex
	handlers map[wire.Command]handler
	received []wire.LogicPkt
}

// startLogic runs a logic node that is ready in the registry until stop or the test's end.
func startLogic(t testing.TB, registry *memory.Registry, id string) *logic {
	n := &logic{Events: await.NewEvents(), naming: registry.Client(), handlers: map[wire.Command]handler{
		wire.CmdSignIn:         signInHandler,
		wire.CmdSessionRenew:   reply(&pb.LeaseRenewResp{}),
		wire.CmdSessionRestore: reply(&pb.SessionRestoreResp{}),
	}}
	n.server = transport.NewServer(transport.Options{Driver: transport.DriverGoroutine},
		transport.Endpoint{Address: "127.0.0.1:0", Protocol: tcp.Protocol()})
	require.NoError(t, n.server.Listen())
	n.self = naming.Instance{
		ID: id, Service: naming.ServiceLogic, Node: id, Address: n.server.Addr(0).String(), State: naming.StateReady,
	}
	n.hub = container.NewHub(container.HubOptions{Self: n.self, Secret: secret, Receive: n.receive, Changed: n.Happened, Log: quiet()})
	n.server.SetAcceptor(n.hub)
	n.server.SetMessageListener(n.hub)
	n.server.SetStateListener(n.hub)
	ended := make(chan error, 1)
	go func() { ended <- n.server.Start() }()
	require.NoError(t, n.naming.Register(context.Background(), n.self))
	t.Cleanup(func() {
		n.stop()
		require.NoError(t, <-ended)
	})
	return n
}

// stop cuts the node off, as if it had crashed.
func (n *logic) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.server.Shutdown(now)
	_ = n.server.Shutdown(context.Background())
	_ = n.naming.Close()
}

func signInHandler(_ *logic, a im.Agent, p *wire.LogicPkt) {
	respond(a, p, wire.StatusSuccess, &pb.LoginResp{ChannelId: p.ChannelID, Account: p.Account})
}

func (n *logic) receive(_ string, a im.Agent, p *wire.LogicPkt) {
	c := *p
	c.Body = slices.Clone(p.Body)
	n.mu.Lock()
	n.received = append(n.received, c)
	handle := n.handlers[p.Command]
	n.mu.Unlock()
	if handle == nil {
		handle = reply(nil)
	}
	handle(n, a, &c)
	n.Happened()
}

func (n *logic) on(cmd wire.Command, h handler) {
	n.mu.Lock()
	n.handlers[cmd] = h
	n.mu.Unlock()
}

// got returns the requests with this command.
func (n *logic) got(cmd wire.Command) (out []wire.LogicPkt) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.received {
		if p.Command == cmd {
			out = append(out, p)
		}
	}
	return out
}

// await waits for as many requests with this command.
func (n *logic) await(t testing.TB, cmd wire.Command, count int) []wire.LogicPkt {
	t.Helper()
	n.Until(t, string(cmd), func() bool { return len(n.got(cmd)) >= count })
	return n.got(cmd)
}

// push sends a packet to channels of the gateway.
func (n *logic) push(t testing.TB, cmd wire.Command, body proto.Message, channels ...string) {
	t.Helper()
	p := wire.LogicPkt{Header: wire.Header{Command: cmd, Flag: wire.FlagPush, Link: wire.Link{Channels: channels}}}
	if body != nil {
		p.Body, _ = proto.Marshal(body)
	}
	require.NoError(t, n.hub.Push(gatewayID, p.Append(nil)))
}

const gatewayID = "gateway-1"

// fixture is a gateway over a registry in memory.
type fixture struct {
	*Gateway
	t        testing.TB
	registry *memory.Registry
	naming   *hanging
	metered  *prometheus.Registry
	address  string // where clients connect
	stop     func() error
}

// build makes a gateway that does not run.
func build(t testing.TB, registry *memory.Registry, change func(*Config)) (*fixture, *transport.Server) {
	channels := transport.NewChannelMap()
	server := transport.NewServer(transport.Options{}, transport.Endpoint{Address: "127.0.0.1:0", Protocol: tcp.Protocol()})
	require.NoError(t, server.Listen())
	f := &fixture{t: t, registry: registry, naming: newHanging(registry.Client()), metered: prometheus.NewRegistry(), address: server.Addr(0).String()}
	cfg := Config{
		Instance: naming.Instance{
			ID: gatewayID, Service: naming.ServiceGateway, Node: "gateway", Address: f.address,
			State: naming.StateJoining, Meta: map[string]string{},
		},
		Secret: secret,
		Drain:  time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	f.Gateway = New(cfg, Deps{
		Naming:   f.naming,
		Server:   server,
		Channels: channels,
		NewLink:  func(id, name string) im.Client { return tcp.NewClient(id, name, transport.ClientOptions{}) },
		Metrics:  f.metered,
		Log:      quiet(),
	})
	t.Cleanup(func() {
		_ = server.Shutdown(context.Background())
		_ = f.naming.Close()
	})
	return f, server
}

// start runs a gateway until stop or the test's end.
func start(t testing.TB, registry *memory.Registry, change func(*Config)) *fixture {
	f, _ := build(t, registry, change)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { require.NoError(t, f.stop()) })
	return f
}

// ready waits until the gateway takes clients.
func (f *fixture) ready() *fixture {
	f.t.Helper()
	await.Until(f.t, "readiness", func() bool { return f.Ready() == nil })
	return f
}

// counter is the value of a counter, and of its label if it has one.
func (f *fixture) counter(name, label string) float64 {
	f.t.Helper()
	families, err := f.metered.Gather()
	require.NoError(f.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "hermod_gateway_"+name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// startPair is a ready gateway and one logic node.
func startPair(t testing.TB, change func(*Config)) (*fixture, *logic) {
	registry := memory.NewRegistry()
	n := startLogic(t, registry, "logic-1")
	return start(t, registry, change).ready(), n
}

// client is a connection of a user.
type client struct {
	t       testing.TB
	conn    *transport.Client
	channel string
}

func (f *fixture) dial() *client {
	f.t.Helper()
	c := &client{t: f.t, conn: tcp.NewClient("client", "client", transport.ClientOptions{MaxPacket: im.DefaultMaxLinkPacket})}
	require.NoError(f.t, c.conn.Connect(f.address))
	late := time.AfterFunc(await.Patience, c.conn.Close)
	f.t.Cleanup(func() {
		late.Stop()
		c.conn.Close()
	})
	return c
}

// login connects and signs in.
func (f *fixture) login(account string, features ...string) *client {
	f.t.Helper()
	c := f.dial()
	c.sendLogin(&pb.LoginReq{Token: tokenOf(account), Features: features})
	p := c.read()
	require.Equal(f.t, wire.CmdSignIn, p.Command)
	require.Equal(f.t, wire.StatusSuccess, p.Status)
	var resp pb.LoginResp
	require.NoError(f.t, proto.Unmarshal(p.Body, &resp))
	c.channel = resp.ChannelId
	return c
}

func tokenOf(account string) string {
	s, err := token.Issue(secret, token.Claims{Account: account, App: "demo", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		panic(err)
	}
	return s
}

func (c *client) sendLogin(req *pb.LoginReq) {
	c.t.Helper()
	body, err := proto.Marshal(req)
	require.NoError(c.t, err)
	c.send(wire.Header{Command: wire.CmdSignIn, Sequence: 1}, body)
}

func (c *client) send(h wire.Header, body []byte) {
	c.t.Helper()
	p := wire.LogicPkt{Header: h, Body: body}
	require.NoError(c.t, c.conn.Send(p.Append(nil)))
}

// read returns the next LogicPkt.
func (c *client) read() *wire.LogicPkt {
	c.t.Helper()
	f, err := c.conn.Read()
	require.NoError(c.t, err)
	p := new(wire.LogicPkt)
	require.NoError(c.t, p.Unmarshal(bytes.Clone(f.GetPayload())))
	return p
}

// ended reads the close frame, and nothing else.
func (c *client) ended(reason im.Reason) {
	c.t.Helper()
	_, err := c.conn.Read()
	var closed *transport.PeerClosedError
	require.True(c.t, errors.As(err, &closed), "%v", err)
	require.Equal(c.t, reason.Code(), closed.Code, closed)
}

// answered reads a response with this status.
func (c *client) answered(cmd wire.Command, sequence uint32, status wire.Status) *wire.LogicPkt {
	c.t.Helper()
	p := c.read()
	require.Equal(c.t, wire.FlagResponse, p.Flag)
	require.Equal(c.t, cmd, p.Command)
	require.Equal(c.t, sequence, p.Sequence)
	require.Equal(c.t, status, p.Status)
	return p
}
