package transport

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener accepts connections that a poller watches from the beginning: the runtime's own poller never
// hears of them, and they are no channels yet, see joining.
type listener struct {
	addr    net.Addr
	file    *os.File
	raw     syscall.RawConn
	pollers *pollers
	host    *host
}

// listen makes a listener of one whose connections become channels of h; ln is closed. Without pollers ln is fine
// as it is.
func (ps *pollers) listen(ln net.Listener, h *host) (net.Listener, error) {
	tcp, ok := ln.(*net.TCPListener)
	if !ok || len(ps.all) == 0 {
		return ln, nil
	}
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) { // what is accepted has it, too
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	})
	if err == nil {
		err = ctlErr
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	_ = ln.Close() // file is another descriptor of it
	return &listener{addr: ln.Addr(), file: file, raw: raw, pollers: ps, host: h}, nil
}

// Accept waits for a connection, which is a *joining.
func (l *listener) Accept() (net.Conn, error) {
	var (
		fd   int
		from unix.Sockaddr
		err  error
	)
	waitErr := l.raw.Read(func(s uintptr) bool {
		fd, from, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		for err == unix.EINTR || err == unix.ECONNABORTED { // which one, we never knew
			fd, from, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		}
		return err != unix.EAGAIN
	})
	switch {
	case waitErr != nil:
		return nil, fmt.Errorf("%w: %w", net.ErrClosed, waitErr)
	case err != nil:
		return nil, os.NewSyscallError("accept4", err)
	}
	return l.pollers.join(fd, remoteFrom(from), l.host)
}

// Close has Accept return net.ErrClosed.
func (l *listener) Close() error { return l.file.Close() }

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

func remoteFrom(addr unix.Sockaddr) (r remote) {
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		r.addr, r.port = netip.AddrFrom4(a.Addr).As16(), uint16(a.Port)
	case *unix.SockaddrInet6:
		r.addr, r.port = a.Addr, uint16(a.Port)
	}
	return r
}

// joining is a connection during its handshake: a net.Conn for the goroutine that does it, and the socket of the
// channel that it will be, by which the poller knows it. The channel is nobody else's, and has a reader
// already, until promote; from then on the net.Conn is as good as closed.
type joining struct {
	*poller
	c *Channel

	// Guarded by the channel's mu.
	readable        bool // there is something to read
	hungUp          bool // to be read to its end
	writable        bool // again, after a write that was not
	closed          bool
	readBy, writeBy time.Time
	changed         chan struct{} // closed at a change of the above; nil: nobody waits
}

var (
	_ net.Conn = (*joining)(nil)
	_ socket   = (*joining)(nil)
)

// join has a poller watch the descriptor; after an error it is closed.
func (ps *pollers) join(fd int, from remote, h *host) (net.Conn, error) {
	j := &joining{poller: ps.pick(), c: &Channel{host: h, remote: from, reading: true}}
	j.c.sock = j
	if err := j.poller.add(j.c, fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return j, nil
}

// promote ends the handshake and returns the channel, which is open, and reads once begin is called; nil if the
// connection is none that the pollers accepted, or closed.
func (ps *pollers) promote(conn net.Conn, id string, r *frameReader) *Channel {
	j, ok := conn.(*joining)
	if !ok {
		return nil
	}
	c := j.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.closed {
		return nil
	}
	c.id, c.reader, c.sock = id, r, j.poller
	c.missed, c.peerClosed = j.readable || j.hungUp, j.hungUp
	j.touch(c.place)
	j.change()
	return c
}

// joins says that the handshake is not over.
func (c *Channel) joins() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.sock.(*joining)
	return ok
}

// happened is the poller's call. Locked.
func (j *joining) happened(flags uint32) {
	j.readable = j.readable || flags&readable != 0
	j.hungUp = j.hungUp || flags&hungUp != 0
	j.writable = j.writable || flags&unix.EPOLLOUT != 0
	j.change()
}

// change wakes who waits. Locked.
func (j *joining) change() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// gone: the connection is closed, or a channel, which has the descriptor now. Locked.
func (j *joining) gone() bool { return j.closed || j.c.sock != socket(j) }

// usable says whether reads, or writes, may go on. Locked.
func (j *joining) usable(deadline time.Time) error {
	switch {
	case j.gone():
		return net.ErrClosed
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// await waits for a change or the deadline, unlocked.
func (j *joining) await(deadline time.Time) {
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	changed := j.changed
	j.c.mu.Unlock()
	defer j.c.mu.Lock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-changed:
	case <-late:
	}
}

// Read implements net.Conn.
func (j *joining) Read(b []byte) (int, error) {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	for {
		if err := j.usable(j.readBy); err != nil {
			return 0, err
		}
		if len(b) == 0 {
			return 0, nil
		}
		if !j.readable && !j.hungUp {
			j.await(j.readBy)
			continue
		}
		n, errno := rawRead(int(j.c.place.fd), b)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			j.readable, j.hungUp = false, false
		case errno != 0:
			return 0, os.NewSyscallError("read", errno)
		case n == 0:
			return 0, io.EOF
		default:
			j.readable = n == len(b)
			return n, nil
		}
	}
}

// Write implements net.Conn.
func (j *joining) Write(b []byte) (n int, err error) {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	for {
		if err := j.usable(j.writeBy); err != nil || n == len(b) {
			return n, err
		}
		more, errno := rawWrite(int(j.c.place.fd), b[n:])
		switch errno {
		case 0:
			n += more
		case unix.EINTR:
		case unix.EAGAIN:
			if err := j.untilWritable(); err != nil {
				return n, err
			}
		default:
			return n, os.NewSyscallError("write", errno)
		}
	}
}

// untilWritable waits until the socket takes bytes, is closed, or it is late.
func (j *joining) untilWritable() error {
	j.writable = false
	if err := j.control(unix.EPOLL_CTL_MOD, j.c.place, allEvents); err != nil {
		return err
	}
	for !j.writable && j.usable(j.writeBy) == nil {
		j.await(j.writeBy)
	}
	return nil
}

// Close implements net.Conn.
func (j *joining) Close() error {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.gone() {
		return net.ErrClosed
	}
	j.closed = true
	j.change()
	j.release(j.c)
	return nil
}

// CloseWrite shuts down the writing half.
func (j *joining) CloseWrite() error {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.gone() {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(int(j.c.place.fd), unix.SHUT_WR))
}

// LocalAddr implements net.Conn; nil if the connection is closed or a channel.
func (j *joining) LocalAddr() net.Addr {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.gone() {
		return nil
	}
	addr, err := unix.Getsockname(int(j.c.place.fd))
	if err != nil {
		return nil
	}
	return remoteFrom(addr).tcpAddr()
}

// RemoteAddr implements net.Conn.
func (j *joining) RemoteAddr() net.Addr { return j.c.RemoteAddr() }

// SetDeadline implements net.Conn.
func (j *joining) SetDeadline(t time.Time) error { return j.deadlines(t, true, true) }

// SetReadDeadline implements net.Conn.
func (j *joining) SetReadDeadline(t time.Time) error { return j.deadlines(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (j *joining) SetWriteDeadline(t time.Time) error { return j.deadlines(t, false, true) }

func (j *joining) deadlines(t time.Time, read, write bool) error {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.gone() {
		return net.ErrClosed
	}
	if read {
		j.readBy = t
	}
	if write {
		j.writeBy = t
	}
	j.change()
	return nil
}
