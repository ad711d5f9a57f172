package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// dialRaw connects, until the test ends.
func dialRaw(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, wait)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(wait)))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// raw is a connection whose bytes are written by hand, so that any of them can be wrong.
type raw struct {
	net.Conn
	r  *bufio.Reader
	ws bool
	t  testing.TB
}

// dialRawURL connects to a ws:// or tcp:// URL and upgrades.
func dialRawURL(t testing.TB, url string) *raw {
	t.Helper()
	scheme, addr, _ := strings.Cut(url, "://")
	c := &raw{Conn: dialRaw(t, addr), ws: scheme == "ws", t: t}
	c.r = bufio.NewReader(c.Conn)
	if c.ws {
		c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"))
		for line := "x"; line != "\r\n"; {
			var err error
			line, err = c.r.ReadString('\n')
			require.NoError(t, err)
		}
	}
	return c
}

func (c *raw) write(b []byte) {
	c.t.Helper()
	_, err := c.Write(b)
	require.NoError(c.t, err)
}

// frame makes a frame; a client's WebSocket frame is masked, here with zeros.
func (c *raw) frame(op im.OpCode, payload []byte) []byte {
	return append(c.header(op, len(payload)), payload...)
}

// header makes the header of a frame that announces n bytes.
func (c *raw) header(op im.OpCode, n int) []byte {
	if !c.ws {
		return binary.BigEndian.AppendUint32([]byte{byte(op)}, uint32(n))
	}
	b := []byte{0x80 | byte(op)}
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(b, 0, 0, 0, 0)
}

// read returns the next frame of the server.
func (c *raw) read() (op im.OpCode, payload []byte, err error) {
	var head [10]byte
	if !c.ws {
		if _, err := io.ReadFull(c.r, head[:5]); err != nil {
			return 0, nil, err
		}
		payload = make([]byte, binary.BigEndian.Uint32(head[1:]))
		_, err = io.ReadFull(c.r, payload)
		return im.OpCode(head[0]), payload, err
	}
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		if _, err := io.ReadFull(c.r, head[2:4]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	return im.OpCode(head[0] & 0xf), payload, err
}

// ends reads to the end and returns the packets before it and the close code, 0 for none.
func (c *raw) ends() (packets []*wire.LogicPkt, code uint16) {
	c.t.Helper()
	for {
		op, payload, err := c.read()
		if err != nil {
			require.False(c.t, isTimeout(err), "the server does not close the connection")
			return packets, code
		}
		switch op {
		case im.OpClose:
			require.GreaterOrEqual(c.t, len(payload), 2)
			code = binary.BigEndian.Uint16(payload)
		case im.OpBinary:
			var p wire.LogicPkt
			require.NoError(c.t, p.Unmarshal(payload))
			packets = append(packets, &p)
		}
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// signInPacket is the first packet of a client with this token.
func signInPacket(t testing.TB, token string) []byte {
	t.Helper()
	body, err := proto.Marshal(&pb.LoginReq{Token: token})
	require.NoError(t, err)
	return (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Sequence: 1}, Body: body}).Append(nil)
}

// signIn signs a raw connection in.
func (c *raw) signIn(token string) {
	c.t.Helper()
	c.write(c.frame(im.OpBinary, signInPacket(c.t, token)))
	op, payload, err := c.read()
	require.NoError(c.t, err)
	require.Equal(c.t, im.OpBinary, op)
	var p wire.LogicPkt
	require.NoError(c.t, p.Unmarshal(payload))
	require.Equal(c.t, wire.StatusSuccess, p.Status)
}

// malformed are bytes that end a connection, and the close code that they get: 0 where a close
// frame cannot be expected.
type malformed struct {
	name   string
	bytes  func(c *raw) []byte
	reason im.Reason
	only   string // "ws" or "tcp"; "" for both
}

func framed(hexBytes string) func(c *raw) []byte {
	return func(c *raw) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(hexBytes, " ", ""))
		if err != nil {
			panic(err)
		}
		return c.frame(im.OpBinary, b)
	}
}

