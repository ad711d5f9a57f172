package transport_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

// newClient returns one of our clients and the address to connect it to.
func (n *node) newClient(id string, opts transport.ClientOptions) (*transport.Client, string) {
	address := n.Addr(0).String()
	if n.v.tls {
		opts.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	if !n.v.isWebSocket() {
		return tcp.NewClient(id, "test", opts), address
	}
	if n.v.tls {
		return websocket.NewClient(id, "test", opts), "wss://" + address + "/path"
	}
	return websocket.NewClient(id, "test", opts), "ws://" + address
}

// client connects one of our clients and logs in by hand.
func (n *node) client(t testing.TB, id string, opts transport.ClientOptions) *transport.Client {
	t.Helper()
	c, address := n.newClient(id, opts)
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
		require.Equal(t, "a", c.ID())
		require.Equal(t, "test", c.Name())
		for i := range 1000 {
			require.NoError(t, c.Send(fmt.Append(nil, i)))
		}
		for i := range 1000 {
			require.Equal(t, fmt.Sprint(i), read(t, c))
		}
		require.Error(t, c.Connect(n.Addr(0).String())) // once only
		c.Close()
		c.Close()
		<-c.Done()
		require.ErrorIs(t, c.Send(nil), im.ErrChannelClosed)
		_, err := c.Read()
		require.ErrorIs(t, err, io.EOF)
		n.app.untilEvent(t, "disconnect a")
		require.EqualValues(t, 1, n.metrics.Closed[im.ReasonClosedByPeer].Load())
	})
}

// What was sent before Close arrives, though nobody reads the answers.
func TestClientCloseDrains(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 64 << 20}, nil)
		n.app.receive = func(from im.Agent, payload []byte) {
			n.app.note("got")
			_ = from.Push(payload)
		}
		c := n.client(t, "a", transport.ClientOptions{})
		for range 200 {
			require.NoError(t, c.Send(make([]byte, 1000)))
		}
		c.Close()
		<-c.Done()
		n.app.untilEvent(t, "disconnect a")
		n.app.mu.Lock()
		defer n.app.mu.Unlock()
		require.Equal(t, 200, count(n.app.events, "got"))
	})
}

// Close wakes a Read under way.
func TestClientCloseWhileReading(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", transport.ClientOptions{})
		got := make(chan error)
		go func() {
			_, err := c.Read()
			got <- err
		}()
		c.Close()
		require.ErrorIs(t, <-got, io.EOF)
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

// The frame of the last Read stays as it is when another goroutine closes the client: what the peer sent after it
// was read into the same buffer, and that of a client of a pool went to the others.
func TestClientCloseLeavesTheFrame(t *testing.T) {
	forEachDelivery(t, transport.ClientOptions{}, func(t *testing.T, opts transport.ClientOptions) {
		forAll(t, func(t *testing.T, v variant) {
			n := start(t, v, transport.Options{}, nil)
			want, other := bytes.Repeat([]byte("w"), 500), bytes.Repeat([]byte("o"), 500)
			for i := range 10 { // a pool of buffers forgets some
				id := fmt.Sprint(i)
				c := n.client(t, id, opts)
				require.NoError(t, n.Push(id, want))
				frame, err := c.Read()
				require.NoError(t, err)
				require.NoError(t, n.Push(id, other))
				c.Close()
				<-c.Done()
				next := n.client(t, "next "+id, opts)
				require.NoError(t, n.Push("next "+id, other))
				require.Equal(t, string(other), read(t, next))
				require.Equal(t, string(want), string(frame.GetPayload()))
			}
		})
	})
}

// Heartbeats keep both ends alive that are silent otherwise.
func TestClientHeartbeat(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{ReadWait: 250 * time.Millisecond}, nil)
		c := n.client(t, "a", transport.ClientOptions{Heartbeat: 20 * time.Millisecond, ReadWait: 250 * time.Millisecond})
		late := time.AfterFunc(600*time.Millisecond, func() { _ = n.Push("a", []byte("still there")) })
		defer late.Stop()
		require.Equal(t, "still there", read(t, c))
	})
}

func TestClientReadWait(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", transport.ClientOptions{ReadWait: 50 * time.Millisecond})
		_, err := c.Read()
		var closed *im.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, im.ReasonTimeout, closed.Reason)
		require.ErrorIs(t, c.Send(nil), im.ErrChannelClosed)
		<-c.Done()
	})
}

