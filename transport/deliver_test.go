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

// forAllDeliveries runs the test on every variant of server and driver of the client.
func forAllDeliveries(t *testing.T, f func(t *testing.T, v variant, opts transport.ClientOptions)) {
	forAll(t, func(t *testing.T, v variant) {
		for name, driver := range map[string]transport.Driver{"auto": transport.DriverAuto, "goroutine": transport.DriverGoroutine} {
			t.Run(name, func(t *testing.T) { f(t, v, transport.ClientOptions{Driver: driver}) })
		}
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
	forAllDeliveries(t, func(t *testing.T, v variant, opts transport.ClientOptions) {
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
	forAllDeliveries(t, func(t *testing.T, v variant, opts transport.ClientOptions) {
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
			forAllDeliveries(t, func(t *testing.T, v variant, opts transport.ClientOptions) {
				tt.opts.Driver = opts.Driver
				n := start(t, v, transport.Options{}, nil)
				c := n.client(t, "a", tt.opts)
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
	for name, driver := range map[string]transport.Driver{"auto": transport.DriverAuto, "goroutine": transport.DriverGoroutine} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close() //nolint:errcheck // a test's
			c := tcp.NewClient("a", "", transport.ClientOptions{
				Driver: driver, ReadWait: time.Second, WriteWait: time.Hour, QueueBytes: 64 << 20,
			})
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
}

func TestDeliverNotConnected(t *testing.T) {
	c := tcp.NewClient("a", "", transport.ClientOptions{})
	require.ErrorIs(t, c.Deliver(nil), transport.ErrNotConnected)
}
