package transport

import (
	"net"
	"testing"

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

// A channel is not closed by who still has the connection that it was.
func TestPromotedIsNotClosed(t *testing.T) {
	server, client, stop := joiningPipe(t)
	defer stop()
	ps := &pollers{all: []*poller{server.poller}}
	c := ps.promote(server, "a", nil)
	require.NotNil(t, c)
	require.ErrorIs(t, server.Close(), net.ErrClosed)
	_, err := server.poller.write(c, []byte("x"))
	require.NoError(t, err)
	n, err := client.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	server.poller.release(c)
}
