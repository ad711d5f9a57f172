package gateway

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// What a first packet may be, and how the connection ends if it is not a good login.
func TestFirstPacket(t *testing.T) {
	f, n := startPair(t, nil)
	login := func(req *pb.LoginReq) func(*client) { return func(c *client) { c.sendLogin(req) } }
	header := func(h wire.Header, body string) func(*client) {
		return func(c *client) { c.send(h, []byte(body)) }
	}
	raw := func(payload string) func(*client) {
		return func(c *client) { require.NoError(t, c.conn.Send([]byte(payload))) }
	}
	issue := func(secret string, ttl time.Duration) string {
		s, err := token.Issue([]byte(secret), token.Claims{Account: "alice", Expires: time.Now().Add(ttl)})
		require.NoError(t, err)
		return s
	}
	for _, test := range []struct {
		name   string
		send   func(*client)
		status wire.Status // 0: no answer but the close
		reason im.Reason
	}{
		{"no packet", raw("GET / HTTP/1.1\r\n\r\n"), 0, im.ReasonProtocolError},
		{"nothing", raw(""), 0, im.ReasonProtocolError},
		{"half a packet", raw("\xc3\x11\xa3\x65\x00\x00\x00\x09"), 0, im.ReasonProtocolError},
		{"lengths beyond the packet", raw("\xc3\x11\xa3\x65\xff\xff\xff\xff\x00"), 0, im.ReasonProtocolError},
		{"another command", header(wire.Header{Command: wire.CmdUserTalk, Dest: "bob"}, ""), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"a command between services", header(wire.Header{Command: wire.CmdLinkHello}, ""), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"a response", header(wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagResponse}, ""), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"no LoginReq", header(wire.Header{Command: wire.CmdSignIn}, "\xff\xff"), wire.StatusInvalidBody, im.ReasonUnauthorized},
		{"no token", login(&pb.LoginReq{}), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"a token of another secret", login(&pb.LoginReq{Token: issue("another", time.Hour)}), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"an expired token", login(&pb.LoginReq{Token: issue(string(secret), -time.Hour)}), wire.StatusUnauthorized, im.ReasonUnauthorized},
		{"a long device", login(&pb.LoginReq{Token: tokenOf("alice"), Device: strings.Repeat("d", maxDevice+1)}), wire.StatusInvalidBody, im.ReasonUnauthorized},
		{"a long instance", login(&pb.LoginReq{Token: tokenOf("alice"), Instance: strings.Repeat("d", maxDevice+1)}), wire.StatusInvalidBody, im.ReasonUnauthorized},
		{"a long platform", login(&pb.LoginReq{Token: tokenOf("alice"), Platform: strings.Repeat("d", maxDevice+1)}), wire.StatusInvalidBody, im.ReasonUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := f.dial()
			c.t = t
			test.send(c)
			if test.status != 0 {
				require.Equal(t, test.status, c.read().Status)
			}
			c.ended(test.reason)
		})
	}
	require.Empty(t, n.got(wire.CmdSignIn), "nothing of this is for a logic node")
	require.Zero(t, f.connections.Load(), "a refused connection does not count")
}

func TestLogin(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.dial()
	require.NoError(t, c.conn.Send(wire.Ping)) // before the login, as some clients do
	frame, err := c.conn.Read()
	require.NoError(t, err)
	require.Equal(t, wire.Pong, frame.GetPayload())
	c.sendLogin(&pb.LoginReq{Token: tokenOf("alice"), Device: "phone", Platform: "ios", Features: []string{"sync", "unknown"}})
	p := c.answered(wire.CmdSignIn, 1, wire.StatusSuccess)
	require.Empty(t, p.Meta, "what a logic node tells the gateway is not for the client")
	require.Empty(t, p.Link)

	got := n.await(t, wire.CmdSignIn, 1)[0]
	require.Equal(t, wire.Link{App: "demo", Account: "alice", Device: "phone"}, got.Link)
	require.True(t, strings.HasPrefix(got.ChannelID, gatewayID+"."), "unique for all runs: %s", got.ChannelID)
	require.NotContains(t, string(got.Body), tokenOf("alice")[:20], "nobody else needs the token")
	require.EqualValues(t, 1, f.connections.Load())
	c.conn.Close()
	n.await(t, wire.CmdSessionEnd, 1)
	require.Zero(t, f.connections.Load())
}

