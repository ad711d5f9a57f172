package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/gobwas/ws"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// Dialer connects to a ws:// or wss:// URL; an address without a scheme is ws://.
type Dialer struct {
	// TLS is used for wss. May be nil. Its ServerName defaults to the host.
	TLS *tls.Config
}

var _ im.Dialer = Dialer{}

// DialAndHandshake connects, does the TLS handshake for wss and upgrades to WebSocket.
func (d Dialer) DialAndHandshake(dc im.DialerContext) (net.Conn, error) {
	url := dc.Address
	if !strings.Contains(url, "://") {
		url = "ws://" + url
	}
	dialer := ws.Dialer{
		Timeout: dc.Timeout,
		NetDial: (&net.Dialer{KeepAlive: -1}).DialContext,
		TLSClient: func(conn net.Conn, host string) net.Conn {
			return transport.TLSClient(conn, d.TLS, host)
		},
	}
	conn, ahead, _, err := dialer.Dial(context.Background(), url)
	if err != nil {
		return nil, fmt.Errorf("websocket: dial: %w", err)
	}
	if ahead == nil {
		return conn, nil
	}
	rest, _ := ahead.Peek(ahead.Buffered())
	return &aheadConn{Conn: conn, ahead: ahead, left: len(rest)}, nil
}

// aheadConn first gives the frames that came along with the answer to the upgrade.
type aheadConn struct {
	net.Conn
	ahead *bufio.Reader
	left  int
}

func (c *aheadConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return c.Conn.Read(p)
	}
	n, err := c.ahead.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// NetConn is the connection below.
func (c *aheadConn) NetConn() net.Conn { return c.Conn }

// CloseWrite closes the writing half.
func (c *aheadConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// NewConn speaks frames over a dialled connection: for a Dialer that logs in before the client
// takes over. Return the Conn itself from DialAndHandshake, since it may have read ahead.
func NewConn(conn net.Conn, maxPacket int) *transport.Conn {
	return transport.NewConn(conn, clientCodec{}, maxPacket)
}

// NewClient returns a client with the Dialer of this package; its TLS is opts.TLS.
func NewClient(id, name string, opts transport.ClientOptions) *transport.Client {
	return transport.NewClient(id, name, clientCodec{}, Dialer{TLS: opts.TLS}, opts)
}
