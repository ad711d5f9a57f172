package transport_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
)

// forEachDelivery runs the test with each way in which a client delivers.
func forEachDelivery(t *testing.T, opts transport.ClientOptions, f func(t *testing.T, opts transport.ClientOptions)) {
	for name, driver := range map[string]transport.Driver{"auto": transport.DriverAuto, "goroutine": transport.DriverGoroutine} {
		opts.Driver = driver
		t.Run(name, func(t *testing.T) { f(t, opts) })
		t.Run(name+"/pool", func(t *testing.T) { f(t, pool(t, opts).Options()) })
	}
}

// pool runs a pool until the test's end.
func pool(t *testing.T, opts transport.ClientOptions) *transport.Pool {
	t.Helper()
	p, err := transport.NewPool(2, opts)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// forAllDeliveries runs the test on every variant of server, with each of client.
func forAllDeliveries(t *testing.T, opts transport.ClientOptions, f func(t *testing.T, v variant, opts transport.ClientOptions)) {
	forAll(t, func(t *testing.T, v variant) {
		forEachDelivery(t, opts, func(t *testing.T, opts transport.ClientOptions) { f(t, v, opts) })
	})
}

// deliver runs Deliver: frames come from the first channel, and its result from the second.
func deliver(c *transport.Client) (<-chan string, <-chan error) {
	frames, ended := make(chan string, 2000), make(chan error, 1)
	go func() {
		ended <- c.Deliver(func(payload []byte) error {
			frames <- string(payload)
			return nil
		})
	}()
	return frames, ended
}

func TestDeliver(t *testing.T) {
	forAllDeliveries(t, transport.ClientOptions{}, func(t *testing.T, v variant, opts transport.ClientOptions) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", opts)
		for i := range 500 { // some are on their way while the connection changes hands
			require.NoError(t, c.Send(fmt.Append(nil, i)))
		}
		frames, ended := deliver(c)
		for i := range 500 {
			require.NoError(t, c.Send(fmt.Append(nil, 500+i)))
		}
		for i := range 1000 {
			require.Equal(t, fmt.Sprint(i), <-frames)
		}
		c.Close()
		require.ErrorIs(t, <-ended, io.EOF)
		require.ErrorIs(t, c.Send(nil), im.ErrChannelClosed)
		require.ErrorIs(t, c.Deliver(nil), io.EOF)
		n.app.untilEvent(t, "disconnect a")
	})
}

// What a Read has read ahead is delivered.
func TestDeliverAfterRead(t *testing.T) {
	forAllDeliveries(t, transport.ClientOptions{}, func(t *testing.T, v variant, opts transport.ClientOptions) {
		n := start(t, v, transport.Options{}, &app{accept: func(c im.Conn, _ time.Duration) (string, error) {
			for _, s := range []string{"one", "two", "three"} { // in one write
				_ = c.WriteFrame(im.OpBinary, []byte(s))
			}
			return "a", c.Flush()
		}})
		c, address := n.newClient("a", opts)
		require.NoError(t, c.Connect(address))
		require.Equal(t, "one", read(t, c))
		frames, ended := deliver(c)
		require.Equal(t, "two", <-frames)
		require.Equal(t, "three", <-frames)
		c.Close()
		require.ErrorIs(t, <-ended, io.EOF)
	})
}