// Refusals that say: try again later.
func TestLoginRefusedForNow(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*Config)
		prepare func(*fixture, *logic)
		status  wire.Status
		message string
		limit   string // of the metric
	}{
		{
			"full", func(c *Config) { c.MaxConnections = 1 }, func(f *fixture, _ *logic) { f.login("first") },
			wire.StatusSystemException, "full", limitConnections,
		},
		{
			"login rate", func(c *Config) { c.LoginRate = limit.Rate{PerSecond: 0.001, Burst: 1} },
			func(f *fixture, _ *logic) { f.login("first") }, wire.StatusRateLimited, "too many logins", limitLogins,
		},
		{
			"account rate", func(c *Config) { c.AccountRate = limit.Rate{PerSecond: 0.001, Burst: 1} },
			func(f *fixture, _ *logic) { f.login("alice"); f.login("bob") }, wire.StatusRateLimited, "of this account", limitAccount,
		},
		{
			"logic is busy", nil, func(_ *fixture, n *logic) { n.on(wire.CmdSignIn, refused(wire.StatusSystemException)) },
			wire.StatusSystemException, "refused", "",
		},
		{
			"logic does not answer", func(c *Config) { c.LoginWait = 100 * time.Millisecond },
			func(_ *fixture, n *logic) { n.on(wire.CmdSignIn, mute) }, wire.StatusSystemException, "took too long", "",
		},
		{
			"no logic node", func(c *Config) { c.LoginWait = 100 * time.Millisecond }, func(f *fixture, n *logic) {
				n.stop()
				await.Until(f.t, "the link's end", func() bool { return f.links.Usable() == 0 })
			}, wire.StatusSystemException, "took too long", "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, n := startPair(t, test.change)
			test.prepare(f, n)
			c := f.dial()
			c.sendLogin(&pb.LoginReq{Token: tokenOf("bob")})
			p := c.answered(wire.CmdSignIn, 1, test.status)
			var refusal pb.ErrorResp
			require.NoError(t, proto.Unmarshal(p.Body, &refusal))
			require.Contains(t, refusal.Message, test.message)
			require.Equal(t, test.status == wire.StatusRateLimited, refusal.RetryAfterMs > 0)
			c.ended(im.ReasonUnavailable)
			if test.limit != "" {
				require.EqualValues(t, 1, f.counter("limited_total", test.limit))
			}
		})
	}
}

// Logins that came together were counted after all had been let through: a reconnect storm filled a gateway beyond its bound.
func TestLoginsThatComeTogetherAreBounded(t *testing.T) {
	f, _ := build(t, memory.NewRegistry(), func(c *Config) { c.MaxConnections = 1 })
	first := f.handshake("alice", func() error {
		_, err := f.Accept(f.handshake("bob", func() error { return nil }), time.Second)
		require.ErrorContains(t, err, "full", "the other is not through yet")
		return nil
	})
	id, err := f.Accept(first, time.Second)
	require.NoError(t, err)
	require.EqualValues(t, 1, f.connections.Load())
	require.NoError(t, f.Disconnect(id))
	require.Zero(t, f.connections.Load())
}

// handshake is a connection that signs in.
func (f *fixture) handshake(account string, settled func() error) im.Conn {
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Sequence: 1}}
	var err error
	p.Body, err = proto.Marshal(&pb.LoginReq{Token: tokenOf(account)})
	require.NoError(f.t, err)
	return &fakeConn{packet: p.Append(nil), settled: settled}
}

// Who is counted and then refused gives the place back.
func TestRefusedLoginsTakeNoPlace(t *testing.T) {
	once := limit.Rate{PerSecond: 0.001, Burst: 1}
	gone := errors.New("the connection is closed")
	for _, test := range []struct {
		name    string
		change  func(*Config)
		settled error
		want    string
	}{
		{"login rate", func(c *Config) { c.LoginRate = once }, nil, "too many logins at once"},
		{"account rate", func(c *Config) { c.AccountRate = once }, nil, "too many logins of this account"},
		{"full", func(c *Config) { c.MaxConnections = 1 }, nil, "full"},
		{"gone", nil, gone, gone.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, _ := build(t, memory.NewRegistry(), test.change)
			_, err := f.Accept(f.handshake("alice", func() error { return nil }), time.Second)
			require.NoError(t, err)
			_, err = f.Accept(f.handshake("alice", func() error { return test.settled }), time.Second)
			require.ErrorContains(t, err, test.want)
			require.EqualValues(t, 1, f.connections.Load())
		})
	}
}

// A login that logic refuses for good is answered with its status, and the client is not to come again.
func TestLoginRefusedByLogic(t *testing.T) {
	f, n := startPair(t, nil)
	for status, reason := range map[wire.Status]im.Reason{
		wire.StatusUnauthorized: im.ReasonUnauthorized,
		wire.StatusConflict:     im.ReasonConflict,
	} {
		n.on(wire.CmdSignIn, func(n *logic, a im.Agent, p *wire.LogicPkt) {
			n.push(t, wire.CmdUserTalk, nil, p.ChannelID)
			refused(status)(n, a, p)
		})
		c := f.dial()
		c.sendLogin(&pb.LoginReq{Token: tokenOf("bob")})
		c.answered(wire.CmdSignIn, 1, status)
		c.ended(reason) // and no push between
	}
}

// The session exists before its login is answered: pushes that come meanwhile wait behind LoginResp
// (flaw 21).
func TestLoginRespIsTheFirstPacket(t *testing.T) {
	f, n := startPair(t, nil)
	n.on(wire.CmdSignIn, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		for i := range maxHeld + 10 {
			n.push(t, wire.CmdUserTalk, &pb.MessagePush{MessageId: int64(i)}, p.ChannelID)
		}
		signInHandler(n, a, p)
	})
	c := f.login("alice") // reads LoginResp first
	for i := range maxHeld {
		p := c.read()
		require.Equal(t, wire.CmdUserTalk, p.Command)
		require.Equal(t, i > 0, len(p.Body) > 0)
	}
	n.push(t, wire.CmdGroupTalk, nil, c.channel)
	require.Equal(t, wire.CmdGroupTalk, c.read().Command, "what was too much is dropped")
}

