package transport

import (
	"net"
	"sync"

	im "github.com/hermod-im/hermod"
)

// Conn implements im.Conn over a connection that speaks frames already: during a server's Accept
// and a Dialer's handshake, before the connection is given to a Channel. One goroutine may read
// while another writes.
//
// ReadFrame answers pings and returns binary frames only: a close frame is a *PeerClosedError, a
// text frame an *im.CloseError. The payload is valid until the next ReadFrame.
type Conn struct {
	net.Conn
	reader *frameReader
	codec  Codec
	frame  Frame

	mu  sync.Mutex
	out []byte // framed, not flushed
}

var _ im.Conn = (*Conn)(nil)

// NewConn speaks the codec over conn. A message above maxPacket bytes is im.ErrFrameTooLarge.
func NewConn(conn net.Conn, codec Codec, maxPacket int) *Conn {
	return newConn(conn, codec, maxPacket, new(buffers))
}

func newConn(conn net.Conn, codec Codec, maxPacket int, pool *buffers) *Conn {
	return &Conn{
		Conn:   conn,
		codec:  codec,
		reader: &frameReader{src: conn, codec: codec, limit: maxPacket, buffers: pool},
	}
}

// ReadFrame returns the next binary frame.
func (c *Conn) ReadFrame() (im.Frame, error) {
	for {
		f, err := c.reader.next()
		if err != nil {
			return nil, err
		}
		switch f.Op {
		case im.OpBinary:
			c.frame = f
			return &c.frame, nil
		case im.OpText:
			return nil, errText
		case im.OpPing:
			if err := c.WriteFrame(im.OpPong, f.Payload); err != nil {
				return nil, err
			}
			if err := c.Flush(); err != nil {
				return nil, err
			}
		case im.OpClose:
			closed, err := parseClose(f.Payload)
			if err != nil {
				return nil, err
			}
			return nil, closed
		}
	}
}

// WriteFrame appends a frame to what Flush will write.
func (c *Conn) WriteFrame(op im.OpCode, payload []byte) error {
	c.mu.Lock()
	c.out = c.codec.AppendFrame(c.out, op, payload)
	c.mu.Unlock()
	return nil
}

// Flush writes the frames.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = nil
	return err
}

// Read reads below the frames: first what ReadFrame has read ahead.
func (c *Conn) Read(p []byte) (int, error) {
	if n := c.reader.take(p); n > 0 {
		return n, nil
	}
	return c.Conn.Read(p)
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// CloseWrite closes the writing half, where the connection has halves.
func (c *Conn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
