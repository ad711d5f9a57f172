package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// maxWrite is the most that is written before it is counted as written, in bytes.
const maxWrite = 256 << 10

// stream is the socket of the goroutine driver: a net.Conn, read by one goroutine, written by
// another that lives while there is something to write.
type stream struct {
	conn     net.Conn
	host     *host
	out      func([]byte) (int, error) // writes some to conn
	run      func()                    // the flusher
	flushers sync.WaitGroup
	timer    *time.Timer // calls Channel.expired; guarded by Channel.mu
}

// newStream makes c a channel over conn and returns the source that its reader reads.
func newStream(c *Channel, conn net.Conn) *stream {
	s := &stream{conn: conn, host: c.host, out: conn.Write}
	if p := patientBelow(conn); p != nil {
		p.wait = c.host.writeWait
	} else {
		s.out = (&patient{Conn: conn, wait: c.host.writeWait}).some
	}
	s.run = func() {
		defer s.flushers.Done()
		for c.flush() {
		}
	}
	return s
}

// Read implements the reader's source: a read within the read wait.
func (s *stream) Read(p []byte) (int, error) {
	if s.host.readWait > 0 {
		if err := s.conn.SetReadDeadline(time.Now().Add(s.host.readWait)); err != nil {
			return 0, err
		}
	}
	n, err := s.conn.Read(p)
	s.host.metrics.BytesIn.Add(uint64(n))
	return n, err
}

func (s *stream) wake(*Channel) {
	s.flushers.Add(1)
	go s.run()
}

func (s *stream) write(_ *Channel, p []byte) (int, error) {
	return s.out(p[:min(len(p), maxWrite)])
}

func (s *stream) stalled(*Channel) {} // writes block

func (s *stream) closeWrite(*Channel) { _ = closeWrite(s.conn) }

func (s *stream) expire(c *Channel, d time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(d, c.expired)
}

// shut closes the connection below TLS: a close of TLS would wait to say goodbye to a peer that
// takes nothing. closeWrite has said it where there was time.
func (s *stream) shut(*Channel) {
	if s.timer != nil {
		s.timer.Stop()
	}
	_ = rawConn(s.conn).Close()
}

func (s *stream) discards() bool { return true }

func (s *stream) release(*Channel) {}

// below is the connection that conn wraps, or nil.
func below(conn net.Conn) net.Conn {
	if above, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return above.NetConn()
	}
	return nil
}

// rawConn is the connection below TLS and what else wraps it.
func rawConn(conn net.Conn) net.Conn {
	for lower := below(conn); lower != nil; lower = below(conn) {
		conn = lower
	}
	return conn
}

// patient is a connection that is written to for as long as the peer takes bytes. It is below TLS, which a deadline that
// passes breaks for good, however much of a record was written.
type patient struct {
	net.Conn
	wait time.Duration // how long the peer may take nothing; 0: the deadlines are somebody else's
}

// patientBelow is the one below TLS, or nil.
func patientBelow(conn net.Conn) *patient {
	for ; conn != nil; conn = below(conn) {
		if p, ok := conn.(*patient); ok {
			return p
		}
	}
	return nil
}

// Write writes all of b, or fails as some does.
func (p *patient) Write(b []byte) (n int, err error) {
	if p.wait == 0 {
		return p.Conn.Write(b)
	}
	for n < len(b) && err == nil {
		var more int
		more, err = p.some(b[n:])
		n += more
	}
	return n, err
}

// some writes what the peer takes of b within the wait. Of nothing it makes sure by another try, which the pollers allow
// themselves, too, see tick: the runtime hears of room once a third of the send buffer is free, for which a slow peer may
// take longer.
func (p *patient) some(b []byte) (n int, err error) {
	for _, wait := range [...]time.Duration{p.wait, p.wait / 8} {
		if err := p.SetWriteDeadline(time.Now().Add(wait)); err != nil {
			return 0, err
		}
		n, err = p.Conn.Write(b)
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case n > 0:
			return n, nil
		}
	}
	return 0, err
}

// NetConn is the connection below.
func (p *patient) NetConn() net.Conn { return p.Conn }

// readLoop reads until the channel is dead. The caller has set reading.
func (c *Channel) readLoop() {
	c.readFailed(c.deliver(c.reader))
	if c.load() != stateDead {
		c.discard()
	}
	c.endRead()
}
