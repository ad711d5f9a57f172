package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
)

// ErrNotConnected: the client has not been connected.
var ErrNotConnected = errors.New("not connected")

// ClientOptions of a client. The zero value works.
type ClientOptions struct {
	// DialWait bounds dialling and handshake. Defaults to im.DefaultDialWait.
	DialWait time.Duration
	// Heartbeat is the interval of ping frames. Defaults to none.
	Heartbeat time.Duration
	// ReadWait is the silence after which Read fails with im.ReasonTimeout. Defaults to three
	// heartbeats, or never without them.
	ReadWait time.Duration
	// WriteWait is how long the socket may take nothing, and how long a close may take. Defaults
	// to im.DefaultWriteWait.
	WriteWait time.Duration
	// MaxPacket is the largest message accepted, in bytes. Defaults to im.DefaultMaxPacket.
	MaxPacket int
	// QueueBytes bounds what may wait to be written. Defaults to im.DefaultQueueBytes; more
	// than MaxQueueBytes is as much as that.
	QueueBytes int
	// TLS is for the transport's own Dialer. May be nil.
	TLS *tls.Config
	// Driver is how Deliver reads: DriverAuto, the default, or DriverGoroutine.
	Driver Driver
	// Batch is whose writes go together with those of this client, once Deliver is called; see Options.Batch.
	Batch *Batch
	// Metrics counts what happens. May be nil.
	Metrics *Metrics
	// Logf reports panics of who receives from Deliver, and failures of the poller. May be nil.
	Logf func(format string, args ...any)

	pool *Pool // nil: Deliver has a poller of its own
}

func (o ClientOptions) withDefaults() ClientOptions {
	setDefault(&o.DialWait, im.DefaultDialWait)
	setDefault(&o.ReadWait, 3*o.Heartbeat)
	setDefault(&o.WriteWait, im.DefaultWriteWait)
	setDefault(&o.MaxPacket, im.DefaultMaxPacket)
	setDefault(&o.QueueBytes, im.DefaultQueueBytes)
	o.QueueBytes = min(o.QueueBytes, MaxQueueBytes)
	if o.Batch == nil {
		o.Batch = new(Batch)
	}
	if o.Metrics == nil {
		o.Metrics = new(Metrics)
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return o
}

// host is what the channels of clients with these options share.
func (o ClientOptions) host() *host {
	return &host{
		readWait:   o.ReadWait,
		writeWait:  o.WriteWait,
		maxPacket:  o.MaxPacket,
		queueBytes: o.QueueBytes,
		metrics:    o.Metrics,
		logf:       o.Logf,
		buffers:    new(buffers),
		batch:      o.Batch,
		silent:     true,
	}
}

// Client implements im.Client: one connection, with the queue and the rules of a Channel.
type Client struct {
	// Static after construction.
	id, name string
	codec    Codec
	opts     ClientOptions

	frame   Frame   // what the last Read returned
	pollers pollers // one, while Deliver runs without a pool

	mu     sync.Mutex
	dialer im.Dialer
	ch     *Channel // nil before Connect
	beat   *time.Timer
	closed bool
	err    error // why reading ended
}

var _ im.Client = (*Client)(nil)

// NewClient returns a client of the codec: see tcp.NewClient and websocket.NewClient.
func NewClient(id, name string, codec Codec, dialer im.Dialer, opts ClientOptions) *Client {
	return &Client{id: id, name: name, codec: codec, dialer: dialer, opts: opts.withDefaults()}
}

// ID returns the id given to NewClient.
func (c *Client) ID() string { return c.id }

// Name returns the name given to NewClient.
func (c *Client) Name() string { return c.name }

// SetDialer replaces the transport's Dialer. The connection it returns may be a *Conn.
func (c *Client) SetDialer(d im.Dialer) {
	c.mu.Lock()
	c.dialer = d
	c.mu.Unlock()
}

// Connect dials. A client connects once: make a new one to connect again after a failure.
func (c *Client) Connect(address string) error {
	c.mu.Lock()
	dialer := c.dialer
	err := c.mayConnect()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	conn, err := dialer.DialAndHandshake(im.DialerContext{
		Id: c.id, Name: c.name, Address: address, Timeout: c.opts.DialWait,
	})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return fmt.Errorf("connect to %s: %w", address, err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayConnect(); err != nil {
		_ = conn.Close()
		return err
	}
	h := c.opts.host()
	h.codec, h.ended, h.closedByPeer = c.codec, c.ended, c.closedByPeer
	if c.opts.pool != nil {
		h.buffers = c.opts.pool.host.buffers
	}
	ch := &Channel{id: c.id, host: h, remote: remoteOf(conn)}
	stream := newStream(ch, conn)
	ch.sock = stream
	ch.reader = &frameReader{src: stream, codec: c.codec, limit: c.opts.MaxPacket, buffers: h.buffers, lends: true}
	c.opts.Metrics.Accepted.Add(1)
	c.ch = ch
	c.startHeartbeat()
	return nil
}

func (c *Client) mayConnect() error {
	switch {
	case c.closed:
		return im.ErrChannelClosed
	case c.ch != nil:
		return errors.New("transport: client connected twice")
	}
	return nil
}

// startHeartbeat sends pings until the channel takes no more. Locked.
func (c *Client) startHeartbeat() {
	if c.opts.Heartbeat <= 0 {
		return
	}
	c.beat = time.AfterFunc(c.opts.Heartbeat, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ch.push(im.OpPing, nil) == nil {
			c.beat.Reset(c.opts.Heartbeat)
		}
	})
}

// closedByPeer is the host's callback: Deliver, too, returns what the peer said.
func (c *Client) closedByPeer(ch *Channel, err *PeerClosedError) { _ = c.readError(ch, err) }

// ended is the host's callback: the socket is closed.
func (c *Client) ended(ch *Channel) {
	c.mu.Lock()
	if c.beat != nil {
		c.beat.Stop()
	}
	c.mu.Unlock()
	c.opts.Metrics.Closed[ch.Reason()].Add(1)
	ch.finished()
}

func (c *Client) channel() *Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ch
}

