package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/token"
)

// TestMalformed sends a malformed packet of every kind, before and after the login, on both
// transports and with both ways of waiting for what comes: each gets its error or its close code,
// the server stays up, and no goroutine and no descriptor is left behind.
func TestMalformed(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	for _, poll := range []string{"true", "false"} {
		t.Run("poll="+poll, func(t *testing.T) {
			t.Parallel()
			s := startStandalone(t, "--set", "gateway.poll="+poll, "--set", "gateway.login_wait=2s", "--set", "limits.enabled=false")
			secret, err := s.Secret()
			require.NoError(t, err)
			v := &villain{Standalone: s, t: t, secret: secret}
			bob := newUser(t, s.WS, v.token("bob"), legacy())

			v.rage() // what is made once is made now
			sockets, running := sockets(t, s.Node), goroutines(t, s.Node)
			for range 2 {
				v.rage()
			}
			eventually(t, wait, "no descriptor is left behind", leftBehind(func() int { return descriptorsOf(t, s.Node, "socket:") - sockets }))
			eventually(t, wait, "no goroutine is left behind", leftBehind(func() int { return goroutines(t, s.Node) - running }))

			newUser(t, s.TCP, v.token("alice"), legacy()).say("bob", "still there?")
			bob.hears(wire.CmdUserTalk, "bob", "alice", "still there?")
		})
	}
}

func leftBehind(more func() int) func() bool { return func() bool { return more() <= 0 } }

func sockets(t testing.TB, n *cluster.Node) int { return descriptorsOf(t, n, "socket:") }

// villain does to a standalone what no client should do.
type villain struct {
	*cluster.Standalone
	t      *testing.T
	secret string
}

func (v *villain) token(account string) string {
	return issue(v.t, v.secret, token.DefaultApp, account)
}

// rage does all of it once.
func (v *villain) rage() {
	v.t.Helper()
	silent := v.silences()
	for _, url := range []string{v.WS, v.TCP} {
		v.malformed(url)
		v.badLogins(url)
		v.badRequests(url)
		v.badManners(url)
	}
	v.badUpgrades()
	for what, c := range silent {
		packets, code := c.ends()
		require.Empty(v.t, packets, what)
		want := im.ReasonUnauthorized.Code()
		if c.ws && strings.HasPrefix(what, "no upgrade") {
			want = 0 // there are no frames yet
		}
		require.Equal(v.t, want, code, what)
		require.NoError(v.t, c.Close())
	}
}

// malformation is bytes that end a connection, and why.
type malformation struct {
	name   string
	bytes  func(c *raw) []byte
	reason im.Reason
	only   string // "ws" or "tcp"; "" for both
}

// framed is a binary frame with this payload.
func framed(hexBytes string) func(c *raw) []byte {
	return func(c *raw) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(hexBytes, " ", ""))
		require.NoError(c.t, err)
		return c.frame(im.OpBinary, b)
	}
}

// plain is these bytes, without any frame.
func plain(b ...byte) func(*raw) []byte { return func(*raw) []byte { return b } }

