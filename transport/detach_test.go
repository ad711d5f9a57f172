package transport_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// detach keeps a connection open as a bare descriptor, so that only the server's side is on the heap.
func detach(t testing.TB, conn *net.TCPConn) int {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	fd := -1
	require.NoError(t, raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	return fd
}

func closeRaw(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
