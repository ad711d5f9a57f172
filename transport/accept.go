package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	im "github.com/hermod-im/hermod"
)

// goodbyeWait is how long a refused peer may take to read why.
const goodbyeWait = time.Second

// handshake makes a channel of a fresh connection, or closes it. With the goroutine driver it goes
// on as the channel's reader.
func (s *Server) handshake(raw net.Conn, ep *endpoint) {
	deadline := time.Now().Add(s.opts.LoginWait)
	_ = raw.SetDeadline(deadline)

	conn, refusal, err := s.upgrade(raw, ep)
	if err != nil {
		s.refuse(raw, conn, refusal, err)
		return
	}
	id, err := s.accept(conn, time.Until(deadline))
	if err != nil {
		s.refuse(raw, conn, RefusedLogin, err)
		return
	}
	s.open(id, raw, conn, ep.host)
}

// upgrade does what comes before the first frame. conn is nil while no frame can be written.
func (s *Server) upgrade(raw net.Conn, ep *endpoint) (conn *Conn, _ Refusal, err error) {
	secured := tlsServer(raw, ep.TLS)
	if t, ok := secured.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			return nil, RefusedTLS, err
		}
	}
	rest, err := ep.Protocol.Upgrade(secured)
	if err != nil {
		goodbye(secured)
		return nil, RefusedUpgrade, err
	}
	conn = newConn(secured, ep.Protocol, s.opts.MaxLogin, s.host.buffers)
	conn.reader.add(rest)
	return conn, 0, nil
}

// accept asks the Acceptor. What it has written is flushed in any case.
func (s *Server) accept(conn *Conn, wait time.Duration) (id string, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.host.panicked(v)
			err = &im.CloseError{Reason: im.ReasonInternal}
		}
	}()
	id, err = s.acceptor.Accept(conn, wait)
	if err != nil {
		return "", err
	}
	if err := conn.Flush(); err != nil {
		return "", err
	}
	if _, taken := s.channels.Get(id); taken || id == "" {
		s.host.logf("transport: the acceptor gave the id %q, empty or in use", id)
		return "", &im.CloseError{Reason: im.ReasonInternal}
	}
	return id, nil
}

// refuse closes a connection that will be no channel; if it speaks frames already, it hears why.
func (s *Server) refuse(raw net.Conn, conn *Conn, refusal Refusal, err error) {
	defer s.running.Done()
	if conn != nil {
		s.sayWhy(conn, err)
		conn.reader.release()
	}
	if !s.settled(raw) {
		refusal = RefusedStopping
	}
	s.host.metrics.Refused[refusal].Add(1)
	_ = raw.Close()
}

func (s *Server) sayWhy(conn *Conn, err error) {
	var closed *PeerClosedError
	code, text := uint16(0), ""
	if errors.As(err, &closed) {
		code = closed.Code
	} else {
		reason := im.ReasonOf(err, im.ReasonUnauthorized)
		code, text = reason.Code(), reason.String()
	}
	var payload []byte
	if code != codeNone {
		payload = appendClose(nil, code, text)
	}
	_ = conn.SetDeadline(time.Now().Add(goodbyeWait))
	_ = conn.WriteFrame(im.OpClose, payload)
	if conn.Flush() == nil {
		goodbye(conn.Conn)
	}
}

// goodbye lets the peer read what was written: it closes our half, then waits for the peer's. A
// close with unread bytes would be a reset, and take the last words with it.
func goodbye(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(goodbyeWait))
	if closeWrite(conn) != nil {
		return
	}
	var sink [512]byte
	for {
		if _, err := conn.Read(sink[:]); err != nil {
			return
		}
	}
}

// open makes the connection a channel and hands it to a driver.
func (s *Server) open(id string, raw net.Conn, conn *Conn, h *host) {
	_ = raw.SetDeadline(time.Time{})
	conn.reader.limit = h.maxPacket
	c := s.pollers.promote(conn.Conn, id, conn.reader)
	polled := c != nil
	if !polled {
		c = &Channel{
			id:      id,
			host:    h,
			remote:  remoteOf(raw),
			reader:  conn.reader,
			reading: true, // until readLoop returns
		}
		stream := newStream(c, conn.Conn)
		c.sock, c.reader.src = stream, stream
	}
	s.host.metrics.Accepted.Add(1)
	s.channels.Add(c)
	if !s.settled(raw) {
		// Shutdown may have listed the channels before this one was among them.
		c.Close(im.ReasonGoingAway)
	} else if c.left() {
		// Given up, and perhaps tried again: a server that was frozen has both, and must not take this one for the newer.
		c.Close(im.ReasonClosedByPeer)
	} else if err := s.connect(c); err != nil {
		c.Close(im.ReasonOf(err, im.ReasonInternal))
	}
	if polled {
		s.pollers.begin(c)
		return
	}
	c.readLoop()
}

// connect tells the ConnectListener, if there is one.
func (s *Server) connect(c *Channel) (err error) {
	listener, ok := s.states.(im.ConnectListener)
	if !ok {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			s.host.panicked(v)
			err = &im.CloseError{Reason: im.ReasonInternal}
		}
	}()
	return listener.Connect(c)
}