func TestDeliverEnds(t *testing.T) {
	broken := errors.New("cannot read this")
	tests := []struct {
		name    string
		opts    transport.ClientOptions
		act     func(ch im.Channel)
		receive func([]byte) error
		want    error
		reason  im.Reason
	}{
		{name: "closed by the server", act: func(ch im.Channel) { ch.Close(im.ReasonDisplaced) }, want: io.EOF},
		{name: "refused by the receiver", act: func(ch im.Channel) { _ = ch.Push(nil) }, receive: func([]byte) error { return broken }, want: broken},
		{name: "silence", opts: transport.ClientOptions{ReadWait: 50 * time.Millisecond}, act: func(im.Channel) {}, reason: im.ReasonTimeout},
		{name: "too large", opts: transport.ClientOptions{MaxPacket: 100}, act: func(ch im.Channel) { _ = ch.Push(make([]byte, 101)) }, reason: im.ReasonTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			forAllDeliveries(t, tt.opts, func(t *testing.T, v variant, opts transport.ClientOptions) {
				n := start(t, v, transport.Options{}, nil)
				c := n.client(t, "a", opts)
				ch, ok := n.Channels().Get("a")
				require.True(t, ok)
				tt.act(ch)
				err := c.Deliver(tt.receive)
				if tt.want != nil {
					require.ErrorIs(t, err, tt.want)
				} else {
					require.Equal(t, tt.reason, im.ReasonOf(err, im.ReasonNone))
				}
				<-c.Done()
			})
		})
	}
}

// A frozen peer is given up after the read wait, not when it has also been given the time to close: it may be that
// it takes nothing any more.
func TestDeliverFromFrozenPeer(t *testing.T) {
	opts := transport.ClientOptions{ReadWait: time.Second, WriteWait: time.Hour, QueueBytes: 64 << 20}
	forEachDelivery(t, opts, func(t *testing.T, opts transport.ClientOptions) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close() //nolint:errcheck // a test's
		c := tcp.NewClient("a", "", opts)
		require.NoError(t, c.Connect(ln.Addr().String()))
		peer, err := ln.Accept()
		require.NoError(t, err)
		defer peer.Close() //nolint:errcheck // a test's
		frames, ended := deliver(c)
		_, err = peer.Write(tcp.Protocol().AppendFrame(nil, im.OpBinary, []byte("the last")))
		require.NoError(t, err)
		require.Equal(t, "the last", <-frames)
		for part := make([]byte, 1<<20); c.QueuedBytes() < 16<<20 && c.Send(part) == nil; { // more than the sockets hold
		}
		require.Equal(t, im.ReasonTimeout, im.ReasonOf(<-ended, im.ReasonNone))
	})
}

// Clients of a pool do not get each other's frames, and one that ends leaves the others alone.
func TestPool(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		const clients, messages = 50, 100
		n := start(t, v, transport.Options{}, nil)
		p := pool(t, transport.ClientOptions{})
		var all []*transport.Client
		var frames []<-chan string
		var ends []<-chan error
		for i := range clients {
			c := n.client(t, fmt.Sprintf("c%d", i), p.Options())
			got, ended := deliver(c)
			all, frames, ends = append(all, c), append(frames, got), append(ends, ended)
		}
		for m := range messages {
			if m == messages/2 {
				for i := 1; i < clients; i += 2 {
					all[i].Close()
				}
			}
			for i := 0; i < clients; i += 2 {
				require.NoError(t, all[i].Send(fmt.Append(nil, i, " ", m)))
			}
		}
		for i := 0; i < clients; i += 2 {
			for m := range messages {
				require.Equal(t, fmt.Sprint(i, " ", m), <-frames[i])
			}
			all[i].Close()
		}
		for i := range clients {
			require.ErrorIs(t, <-ends[i], io.EOF)
		}
	})
}

// Deliver says what the peer's close frame did, as Read does: who stops is not who has broken down.
func TestDeliverHearsWhy(t *testing.T) {
	forAllDeliveries(t, transport.ClientOptions{}, func(t *testing.T, v variant, opts transport.ClientOptions) {
		n := start(t, v, transport.Options{}, nil)
		c := n.client(t, "a", opts)
		ch, ok := n.Channels().Get("a")
		require.True(t, ok)
		_, ended := deliver(c)
		ch.Close(im.ReasonGoingAway)
		want := &transport.PeerClosedError{Code: 1001, Text: "going_away"}
		require.Equal(t, want, <-ended)
		_, err := c.Read()
		require.Equal(t, want, err)
	})
}

func TestDeliverNotConnected(t *testing.T) {
	c := tcp.NewClient("a", "", transport.ClientOptions{})
	require.ErrorIs(t, c.Deliver(nil), transport.ErrNotConnected)
}