// A login whose link breaks is asked of another node, under the same channel id.
func TestLoginSurvivesItsLogicNode(t *testing.T) {
	registry := memory.NewRegistry()
	nodes := map[string]*logic{}
	f := start(t, registry, nil)
	dying := func(n *logic, a im.Agent, _ *wire.LogicPkt) { a.(im.Channel).Close(im.ReasonInternal) }
	for _, id := range []string{"logic-1", "logic-2"} {
		nodes[id] = startLogic(t, registry, id)
	}
	f.ready()
	await.Until(t, "both links", func() bool { return f.links.Usable() == 2 })
	var once bool
	for _, n := range nodes {
		n.on(wire.CmdSignIn, func(n *logic, a im.Agent, p *wire.LogicPkt) {
			nodes["logic-1"].mu.Lock()
			first := !once
			once = true
			nodes["logic-1"].mu.Unlock()
			if first {
				dying(n, a, p)
				return
			}
			signInHandler(n, a, p)
		})
	}
	c := f.login("alice")
	asked := append(nodes["logic-1"].got(wire.CmdSignIn), nodes["logic-2"].got(wire.CmdSignIn)...)
	require.Len(t, asked, 2)
	for _, p := range asked {
		require.Equal(t, c.channel, p.ChannelID)
	}
}

// A gateway that started let clients in as soon as one logic node was connected: pushes of the others
// were lost, and nobody told (I7).
func TestLoginWaitsForEveryReadyNode(t *testing.T) {
	registry := memory.NewRegistry()
	n := startLogic(t, registry, "logic-1")
	dead := registry.Client()
	defer dead.Close()
	require.NoError(t, dead.Register(t.Context(), naming.Instance{
		ID: "logic-2", Service: naming.ServiceLogic, Node: "b", Address: "127.0.0.1:1", State: naming.StateReady,
	}))
	f := start(t, registry, nil)
	c := f.dial()
	c.sendLogin(&pb.LoginReq{Token: tokenOf("alice")})
	n.await(t, wire.CmdSessionRenew, 1) // the other node is connected
	await.Until(t, "a login under way", func() bool { return f.connections.Load() == 1 })
	require.ErrorContains(t, f.Ready(), "logic-2")
	require.Empty(t, n.got(wire.CmdSignIn))
	require.NoError(t, dead.Deregister(t.Context(), "logic-2"))
	c.answered(wire.CmdSignIn, 1, wire.StatusSuccess)
}

// The session store knows by them which of two connections is the newer.
func TestChannelIDsGrow(t *testing.T) {
	f, _ := startPair(t, nil)
	last := ""
	for i := range 40 {
		c := f.login(fmt.Sprint("user-", i))
		require.True(t, len(c.channel) > len(last) || len(c.channel) == len(last) && c.channel > last, "%s after %s", c.channel, last)
		last = c.channel
	}
}

// What a refused or broken handshake leaves behind: nothing.
func TestConnectOfAStranger(t *testing.T) {
	f, _ := build(t, memory.NewRegistry(), nil)
	ch := newFakeChannel("nobody")
	require.Error(t, f.Connect(ch))
	f.connections.Add(1)
	require.NoError(t, f.Disconnect("nobody"))
	require.Zero(t, f.connections.Load())
}

// A login that was answered after its channel had gone, as one that a frozen logic node has taken up
// again, left a session that pushes went to for as long as the gateway lived.
func TestSessionOfALateLoginIsEnded(t *testing.T) {
	f, n := startPair(t, func(c *Config) { c.LoginWait = 50 * time.Millisecond })
	asked := make(chan func(), 1)
	n.on(wire.CmdSignIn, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() {
			answer := wire.LogicPkt{Header: p.Header}
			answer.Flag = wire.FlagResponse
			_ = a.Push(answer.Append(nil))
		}
	})
	c := f.dial()
	c.sendLogin(&pb.LoginReq{Token: tokenOf("alice"), Device: "phone"})
	answer := <-asked
	c.answered(wire.CmdSignIn, 1, wire.StatusSystemException)
	c.ended(im.ReasonUnavailable)
	n.await(t, wire.CmdSessionEnd, 1) // of the channel
	answer()
	last := n.await(t, wire.CmdSessionEnd, 2)[1]
	var req pb.SessionEndReq
	require.NoError(t, proto.Unmarshal(last.Body, &req))
	require.Len(t, req.Sessions, 1)
	want := &pb.Session{App: "demo", Account: "alice", Device: "phone", Channel: n.got(wire.CmdSignIn)[0].ChannelID}
	require.True(t, proto.Equal(want, req.Sessions[0]), "%v", req.Sessions)
}