var malformations = []malformed{
	{name: "bad magic", bytes: framed("deadbeef 00000000 00000000"), reason: im.ReasonProtocolError},
	{name: "empty packet", bytes: framed(""), reason: im.ReasonProtocolError},
	{name: "half a magic", bytes: framed("c311"), reason: im.ReasonProtocolError},
	{name: "truncated header", bytes: framed("c311a365 0000"), reason: im.ReasonProtocolError},
	{name: "header length beyond", bytes: framed("c311a365 7fffffff 00"), reason: im.ReasonProtocolError},
	{name: "body length beyond", bytes: framed("c311a365 00000000 ffffffff"), reason: im.ReasonProtocolError},
	{name: "bytes behind the body", bytes: framed("c311a365 00000000 00000000 00"), reason: im.ReasonProtocolError},
	{name: "header is no protobuf", bytes: framed("c311a365 00000002 ffff 00000000"), reason: im.ReasonProtocolError},
	{name: "header is not UTF-8", bytes: framed("c311a365 00000003 0a01ff 00000000"), reason: im.ReasonProtocolError},
	{name: "text frame", bytes: func(c *raw) []byte { return c.frame(im.OpText, []byte("hello")) }, reason: im.ReasonUnsupportedData},
	{name: "oversize frame", bytes: func(c *raw) []byte { return c.header(im.OpBinary, 64<<10+1) }, reason: im.ReasonTooLarge},
	{name: "enormous frame", bytes: func(c *raw) []byte { return c.header(im.OpBinary, 1<<31-1) }, reason: im.ReasonTooLarge},
	{name: "unknown opcode", bytes: func(c *raw) []byte { return c.frame(0x3, nil) }, reason: im.ReasonProtocolError},
	{name: "unmasked frame", bytes: func(*raw) []byte { return []byte{0x82, 0x01, 0x00} }, reason: im.ReasonProtocolError, only: "ws"},
	{name: "reserved bit", bytes: func(*raw) []byte { return []byte{0xc2, 0x80, 0, 0, 0, 0} }, reason: im.ReasonProtocolError, only: "ws"},
	{name: "fragmented ping", bytes: func(*raw) []byte { return []byte{0x09, 0x80, 0, 0, 0, 0} }, reason: im.ReasonProtocolError, only: "ws"},
}

// A malformed packet of every kind, before and after the login, on both transports: each gets its
// close code, the server stays up, and no goroutine and no descriptor is left behind.
func testMalformed(t *testing.T, c *site) {
	bob := c.user(t, c.GatewayURLs[1], "malformed-bob", legacy())
	alice := c.token(t, "malformed-alice")
	goroutinesBefore, descriptorsBefore := goroutines(t, c.Gateways[0]), descriptors(t, c.Gateways[0])
	urls := []string{c.GatewayURLs[0], c.GatewayTCPURLs[0]}
	for _, url := range urls {
		for _, m := range malformations {
			if m.only != "" && !strings.HasPrefix(url, m.only) {
				continue
			}
			for _, login := range []bool{false, true} {
				conn := dialRawURL(t, url)
				what := fmt.Sprintf("%s, %s, signed in: %v", m.name, url, login)
				if login {
					conn.signIn(alice)
				}
				conn.write(m.bytes(conn))
				packets, code := conn.ends()
				require.Empty(t, packets, what)
				require.Equal(t, m.reason.Code(), code, what)
				require.NoError(t, conn.Close())
			}
		}
		testBadLogins(t, c, url)
		testBadRequests(t, c, url)
	}
	eventually(t, wait, "no descriptor is left behind", func() bool { return descriptors(t, c.Gateways[0]) <= descriptorsBefore+2 })
	eventually(t, wait, "no goroutine is left behind", func() bool { return goroutines(t, c.Gateways[0]) <= goroutinesBefore+5 })
	c.user(t, c.GatewayURLs[0], "malformed-alice", legacy()).say("malformed-bob", "still there")
	bob.hears(wire.CmdUserTalk, "malformed-bob", "malformed-alice", "still there")
}