func malformations() []malformation {
	return []malformation{
		{name: "bad magic", bytes: framed("deadbeef 00000000 00000000"), reason: im.ReasonProtocolError},
		{name: "empty packet", bytes: framed(""), reason: im.ReasonProtocolError},
		{name: "half a magic", bytes: framed("c311"), reason: im.ReasonProtocolError},
		{name: "magic alone", bytes: framed("c311a365"), reason: im.ReasonProtocolError},
		{name: "truncated header length", bytes: framed("c311a365 0000"), reason: im.ReasonProtocolError},
		{name: "truncated header", bytes: framed("c311a365 00000005 0a03"), reason: im.ReasonProtocolError},
		{name: "header length beyond", bytes: framed("c311a365 7fffffff 00"), reason: im.ReasonProtocolError},
		{name: "largest header length", bytes: framed("c311a365 ffffffff"), reason: im.ReasonProtocolError},
		{name: "no body length", bytes: framed("c311a365 00000000"), reason: im.ReasonProtocolError},
		{name: "body length beyond", bytes: framed("c311a365 00000000 ffffffff"), reason: im.ReasonProtocolError},
		{name: "bytes behind the body", bytes: framed("c311a365 00000000 00000000 00"), reason: im.ReasonProtocolError},
		{name: "header is no protobuf", bytes: framed("c311a365 00000002 ffff 00000000"), reason: im.ReasonProtocolError},
		{name: "header is not UTF-8", bytes: framed("c311a365 00000003 0a01ff 00000000"), reason: im.ReasonProtocolError},
		// Before the login these were answered with a pong: only their first bytes were looked at.
		{name: "truncated ping", bytes: framed("c315a765 0001"), reason: im.ReasonProtocolError},
		{name: "ping length beyond", bytes: framed("c315a765 0001 ffff"), reason: im.ReasonProtocolError},
		{name: "text frame", bytes: func(c *raw) []byte { return c.frame(im.OpText, []byte("hello")) }, reason: im.ReasonUnsupportedData},
		{name: "oversize frame", bytes: func(c *raw) []byte { return c.header(im.OpBinary, 64<<10+1) }, reason: im.ReasonTooLarge},
		{name: "enormous frame", bytes: func(c *raw) []byte { return c.header(im.OpBinary, 1<<31-1) }, reason: im.ReasonTooLarge},
		{name: "unknown opcode", bytes: func(c *raw) []byte { return c.frame(0x3, nil) }, reason: im.ReasonProtocolError},
		{name: "long ping frame", bytes: func(c *raw) []byte { return c.frame(im.OpPing, make([]byte, 126)) }, reason: im.ReasonProtocolError},
		{name: "continuation of nothing", bytes: func(c *raw) []byte { return c.frame(im.OpContinuation, nil) }, reason: im.ReasonProtocolError},
		{name: "close frame of one byte", bytes: func(c *raw) []byte { return c.frame(im.OpClose, []byte{3}) }, reason: im.ReasonProtocolError},
		{name: "unmasked frame", bytes: plain(0x82, 0x01, 0x00), reason: im.ReasonProtocolError, only: "ws"},
		{name: "reserved bit", bytes: plain(0xc2, 0x80, 0, 0, 0, 0), reason: im.ReasonProtocolError, only: "ws"},
		{name: "fragmented ping", bytes: plain(0x09, 0x80, 0, 0, 0, 0), reason: im.ReasonProtocolError, only: "ws"},
		{name: "length in a longer form", bytes: plain(0x82, 0x80|126, 0, 5), reason: im.ReasonProtocolError, only: "ws"},
		{name: "negative length", bytes: plain(0x82, 0x80|127, 0xff, 0, 0, 0, 0, 0, 0, 0), reason: im.ReasonProtocolError, only: "ws"},
		{name: "HTTP request", bytes: func(*raw) []byte { return []byte(upgradeRequest) }, reason: im.ReasonProtocolError, only: "tcp"},
		{name: "message within a message", bytes: func(c *raw) []byte {
			first := c.frame(im.OpBinary, []byte{0xc3})
			first[0] &^= 0x80 // more follows
			return append(first, c.frame(im.OpBinary, []byte{0x11})...)
		}, reason: im.ReasonProtocolError, only: "ws"},
		{name: "fragments beyond the limit", bytes: func(c *raw) []byte {
			first, next := c.frame(im.OpBinary, make([]byte, 40<<10)), c.frame(im.OpContinuation, make([]byte, 40<<10))
			first[0] &^= 0x80
			return append(first, next...)
		}, reason: im.ReasonTooLarge, only: "ws"},
	}
}

// malformed: what is no packet ends the connection with its close code.
func (v *villain) malformed(url string) {
	for _, m := range malformations() {
		if m.only != "" && !strings.HasPrefix(url, m.only) {
			continue
		}
		for _, signedIn := range []bool{false, true} {
			what := fmt.Sprintf("%s, %s, signed in: %v", m.name, url, signedIn)
			c := dialRawURL(v.t, url)
			if signedIn {
				c.signIn(v.token("mallory"))
			}
			c.write(m.bytes(c))
			packets, code := c.ends()
			require.Empty(v.t, packets, what)
			require.Equal(v.t, m.reason.Code(), code, what)
			require.NoError(v.t, c.Close())
		}
	}
}

