package bench

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// swarm is many logged-in connections on one goroutine: each costs a descriptor and a few words.
//
//	dialSocket, signIn (any goroutine) ─▶ add ─▶ run: epoll_wait, read, frame · ping by turns
type swarm struct {
	// Static after construction.

	websocket bool
	heartbeat time.Duration
	// round is how often the pings are sent that are due by then.
	round time.Duration
	// frame is called by run with each binary frame of connection i; the payload is valid during the call.
	frame func(i int, payload []byte)

	epoll int
	// members are filled by add, each once, and owned by run from then on.
	members []member
	joined  atomic.Int64
	// alive are those that have not ended; pings, pongs and dropped count them.
	alive, pings, pongs, dropped atomic.Int64
	failure                      atomic.Pointer[string] // why the first one ended
	quiet                        atomic.Bool            // no more pings
}

// member is one connection.
type member struct {
	fd      int32
	ready   atomic.Bool
	partial []byte // of a frame that has not come as a whole; nil for almost all
}

// newSwarm has room for n connections.
func newSwarm(n int, websocket bool, heartbeat time.Duration, frame func(int, []byte)) (*swarm, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &swarm{websocket: websocket, heartbeat: heartbeat, round: defaultRound, frame: frame, epoll: epoll, members: make([]member, n)}, nil
}

// add takes a logged-in socket over as connection i. Safe for concurrent use, for different i.
func (s *swarm) add(i int, c *socket) error {
	fd, err := c.detach()
	if err != nil {
		return fmt.Errorf("take a connection over: %w", err)
	}
	s.members[i].fd = int32(fd)
	s.members[i].ready.Store(true)
	s.joined.Add(1)
	s.alive.Add(1)
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(i)})
}

// defaultRound is short enough for pings to come one by one, as those of clients do.
const defaultRound = 20 * time.Millisecond

// run serves the connections until stop is closed, and then closes them.
func (s *swarm) run(stop <-chan struct{}) error {
	defer s.close()
	var (
		events = make([]unix.EpollEvent, 1024)
		buf    = make([]byte, 256<<10)
		next   int // whose ping is next
		due    float64
		last   = time.Now()
	)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		wait := max(time.Millisecond, s.round-time.Since(last))
		n, err := unix.EpollWait(s.epoll, events, int(wait.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(0, n)] {
			s.receive(int(e.Fd), buf)
		}
		now := time.Now()
		if now.Sub(last) < s.round {
			continue
		}
		due += float64(len(s.members)) * now.Sub(last).Seconds() / s.heartbeat.Seconds()
		for last = now; due >= 1; due-- {
			s.ping(next)
			next = (next + 1) % len(s.members)
		}
	}
}

func (s *swarm) close() {
	for i := range s.members {
		if m := &s.members[i]; m.ready.Load() {
			_ = unix.Close(int(m.fd))
		}
	}
	_ = unix.Close(s.epoll)
}

// receive reads what there is and hands on the frames that are complete.
func (s *swarm) receive(i int, buf []byte) {
	m := &s.members[i]
	if !m.ready.Load() {
		return
	}
	kept := copy(buf, m.partial)
	n, err := unix.Read(int(m.fd), buf[kept:])
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return
	case err != nil:
		s.drop(i, err.Error())
		return
	case n == 0:
		s.drop(i, "the server closed the connection")
		return
	}
	data := buf[:kept+n]
	for {
		op, payload, size := cutFrame(data, s.websocket)
		if size == 0 {
			break
		}
		data = data[size:]
		if !s.take(i, op, payload) {
			return
		}
	}
	if len(data) == len(buf) {
		s.drop(i, "a frame larger than the buffer")
		return
	}
	m.partial = append(m.partial[:0], data...)
	if len(data) == 0 {
		m.partial = nil
	}
}

func (s *swarm) take(i int, op im.OpCode, payload []byte) (open bool) {
	switch {
	case op == im.OpClose:
		s.drop(i, fmt.Sprintf("closed: %q", payload[min(2, len(payload)):]))
		return false
	case op != im.OpBinary:
	case wire.MagicOf(payload) == wire.MagicBasicPkt:
		s.pongs.Add(1)
	default:
		s.frame(i, payload)
	}
	return true
}

// send writes a frame to connection i. What the socket does not take at once drops the
// connection: only pings and small requests are sent.
func (s *swarm) send(i int, frame []byte) {
	m := &s.members[i]
	if n, err := unix.Write(int(m.fd), frame); err != nil || n < len(frame) {
		s.drop(i, fmt.Sprintf("%d of %d bytes written: %v", n, len(frame), err))
	}
}

func (s *swarm) ping(i int) {
	if !s.members[i].ready.Load() || s.quiet.Load() {
		return
	}
	var space [32]byte
	s.pings.Add(1)
	s.send(i, appendFrame(space[:0], s.websocket, im.OpBinary, wire.Ping))
}

func (s *swarm) drop(i int, why string) {
	m := &s.members[i]
	m.ready.Store(false)
	m.partial = nil
	_ = unix.Close(int(m.fd))
	s.alive.Add(-1)
	s.dropped.Add(1)
	s.failure.CompareAndSwap(nil, &why)
}
