package transport

import im "github.com/hermod-im/hermod"

// Deliver reads in place of Read until the connection has ended, and returns what Read would have returned, or
// the first error of receive, which closes the client. receive gets the binary frames, in order; a
// payload is valid during the call. With epoll (see ClientOptions.Driver) it runs on a goroutine of the
// client's poller, or of one of its Pool's, as a server's listener does: it must not block on anything.
func (c *Client) Deliver(receive func(payload []byte) error) error {
	ch := c.channel()
	if ch == nil {
		return ErrNotConnected
	}
	d := &delivery{client: c, receive: receive}
	if !c.poll(ch, d) {
		return c.readAll(receive)
	}
	<-ch.Done()
	c.pollers.stop()
	if d.err != nil {
		return d.err
	}
	return c.readError(ch, nil)
}

// readAll is Deliver without a poller.
func (c *Client) readAll(receive func(payload []byte) error) error {
	for {
		frame, err := c.Read()
		if err != nil {
			return err
		}
		if err := receive(frame.GetPayload()); err != nil {
			c.Close()
			return err
		}
	}
}

// poll gives the connection to a poller of its pool, or its own. False: it goes on as before.
func (c *Client) poll(ch *Channel, d *delivery) bool {
	s, ok := ch.sock.(*stream)
	if !ok || c.opts.Driver == DriverGoroutine || !ch.beginRead() {
		return false
	}
	ch.host.receiver = d
	pollers := &c.pollers
	if c.opts.pool != nil {
		pollers = &c.opts.pool.pollers
	} else if err := pollers.start(ch.host, 1); err != nil {
		ch.host.logf("transport: %v; the connection keeps its goroutine", err)
		ch.endRead()
		return false
	}
	if !adopt(pollers, ch, s) {
		c.pollers.reset() // Deliver may be called again
		ch.endRead()
		return false
	}
	pollers.begin(ch)
	return true
}

// adopt replaces the stream by one of the pollers, when its flusher has ended.
func adopt(pollers *pollers, ch *Channel, s *stream) (polled bool) {
	ch.mu.Lock()
	ch.blocked = true // no other flusher
	ch.mu.Unlock()
	s.flushers.Wait()

	ch.mu.Lock()
	defer ch.unlock()
	if ch.load() == stateOpen {
		var err error
		if polled, err = pollers.adopt(ch, s.conn); err != nil {
			ch.host.logf("transport: poller: %v; the connection keeps its goroutine", err)
		}
	}
	ch.blocked = false
	if ch.pending != nil || ch.writing != nil || ch.load() == stateClosing {
		ch.schedule()
	}
	return polled
}

// delivery is the listener of a client that delivers.
type delivery struct {
	client  *Client
	receive func(payload []byte) error
	err     error // owned by the reader
}

func (d *delivery) Receive(_ im.Agent, payload []byte) {
	if d.err != nil {
		return
	}
	if d.err = d.receive(payload); d.err != nil {
		d.client.Close()
	}
}
