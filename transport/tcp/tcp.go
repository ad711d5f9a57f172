// Package tcp is the TCP transport: opcode u8 · length u32 big-endian · payload, the opcodes being
// WebSocket's. See docs/protocol.md, "Transports".
package tcp

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// headerSize is opcode and length, in bytes.
const headerSize = 1 + 4

var (
	errOpCode  = fmt.Errorf("%w: unknown opcode", im.ErrProtocol)
	errControl = fmt.Errorf("%w: control frame too long", im.ErrProtocol)
)

// Codec is the framing, the same in both directions.
type Codec struct{}

// Parse implements transport.Codec.
func (Codec) Parse(b []byte, maxPayload int) (transport.Frame, int, error) {
	if len(b) < headerSize {
		return transport.Frame{}, headerSize, nil
	}
	op, size := im.OpCode(b[0]), binary.BigEndian.Uint32(b[1:])
	switch op {
	case im.OpContinuation, im.OpText, im.OpBinary:
		if uint64(size) > uint64(maxPayload) {
			return transport.Frame{}, 0, im.ErrFrameTooLarge
		}
	case im.OpClose, im.OpPing, im.OpPong:
		if size > transport.MaxControl {
			return transport.Frame{}, 0, errControl
		}
	default:
		return transport.Frame{}, 0, errOpCode
	}
	n := headerSize + int(size)
	if len(b) < n {
		return transport.Frame{}, n, nil
	}
	return transport.Frame{Op: op, Payload: b[headerSize:n:n]}, n, nil
}

// AppendFrame implements transport.Codec.
func (Codec) AppendFrame(dst []byte, op im.OpCode, payload []byte) []byte {
	dst = append(dst, byte(op))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

type protocol struct{ Codec }

// Protocol is the server's side. There is nothing to upgrade.
func Protocol() transport.Protocol { return protocol{} }

func (protocol) Name() string { return "tcp" }

func (protocol) Upgrade(net.Conn) ([]byte, error) { return nil, nil }

// Dialer connects to host:port.
type Dialer struct {
	// TLS, if not nil, is spoken below the frames. Its ServerName defaults to the host.
	TLS *tls.Config
}

var _ im.Dialer = Dialer{}

// DialAndHandshake connects and does the TLS handshake, if any.
func (d Dialer) DialAndHandshake(ctx im.DialerContext) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: -1}
	if ctx.Timeout > 0 {
		dialer.Deadline = time.Now().Add(ctx.Timeout)
	}
	conn, err := dialer.Dial("tcp", ctx.Address)
	if err != nil || d.TLS == nil {
		return conn, err
	}
	host, _, _ := net.SplitHostPort(ctx.Address) // it has been dialled
	secured := transport.TLSClient(conn, d.TLS, host)
	_ = secured.SetDeadline(dialer.Deadline)
	if err := secured.Handshake(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, secured.SetDeadline(time.Time{})
}

// NewConn speaks frames over a dialled connection: for a Dialer that logs in before the client
// takes over. Return the Conn itself from DialAndHandshake, since it may have read ahead.
func NewConn(conn net.Conn, maxPacket int) *transport.Conn {
	return transport.NewConn(conn, Codec{}, maxPacket)
}

// NewClient returns a client with the Dialer of this package; its TLS is opts.TLS.
func NewClient(id, name string, opts transport.ClientOptions) *transport.Client {
	return transport.NewClient(id, name, Codec{}, Dialer{TLS: opts.TLS}, opts)
}
