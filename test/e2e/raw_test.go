package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
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

// upgradeRequest begins a WebSocket connection.
const upgradeRequest = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// dialRawURL connects to a ws:// or tcp:// URL and upgrades.
func dialRawURL(t testing.TB, url string) *raw {
	t.Helper()
	c := dialUnupgraded(t, url)
	if c.ws {
		c.write([]byte(upgradeRequest))
		require.Equal(t, "HTTP/1.1 101 Switching Protocols", c.httpStatus())
	}
	return c
}

// dialUnupgraded connects and says nothing.
func dialUnupgraded(t testing.TB, url string) *raw {
	t.Helper()
	scheme, addr, _ := strings.Cut(url, "://")
	c := &raw{Conn: dialRaw(t, addr), ws: scheme == "ws", t: t}
	c.r = bufio.NewReader(c.Conn)
	return c
}

// httpStatus reads the head of an HTTP answer and returns its first line.
func (c *raw) httpStatus() string {
	c.t.Helper()
	first, err := c.r.ReadString('\n')
	require.NoError(c.t, err)
	for line := first; line != "\r\n"; {
		line, err = c.r.ReadString('\n')
		require.NoError(c.t, err)
	}
	return strings.TrimSpace(first)
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
	require.NoError(c.t, c.SetDeadline(time.Now().Add(wait)))
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
