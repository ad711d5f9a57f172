package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// target is a gateway's address, resolved once.
type target struct {
	url       string
	address   netip.AddrPort
	websocket bool
}

// parseTarget reads ws://host:port or tcp://host:port, where host is an IPv4 address: many
// connections from many source addresses need to know which.
func parseTarget(s string) (target, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "ws" && u.Scheme != "tcp") {
		return target{}, fmt.Errorf("%q: give a gateway as ws://ADDRESS:PORT or tcp://ADDRESS:PORT", s)
	}
	a, err := netip.ParseAddrPort(u.Host)
	if err != nil || !a.Addr().Is4() {
		return target{}, fmt.Errorf("%q: give the gateway's IPv4 address and port", s)
	}
	return target{url: s, address: a, websocket: u.Scheme == "ws"}, nil
}

// parseTargets reads URLs of one kind.
func parseTargets(urls []string) (list []target, err error) {
	for _, u := range urls {
		t, err := parseTarget(u)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 && t.websocket != list[0].websocket {
			return nil, errors.New("give URLs of one kind: ws:// or tcp://")
		}
		list = append(list, t)
	}
	return list, nil
}

// sourceAddress is the i-th of n addresses to connect from: on loopback there are many, each with
// its own ports.
func (t target) sourceAddress(i, n int) (netip.Addr, bool) {
	if n < 2 || !t.address.Addr().IsLoopback() {
		return netip.Addr{}, false
	}
	a := t.address.Addr().As4()
	i %= n
	a[2], a[3] = byte(1+i/250), byte(1+i%250)
	return netip.AddrFrom4(a), true
}

// socket is a connection while it logs in. It is the runtime's until detach: a thread blocked in each read would be
// woken by the server's writes, at the server's cost.
type socket struct {
	net.Conn
	target target
}

// detach returns a descriptor of the connection, which does not block, and forgets the rest.
func (s *socket) detach() (fd int, err error) {
	defer s.Close() //nolint:errcheck // the connection lives on in fd
	raw, err := s.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(ctlErr, os.NewSyscallError("dup", err))
}

// maxConnections is how many connections this process may have by its limit of descriptors, if so many log in at a
// time, of which each has a second one for a moment.
func maxConnections(parallel int) (int, error) {
	const others = 64 // logs, epoll, what the runtime has
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of descriptors: %w", err)
	}
	return int(min(limit.Cur, math.MaxInt32)) - others - parallel, nil
}

// enoughDescriptors reports whether this process may open so many, and says how to get more.
func enoughDescriptors(connections, parallel int) error {
	most, err := maxConnections(parallel)
	if err == nil && connections > most {
		err = fmt.Errorf("%d connections need as many descriptors, and this process has %d for them: raise 'ulimit -n'", connections, most)
	}
	return err
}

// socketWait bounds a login, and the connect before it.
const socketWait = 10 * time.Second

// dialSocket connects, from source if that is valid, and upgrades to WebSocket.
func dialSocket(t target, source netip.Addr) (_ *socket, err error) {
	dialer := net.Dialer{Timeout: socketWait, KeepAlive: -1}
	if source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		dialer.Control = portAtConnect
	}
	conn, err := dialer.Dial("tcp4", t.address.String())
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn, target: t}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(socketWait)); err != nil {
		return nil, err
	}
	if t.websocket {
		if err := s.upgrade(); err != nil {
			return nil, fmt.Errorf("upgrade at %s: %w", t.address, err)
		}
	}
	return s, nil
}

// portAtConnect has connect choose the port, and not bind, so that each address has all ports for each gateway.
func portAtConnect(_, _ string, c syscall.RawConn) (err error) {
	ctlErr := c.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	})
	return errors.Join(ctlErr, err)
}

// upgrade does the opening handshake of RFC 6455, section 4, without checking more than that it worked.
func (s *socket) upgrade() error {
	const key = "aGVybW9kIGJlbmNoIGtleQ==" // any 16 bytes: the server's are not in doubt
	request := "GET / HTTP/1.1\r\nHost: " + s.target.address.String() + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: 13\r\n\r\n"
	if _, err := s.Write([]byte(request)); err != nil {
		return err
	}
	var buf [1024]byte
	for n := 0; n < len(buf); {
		m, err := s.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
		if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) { // the server says nothing more before the login
			if !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 101")) {
				return fmt.Errorf("answered %q", bytes.SplitN(buf[:n], []byte("\r\n"), 2)[0])
			}
			return nil
		}
	}
	return errors.New("answer too long")
}

// signIn logs in and waits for the answer.
func (s *socket) signIn(token, device string) error {
	body, err := proto.Marshal(&pb.LoginReq{Token: token, Device: device, Platform: "bench", Features: wire.FeatureSync.Names()})
	if err != nil {
		return err
	}
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Sequence: 1}, Body: body}
	if _, err := s.Write(appendFrame(nil, s.target.websocket, im.OpBinary, p.Append(nil))); err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	buf := make([]byte, 0, 512)
	for {
		op, payload, n := cutFrame(buf, s.target.websocket)
		switch {
		case n == 0:
			buf = slices.Grow(buf, 512)
			m, err := s.Read(buf[len(buf):cap(buf)])
			if err != nil {
				return fmt.Errorf("sign in: %w", err)
			}
			buf = buf[:len(buf)+m]
			continue
		case op != im.OpBinary:
			return fmt.Errorf("sign in: the server closed: %q", payload)
		}
		var answer wire.LogicPkt
		if err := answer.Unmarshal(payload); err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
		if answer.Command != wire.CmdSignIn || answer.Status != wire.StatusSuccess {
			return fmt.Errorf("sign in: answered with %s: is --secret the servers'?", answer.Status)
		}
		return nil
	}
}

// appendFrame appends a client's frame, of at most 65,535 bytes. The WebSocket mask is 0: it costs
// nothing, and the server cannot tell.
func appendFrame(dst []byte, websocket bool, op im.OpCode, payload []byte) []byte {
	if !websocket {
		dst = append(dst, byte(op))
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
		return append(dst, payload...)
	}
	const fin, masked, len16 = 0x80, 0x80, 126
	dst = append(dst, fin|byte(op))
	if len(payload) < len16 {
		dst = append(dst, masked|byte(len(payload)))
	} else {
		dst = append(dst, masked|len16)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// cutFrame cuts a server's frame off the front of b: n is its size, 0 if it is not all there.
func cutFrame(b []byte, websocket bool) (op im.OpCode, payload []byte, n int) {
	var head, size int
	switch {
	case !websocket:
		if len(b) < 5 {
			return 0, nil, 0
		}
		head, size = 5, int(binary.BigEndian.Uint32(b[1:]))
	case len(b) < 2:
		return 0, nil, 0
	default:
		head, size = 2, int(b[1]&0x7f)
		switch {
		case size == 126 && len(b) >= 4:
			head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
		case size == 127 && len(b) >= 10:
			head, size = 10, int(binary.BigEndian.Uint64(b[2:]))
		case size >= 126:
			return 0, nil, 0
		}
	}
	if size < 0 || size > len(b)-head {
		return 0, nil, 0
	}
	return im.OpCode(b[0] & 0xf), b[head : head+size], head + size
}