// Send queues one binary frame; see im.Client.
func (c *Client) Send(payload []byte) error {
	ch := c.channel()
	if ch == nil {
		return ErrNotConnected
	}
	return ch.Push(payload)
}

// Read returns the next binary frame, valid until the next Read. After the peer's close frame the
// error is a *PeerClosedError, after Close or the peer's end io.EOF (errors.Is both); a frame that
// breaks the protocol, silence (im.ReasonTimeout) or a full queue is an *im.CloseError.
func (c *Client) Read() (im.Frame, error) {
	ch := c.channel()
	if ch == nil {
		return nil, ErrNotConnected
	}
	if !ch.beginRead() {
		return nil, c.readError(ch, nil)
	}
	defer ch.endRead()
	if ch.load() != stateOpen {
		return nil, c.readError(ch, nil)
	}
	if err := c.next(ch); err != nil {
		told := c.readError(ch, err)
		ch.readFailed(err)
		return nil, told
	}
	return &c.frame, nil
}

// next reads up to the next binary frame, or the peer's end if Close is called meanwhile.
func (c *Client) next(ch *Channel) error {
	for {
		f, err := ch.reader.next()
		if err != nil {
			return err
		}
		ch.host.metrics.FramesIn.Add(1)
		switch {
		case f.Op.IsControl():
			err = ch.control(f)
		case f.Op == im.OpText:
			err = errText
		case ch.load() == stateOpen:
			c.frame = f
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readError is why reading ended: the first error stays.
func (c *Client) readError(ch *Channel, err error) error {
	reason := ch.Reason()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	switch {
	case c.closed:
		err = io.EOF
	case reason != im.ReasonNone && reason != im.ReasonClosedByPeer:
		err = &im.CloseError{Reason: reason, Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &im.CloseError{Reason: im.ReasonTimeout, Err: err}
	case err == nil:
		err = io.EOF
	case im.ReasonOf(err, im.ReasonNone) != im.ReasonNone && err != error(errText):
		err = &im.CloseError{Reason: im.ReasonOf(err, im.ReasonNone), Err: err}
	}
	c.err = err
	return err
}

// Close writes what is queued and a close frame, and closes the connection, in the background; see
// Done. Sends fail from now on; a Read under way returns io.EOF when the peer has closed too.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	ch := c.ch
	c.mu.Unlock()
	if ch != nil {
		ch.Close(im.ReasonSignedOut)
	}
}

// Done is closed after the connection is. It blocks for ever before Connect.
func (c *Client) Done() <-chan struct{} {
	ch := c.channel()
	if ch == nil {
		return nil
	}
	return ch.Done()
}

// QueuedBytes is what waits to be written.
func (c *Client) QueuedBytes() int {
	ch := c.channel()
	if ch == nil {
		return 0
	}
	return ch.QueuedBytes()
}