// testBadLogins: what is no login is answered with 105, or 101, and closed with 4001.
func testBadLogins(t *testing.T, c *site, url string) {
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"acc": "eve", "app": "default", "exp": time.Now().Add(time.Hour).Unix()}).
		SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	expired, err := token.Issue([]byte(c.Secret), token.Claims{Account: "eve", Expires: time.Now().Add(-time.Hour)})
	require.NoError(t, err)
	talk := (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}}).Append(nil)
	garbage := (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Sequence: 1}, Body: []byte{0xff}}).Append(nil)
	for what, l := range map[string]struct {
		packet []byte
		status wire.Status
	}{
		"alg none":       {signInPacket(t, none), wire.StatusUnauthorized},
		"expired":        {signInPacket(t, expired), wire.StatusUnauthorized},
		"wrong secret":   {signInPacket(t, issue(t, "another secret", "default", "eve")), wire.StatusUnauthorized},
		"no token":       {signInPacket(t, ""), wire.StatusUnauthorized},
		"talk first":     {talk, wire.StatusUnauthorized},
		"no LoginReq":    {garbage, wire.StatusInvalidBody},
		"token is bytes": {signInPacket(t, strings.Repeat("a.", 1000)), wire.StatusUnauthorized},
	} {
		conn := dialRawURL(t, url)
		conn.write(conn.frame(im.OpBinary, l.packet))
		packets, code := conn.ends()
		require.Len(t, packets, 1, what)
		require.Equal(t, l.status, packets[0].Status, what)
		require.Equal(t, wire.FlagResponse, packets[0].Flag, what)
		require.Equal(t, im.ReasonUnauthorized.Code(), code, what)
		require.NoError(t, conn.Close())
	}
}

// testBadRequests: a well-formed packet that asks for what cannot be is answered, and the connection lives.
func testBadRequests(t *testing.T, c *site, url string) {
	u := c.user(t, url, "requests-alice", legacy())
	for what, r := range map[string]struct {
		packet wire.LogicPkt
		want   wire.Status
	}{
		"no protobuf":       {wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Dest: "bob"}, Body: []byte{0xff}}, wire.StatusInvalidBody},
		"unknown command":   {wire.LogicPkt{Header: wire.Header{Command: "chat.unknown"}}, wire.StatusNotImplemented},
		"no command":        {wire.LogicPkt{}, wire.StatusInvalidCommand},
		"a second sign-in":  {wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn}}, wire.StatusInvalidCommand},
		"internal: renew":   {wire.LogicPkt{Header: wire.Header{Command: wire.CmdSessionRenew}}, wire.StatusInvalidCommand},
		"internal: end":     {wire.LogicPkt{Header: wire.Header{Command: wire.CmdSessionEnd}}, wire.StatusInvalidCommand},
		"internal: hello":   {wire.LogicPkt{Header: wire.Header{Command: wire.CmdLinkHello}}, wire.StatusInvalidCommand},
		"a response":        {wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagResponse, Dest: "bob"}}, wire.StatusInvalidCommand},
		"a push":            {wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush, Dest: "bob"}}, wire.StatusInvalidCommand},
		"no destination":    {wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk}}, wire.StatusNoDestination},
		"group is a number": {wire.LogicPkt{Header: wire.Header{Command: wire.CmdGroupTalk, Dest: "99999999999999999999"}}, wire.StatusNoDestination},
	} {
		a, err := u.ask(within(t), &r.packet)
		require.NoError(t, err, what)
		require.Equal(t, r.want, a.Status, what)
		require.Equal(t, wire.FlagResponse, a.Flag, what)
	}
	require.NoError(t, u.sendBytes(wire.Ping))
	require.NoError(t, u.await(within(t), func() bool { return u.pongs == 1 }))
	u.hangUp()
}
