package transport

import (
	"net"
	"sync"
	"time"
)

// maxWrite is the most that one deadline covers, in bytes: a peer that takes this much within the
// write wait is slow but alive.
const maxWrite = 256 << 10

// stream is the socket of the goroutine driver: a net.Conn, read by one goroutine, written by
// another that lives while there is something to write.
type stream struct {
	conn     net.Conn
	host     *host
	run      func() // the flusher
	flushers sync.WaitGroup
	timer    *time.Timer // calls Channel.expired; guarded by Channel.mu
}

// newStream makes c a channel over conn and returns the source that its reader reads.
func newStream(c *Channel, conn net.Conn) *stream {
	s := &stream{conn: conn, host: c.host}
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
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.host.writeWait)); err != nil {
		return 0, err
	}
	return s.conn.Write(p[:min(len(p), maxWrite)])
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

// rawConn is the connection below TLS and what else wraps it.
func rawConn(conn net.Conn) net.Conn {
	for {
		above, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = above.NetConn()
	}
}

// readLoop reads until the channel is dead. The caller has set reading.
func (c *Channel) readLoop() {
	c.readFailed(c.deliver(c.reader))
	if c.load() != stateDead {
		c.discard()
	}
	c.endRead()
}