// badLogins: what is no login is answered with 105, or 101, and closed with 4001.
func (v *villain) badLogins(url string) {
	claims := jwt.MapClaims{"acc": "eve", "app": "default", "exp": time.Now().Add(time.Hour).Unix()}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, claims).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(v.t, err)
	other, err := jwt.NewWithClaims(jwt.SigningMethodHS512, claims).SignedString([]byte(v.secret))
	require.NoError(v.t, err)
	expired, err := token.Issue([]byte(v.secret), token.Claims{Account: "eve", Expires: time.Now().Add(-time.Hour)})
	require.NoError(v.t, err)
	delete(claims, "exp")
	eternal, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(v.secret))
	require.NoError(v.t, err)
	packet := func(cmd wire.Command, flag wire.Flag, body []byte) []byte {
		return (&wire.LogicPkt{Header: wire.Header{Command: cmd, Sequence: 1, Flag: flag, Dest: "bob"}, Body: body}).Append(nil)
	}
	good := signInPacket(v.t, v.token("eve"))
	for what, l := range map[string]struct {
		packet []byte
		status wire.Status
	}{
		"alg none":          {signInPacket(v.t, none), wire.StatusUnauthorized},
		"another algorithm": {signInPacket(v.t, other), wire.StatusUnauthorized},
		"expired":           {signInPacket(v.t, expired), wire.StatusUnauthorized},
		"without an end":    {signInPacket(v.t, eternal), wire.StatusUnauthorized},
		"wrong secret":      {signInPacket(v.t, issue(v.t, "another secret", "default", "eve")), wire.StatusUnauthorized},
		"no token":          {signInPacket(v.t, ""), wire.StatusUnauthorized},
		"no token at all":   {signInPacket(v.t, strings.Repeat("a.", 1000)), wire.StatusUnauthorized},
		"enormous token":    {signInPacket(v.t, strings.Repeat("a", 15<<10)), wire.StatusUnauthorized},
		"no LoginReq":       {packet(wire.CmdSignIn, wire.FlagRequest, []byte{0xff}), wire.StatusInvalidBody},
		"talk first":        {packet(wire.CmdUserTalk, wire.FlagRequest, nil), wire.StatusUnauthorized},
		"unknown first":     {packet("chat.unknown", wire.FlagRequest, nil), wire.StatusUnauthorized},
		"internal first":    {packet(wire.CmdSessionRenew, wire.FlagRequest, nil), wire.StatusUnauthorized},
		"a response first":  {packet(wire.CmdSignIn, wire.FlagResponse, good), wire.StatusUnauthorized},
	} {
		what += ", " + url
		c := dialRawURL(v.t, url)
		c.write(c.frame(im.OpBinary, l.packet))
		packets, code := c.ends()
		require.Len(v.t, packets, 1, what)
		require.Equal(v.t, l.status, packets[0].Status, what)
		require.Equal(v.t, wire.FlagResponse, packets[0].Flag, what)
		require.EqualValues(v.t, 1, packets[0].Sequence, what)
		require.Equal(v.t, im.ReasonUnauthorized.Code(), code, what)
		require.NoError(v.t, c.Close())
	}
	c := dialRawURL(v.t, url)
	c.write(c.header(im.OpBinary, 16<<10+1)) // nobody holds what a stranger has announced
	packets, code := c.ends()
	require.Empty(v.t, packets)
	require.Equal(v.t, im.ReasonTooLarge.Code(), code)
	require.NoError(v.t, c.Close())
}

// badRequests: a well-formed packet that asks for what cannot be is answered, and the connection lives.
func (v *villain) badRequests(url string) {
	u := newUser(v.t, url, v.token("mallory"), legacy())
	garbage := []byte{0xff}
	type request struct {
		header wire.Header
		body   []byte
		want   wire.Status
	}
	requests := []request{
		{wire.Header{Command: "chat.unknown"}, nil, wire.StatusNotImplemented},
		{wire.Header{Command: wire.CmdSyncHint}, nil, wire.StatusNotImplemented},
		{wire.Header{}, nil, wire.StatusInvalidCommand},
		{wire.Header{Command: wire.CmdSignIn}, signInPacket(v.t, v.token("eve")), wire.StatusInvalidCommand},
		{wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagResponse, Dest: "bob"}, nil, wire.StatusInvalidCommand},
		{wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush, Dest: "bob"}, nil, wire.StatusInvalidCommand},
		{wire.Header{Command: wire.CmdUserTalk, Flag: 77, Dest: "bob"}, nil, wire.StatusInvalidCommand},
		{wire.Header{Command: wire.CmdUserTalk}, nil, wire.StatusNoDestination},
		{wire.Header{Command: wire.CmdGroupTalk, Dest: "99999999999999999999"}, nil, wire.StatusNoDestination},
	}
	for _, cmd := range []wire.Command{
		wire.CmdLinkHello, wire.CmdSessionRenew, wire.CmdSessionRestore, wire.CmdSessionEnd, wire.CmdLeaseEnd, wire.CmdLinkDrain, wire.CmdLinkPushes,
	} {
		requests = append(requests, request{wire.Header{Command: cmd}, nil, wire.StatusInvalidCommand})
	}
	for _, cmd := range []wire.Command{
		wire.CmdUserTalk, wire.CmdGroupTalk, wire.CmdTalkAck, wire.CmdOfflineIndex, wire.CmdOfflineContent, wire.CmdSync, wire.CmdHistory,
		wire.CmdGroupCreate, wire.CmdGroupJoin, wire.CmdGroupQuit, wire.CmdGroupDetail, wire.CmdGroupMembers,
	} {
		requests = append(requests, request{wire.Header{Command: cmd, Dest: "bob"}, garbage, wire.StatusInvalidBody})
	}
	for _, r := range requests {
		what := fmt.Sprintf("%+v, %s", r.header, url)
		a, err := u.ask(within(v.t), &wire.LogicPkt{Header: r.header, Body: r.body})
		require.NoError(v.t, err, what)
		require.Equal(v.t, r.want, a.Status, what)
		require.Equal(v.t, wire.FlagResponse, a.Flag, what)
		require.Equal(v.t, r.header.Command, a.Command, what)
	}
	require.NoError(v.t, u.sendBytes(wire.Ping))
	require.NoError(v.t, u.await(within(v.t), func() bool { return u.pongs == 1 }))
	u.hangUp()
}

