package transport_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

// client connects one of our clients and logs in by hand.
func (n *node) client(t testing.TB, id string, opts transport.ClientOptions) *transport.Client {
	t.Helper()
	address := n.Addr(0).String()
	if n.v.tls {
		opts.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	var c *transport.Client
	if n.v.isWebSocket() {
		scheme := "ws://"
		if n.v.tls {
			scheme = "wss://"
		}
		address = scheme + address + "/"
		c = websocket.NewClient(id, "test", opts)
	} else {
		c = tcp.NewClient(id, "test", opts)
	}
	require.NoError(t, c.Connect(address))
	t.Cleanup(func() {
		c.Close()
		<-c.Done()
	})
	require.NoError(t, c.Send([]byte(id)))
	require.Equal(t, "hello "+id, read(t, c))
	n.app.untilEvent(t, "connect "+id)
	return c
}

func read(t testing.TB, c *transport.Client) string {
	t.Helper()
	f, err := c.Read()
	require.NoError(t, err)
	require.Equal(t, im.OpBinary, f.GetOpCode())
	return string(f.GetPayload())
}

func TestClient(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", transport.ClientOptions{})
		for i := range 1000 {
			require.NoError(t, c.Send(fmt.Append(nil, i)))
		}
		for i := range 1000 {
			require.Equal(t, fmt.Sprint(i), read(t, c))
		}
		c.Close()
		<-c.Done()
		require.ErrorIs(t, c.Send(nil), im.ErrChannelClosed)
		_, err := c.Read()
		require.ErrorIs(t, err, io.EOF)
		n.app.untilEvent(t, "disconnect a")
	})
}

func TestClientHearsWhy(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", transport.ClientOptions{})
		ch, ok := n.Channels().Get("a")
		require.True(t, ok)
		ch.Close(im.ReasonDisplaced)
		_, err := c.Read()
		var closed *transport.PeerClosedError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, transport.PeerClosedError{Code: 4002, Text: "displaced"}, *closed)
		require.ErrorIs(t, err, io.EOF)
		<-ch.Done()
		_, again := c.Read()
		require.Equal(t, err, again)
	})
}
