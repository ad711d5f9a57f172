package transport

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// joiningPipe makes a connection of which a poller has accepted one end.
func joiningPipe(t *testing.T) (*joining, *net.TCPConn, func()) {
	t.Helper()
	opts := Options{}.withDefaults()
	h := &host{
		readWait: opts.ReadWait, writeWait: opts.WriteWait, maxPacket: opts.MaxPacket, queueBytes: opts.QueueBytes,
		metrics: opts.Metrics, logf: t.Logf, buffers: new(buffers), batch: new(Batch),
	}
	ps := new(pollers)
	require.NoError(t, ps.start(h, 1))
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := ps.listen(plain, h)
	require.NoError(t, err)
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err := ln.Accept()
	require.NoError(t, err)
	return server.(*joining), client.(*net.TCPConn), func() {
		_ = server.Close()
		_ = client.Close()
		require.NoError(t, ln.Close())
		ps.stop()
	}
}

// During its handshake a connection is what every net.Conn is.
func TestJoiningIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		server, client, stop := joiningPipe(t)
		return server, client, stop, nil
	})
}

// What is accepted has the option of the listener: a system call less for each connection.
func TestAcceptedSocketsDoNotDelay(t *testing.T) {
	server, client, stop := joiningPipe(t)
	defer stop()
	on, err := unix.GetsockoptInt(int(server.c.place.fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
	require.NoError(t, err)
	require.NotZero(t, on)
	require.Equal(t, client.LocalAddr(), server.RemoteAddr())
	require.Equal(t, client.RemoteAddr(), server.LocalAddr())
}

// A closed connection does not become a channel: its descriptor is somebody else's by now.
func TestPromoteClosed(t *testing.T) {
	server, _, stop := joiningPipe(t)
	defer stop()
	ps := &pollers{all: []*poller{server.poller}}
	require.NoError(t, server.Close())
	require.Nil(t, ps.promote(server, "a", nil))
	require.ErrorIs(t, server.Close(), net.ErrClosed)
}

// Who still has the connection that a channel was has nothing: the descriptor may be another client's by now.
func TestPromotedIsGone(t *testing.T) {
	server, client, stop := joiningPipe(t)
	defer stop()
	ps := &pollers{all: []*poller{server.poller}}
	stuck := make(chan error)
	go func() {
		_, err := server.Read(make([]byte, 1))
		stuck <- err
	}()
	c := ps.promote(server, "a", nil)
	require.NotNil(t, c)
	require.ErrorIs(t, <-stuck, net.ErrClosed)

	_, err := server.Write([]byte("stale"))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, server.CloseWrite(), net.ErrClosed)
	require.ErrorIs(t, server.SetDeadline(time.Time{}), net.ErrClosed)
	require.ErrorIs(t, server.Close(), net.ErrClosed)
	require.Nil(t, server.LocalAddr())

	_, err = server.poller.write(c, []byte("x"))
	require.NoError(t, err)
	got := make([]byte, 8)
	n, err := client.Read(got)
	require.NoError(t, err)
	require.Equal(t, "x", string(got[:n]))
	server.poller.release(c)
}

// The silence of a channel begins with the channel.
func TestPromoteIsHeard(t *testing.T) {
	server, _, stop := joiningPipe(t)
	defer stop()
	p := server.poller
	p.mu.Lock()
	p.slots[server.c.place.slot].last -= 1000
	p.mu.Unlock()
	require.False(t, p.stillSilent(server.c, 2000))
	require.True(t, p.stillSilent(server.c, 1000))
	c := (&pollers{all: []*poller{p}}).promote(server, "a", nil)
	require.False(t, p.stillSilent(c, 1000))
	p.release(c)
}

// Who gave up while a server was frozen, and has connected again, was logged in when it went on, perhaps after the newer
// connection, which the older one then displaced.
func TestWhoHasLeftIsNotConnected(t *testing.T) {
	server, client, stop := joiningPipe(t)
	defer stop()
	ps := &pollers{all: []*poller{server.poller}}
	_, err := client.Write([]byte("sign in"))
	require.NoError(t, err)
	require.NoError(t, client.Close())
	got := make([]byte, 16)
	for err == nil { // to the end
		_, err = server.Read(got)
	}
	require.ErrorIs(t, err, io.EOF)
	c := ps.promote(server, "a", nil)
	require.True(t, c.left())
	server.poller.release(c)
}