func TestClientQueueFull(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		blocked := make(chan struct{})
		n := start(t, v, transport.Options{}, &app{receive: func(im.Agent, []byte) { <-blocked }})
		c := n.client(t, "a", transport.ClientOptions{QueueBytes: 100 << 10, WriteWait: 100 * time.Millisecond})
		var err error
		for err == nil {
			err = c.Send(make([]byte, 10<<10))
		}
		require.ErrorIs(t, err, im.ErrQueueFull)
		require.ErrorIs(t, c.Send(nil), im.ErrChannelClosed)
		<-c.Done()
		require.Zero(t, c.QueuedBytes())
		close(blocked)
	})
}

func TestClientRefusesTooLarge(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", transport.ClientOptions{MaxPacket: 100})
		require.NoError(t, n.Push("a", make([]byte, 101)))
		_, err := c.Read()
		var closed *im.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, im.ReasonTooLarge, closed.Reason)
		require.ErrorIs(t, err, im.ErrFrameTooLarge)
	})
}

func TestClientNotConnected(t *testing.T) {
	c := tcp.NewClient("a", "", transport.ClientOptions{DialWait: time.Second})
	require.ErrorIs(t, c.Send(nil), transport.ErrNotConnected)
	_, err := c.Read()
	require.ErrorIs(t, err, transport.ErrNotConnected)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	require.Error(t, c.Connect(ln.Addr().String()))
	c.Close()
	require.ErrorIs(t, c.Connect(ln.Addr().String()), im.ErrChannelClosed)
}

// loginDialer logs in while dialling, as an SDK or a link does.
type loginDialer struct {
	im.Dialer
	conn func(net.Conn, int) *transport.Conn
}

func (d loginDialer) DialAndHandshake(ctx im.DialerContext) (net.Conn, error) {
	raw, err := d.Dialer.DialAndHandshake(ctx)
	if err != nil {
		return nil, err
	}
	conn := d.conn(raw, im.DefaultMaxPacket)
	if err := conn.SetDeadline(time.Now().Add(ctx.Timeout)); err != nil {
		return nil, err
	}
	_ = conn.WriteFrame(im.OpPing, nil)
	_ = conn.WriteFrame(im.OpBinary, []byte(ctx.Id))
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	f, err := conn.ReadFrame()
	if err != nil {
		return nil, err
	}
	if string(f.GetPayload()) != "hello "+ctx.Id {
		return nil, errors.New("not welcome")
	}
	return conn, nil
}

// A Dialer may log in over frames; what it reads ahead of the answer is not lost.
func TestClientDialerLogsIn(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, &app{accept: func(c im.Conn, _ time.Duration) (string, error) {
			f, err := c.ReadFrame()
			if err != nil {
				return "", err
			}
			id := string(f.GetPayload())
			for _, s := range []string{"hello " + id, "one", "two"} { // in one write
				_ = c.WriteFrame(im.OpBinary, []byte(s))
			}
			return id, c.Flush()
		}})
		c, address := n.newClient("a", transport.ClientOptions{})
		insecure := &tls.Config{InsecureSkipVerify: true}
		switch {
		case v.isWebSocket():
			c.SetDialer(loginDialer{Dialer: websocket.Dialer{TLS: insecure}, conn: websocket.NewConn})
		case v.tls:
			c.SetDialer(loginDialer{Dialer: tcp.Dialer{TLS: insecure}, conn: tcp.NewConn})
		default:
			c.SetDialer(loginDialer{Dialer: tcp.Dialer{}, conn: tcp.NewConn})
		}
		require.NoError(t, c.Connect(address))
		require.Equal(t, "one", read(t, c))
		require.Equal(t, "two", read(t, c))
		require.NoError(t, c.Send([]byte("x")))
		require.Equal(t, "x", read(t, c))
		c.Close()
		<-c.Done()
	})
}

// A server that sends frames along with its answer to the upgrade: they are not lost.
func TestWebSocketFramesWithTheAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var server sync.WaitGroup
	server.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var answer answerConn
		answer.Conn = conn
		if _, err := websocket.Protocol().Upgrade(&answer); err != nil {
			t.Error(err)
		}
		all := websocket.Protocol().AppendFrame(answer.held, im.OpBinary, []byte("early"))
		all = websocket.Protocol().AppendFrame(all, im.OpText, []byte("text"))
		_, _ = conn.Write(all)
		_, _ = io.Copy(io.Discard, conn)
	})
	c := websocket.NewClient("a", "", transport.ClientOptions{})
	require.NoError(t, c.Connect("ws://"+ln.Addr().String()))
	require.Equal(t, "early", read(t, c))
	_, err = c.Read()
	var closed *im.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, im.ReasonUnsupportedData, closed.Reason)
	c.Close()
	<-c.Done()
	server.Wait()
}

// answerConn holds back what is written.
type answerConn struct {
	net.Conn
	held []byte
}

func (c *answerConn) Write(p []byte) (int, error) {
	c.held = append(c.held, p...)
	return len(p), nil
}