// badManners: clients that go in the middle of something.
func (v *villain) badManners(url string) {
	for _, signedIn := range []bool{false, true} {
		connect := func() *raw {
			c := dialRawURL(v.t, url)
			if signedIn {
				c.signIn(v.token("mallory"))
			}
			return c
		}
		// In the middle of a frame.
		c := connect()
		c.write(c.header(im.OpBinary, 100))
		require.NoError(v.t, c.Close())
		// With a reset.
		c = connect()
		require.NoError(v.t, c.Conn.(*net.TCPConn).SetLinger(0))
		require.NoError(v.t, c.Close())
		// By half: what was asked for before is still answered.
		c = connect()
		c.write(c.frame(im.OpBinary, wire.Ping))
		require.NoError(v.t, c.Conn.(*net.TCPConn).CloseWrite())
		_, pong, err := c.read()
		require.NoError(v.t, err)
		require.Equal(v.t, wire.Pong, pong)
		c.drain()
		// In order.
		c = connect()
		c.write(c.frame(im.OpClose, []byte{1000 >> 8, 1000 & 0xff}))
		_, code := c.ends()
		require.EqualValues(v.t, 1000, code)
		require.NoError(v.t, c.Close())
	}
}

// badUpgrades: what comes instead of a WebSocket handshake. What is no HTTP at all gets no answer.
func (v *villain) badUpgrades() {
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                           "400",
		"GET / HTTP/1.0\r\n\r\n":                                                      "505",
		"POST / HTTP/1.1\r\nHost: x\r\n\r\n":                                          "405",
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 9<<10) + "\r\n\r\n":  "431",
		"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 2000) + "\r\n":   "431",
		strings.Replace(upgradeRequest, "Version: 13", "Version: 12", 1):              "426",
		strings.Replace(upgradeRequest, "Sec-WebSocket-Key", "Sec-WebSocket-Lock", 1): "400",
		"\r\n\r\n":                            "",
		"garbage\r\n\r\n":                     "",
		string(v.framedSignIn()) + "\r\n\r\n": "",
	} {
		c := dialUnupgraded(v.t, v.WS)
		c.write([]byte(request))
		answer := c.drain()
		if want == "" {
			require.Empty(v.t, answer, "%.100q", request)
		} else {
			require.Regexp(v.t, `^HTTP/1\.1 `+want+` `, answer, "%.100q", request)
		}
	}
}

// framedSignIn is a login as on the TCP transport.
func (v *villain) framedSignIn() []byte {
	c := &raw{t: v.t}
	return c.frame(im.OpBinary, signInPacket(v.t, v.token("mallory")))
}

// silences: clients that say nothing, or not enough, until the login is overdue.
func (v *villain) silences() map[string]*raw {
	open := map[string]*raw{}
	for _, url := range []string{v.WS, v.TCP} {
		open["no upgrade, "+url] = dialUnupgraded(v.t, url)
		open["no frame, "+url] = dialRawURL(v.t, url)
		c := dialRawURL(v.t, url)
		c.write(c.header(im.OpBinary, 100))
		open["no payload, "+url] = c
		c = dialRawURL(v.t, url)
		c.write(c.frame(im.OpBinary, signInPacket(v.t, v.token("mallory")))[:20])
		open["half a login, "+url] = c
		c = dialRawURL(v.t, url)
		c.write(c.frame(im.OpPing, nil))
		_, _, err := c.read()
		require.NoError(v.t, err)
		open["a ping frame only, "+url] = c
	}
	c := dialUnupgraded(v.t, v.WS)
	c.write([]byte(upgradeRequest[:30]))
	open["no upgrade, but a beginning"] = c
	return open
}

// drain reads whatever comes until the server has closed, and closes.
func (c *raw) drain() []byte {
	c.t.Helper()
	require.NoError(c.t, c.SetDeadline(time.Now().Add(wait)))
	b, err := io.ReadAll(c.r)
	require.False(c.t, isTimeout(err), "the server does not close the connection")
	require.NoError(c.t, c.Close())
	return b
}
