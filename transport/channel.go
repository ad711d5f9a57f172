package transport

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	im "github.com/hermod-im/hermod"
)

// flushTurns is how many writes one channel gets before the others of its flusher have theirs.
const flushTurns = 4

// socket is how a driver writes to and ends the sockets of its channels: a poller those of all its
// channels, a stream that of one. Its methods are called by the channel only, those marked "locked"
// with Channel.mu held.
type socket interface {
	// wake makes a flusher call Channel.flush soon. Locked.
	wake(*Channel)
	// write writes some of p. errAgain: nothing now. Locked only where it does not block: when a channel that was
	// stalled has expired.
	write(c *Channel, p []byte) (int, error)
	// stalled: the last write got errAgain. The driver calls Channel.ready when it can write, and
	// Channel.expired if that lasts for the write wait. Locked.
	stalled(*Channel)
	// closeWrite tells the peer that nothing more comes.
	closeWrite(*Channel)
	// expire makes the driver call Channel.expired after d, unless the channel has ended; a later
	// call replaces an earlier one. Locked.
	expire(*Channel, time.Duration)
	// shut makes reads and writes under way fail. Called once. Locked.
	shut(*Channel)
	// discards says that the flusher shall read what the peer sends until it closes, because
	// nobody else does. Locked.
	discards() bool
	// release frees the descriptor. Called once, when nobody reads or writes any more.
	release(*Channel)
}

// state is how far the end of a channel has come. It only grows.
type state uint32

const (
	// stateOpen: frames go both ways.
	stateOpen state = iota
	// stateClosing: there is a reason. The queue, with the close frame, is written; nothing is
	// queued or delivered any more.
	stateClosing
	// stateLingering: all is written, the peer is to close.
	stateLingering
	// stateDead: the socket is released as soon as nobody uses it.
	stateDead
)

// Channel implements im.Channel. The queue is its heart: Push appends framed bytes
// under the lock, one flusher takes all that is there and writes it in one go. An idle channel has
// no buffer, no goroutine and no timer; its fields are in the order that leaves no gaps, for there may
// be a million.
type Channel struct {
	// Static once the channel is open, but for a client's sock, see adopt.
	id   string
	host *host
	sock socket

	// reader belongs to who has set reading. On a polled channel it is nil between frames.
	reader *frameReader

	mu         sync.Mutex
	attachment any
	done       chan struct{} // made on demand
	pending    *buffer       // framed bytes that no flusher has taken
	writing    *buffer       // belongs to the flusher
	queued     uint32        // bytes in pending and not yet written of writing
	state      atomic.Uint32 // a state; written with mu held
	place      place         // static after construction, on a polled channel
	remote     remote        // static after construction
	reason     im.Reason
	reading    bool // somebody reads or delivers
	missed     bool // on a polled channel: meanwhile, there was more to read
	flushing   bool // a flusher has the channel, or has been told to
	blocked    bool // the socket takes nothing; no flusher until ready
	writable   bool // ready was called since the flusher's last write began
	peerClosed bool // nothing will come from the peer
	released   bool
	ended      bool // done is, or would be, closed
}

var _ im.Channel = (*Channel)(nil)

// place is where a poller has a channel.
type place struct {
	fd        int32
	slot, gen uint32 // see slot
}

// remote is a peer's address: a netip.AddrPort without its zone and gaps.
type remote struct {
	addr [16]byte
	port uint16
}

func remoteOf(conn net.Conn) (r remote) {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		r.addr, r.port = ap.Addr().As16(), ap.Port()
	}
	return r
}

func (r remote) tcpAddr() *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(r.addr).Unmap(), r.port))
}

// ID returns the id that the Acceptor gave.
func (c *Channel) ID() string { return c.id }

// RemoteAddr is the peer's address.
func (c *Channel) RemoteAddr() net.Addr { return c.remote.tcpAddr() }

// Attachment returns what SetAttachment stored.
func (c *Channel) Attachment() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attachment
}

// SetAttachment stores a value of the application.
func (c *Channel) SetAttachment(v any) {
	c.mu.Lock()
	c.attachment = v
	c.mu.Unlock()
}

// QueuedBytes is what waits to be written.
func (c *Channel) QueuedBytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.queued)
}

// Done is closed after the socket is and the StateListener has heard of it.
func (c *Channel) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.ended {
			close(c.done)
		}
	}
	return c.done
}

// Reason is why the channel is closing or has closed; im.ReasonNone while it is open.
func (c *Channel) Reason() im.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Push queues the payload as one binary frame.
func (c *Channel) Push(payload []byte) error { return c.push(im.OpBinary, payload) }

func (c *Channel) push(op im.OpCode, payload []byte) error {
	c.mu.Lock()
	defer c.unlock()
	if err := c.admit(); err != nil {
		return err
	}
	c.enqueue(op, payload)
	return nil
}

// Offer is Push for what can be asked for again: it leaves half of the queue to all else. What would fill more, unless
// nothing waits, is refused with im.ErrQueueFull, and what is above the largest packet that this side accepts
// with im.ErrFrameTooLarge: the peer is expected to accept as much. Then nothing is queued, and the channel stays open.
func (c *Channel) Offer(payload []byte) error {
	if len(payload) > c.host.maxPacket {
		return im.ErrFrameTooLarge
	}
	c.mu.Lock()
	defer c.unlock()
	if c.queued > 0 && int(c.queued)+len(payload) > c.host.queueBytes/2 {
		return im.ErrQueueFull
	}
	if err := c.admit(); err != nil {
		return err
	}
	c.enqueue(im.OpBinary, payload)
	return nil
}

// PushAll is Push for several payloads, one behind the other, up to the first error, after which the channel is closing.
func (c *Channel) PushAll(payloads [][]byte) error {
	size := 0
	for _, p := range payloads {
		size += len(p) + MaxHeader
	}
	c.mu.Lock()
	defer c.unlock()
	for _, p := range payloads {
		if err := c.admit(); err != nil {
			return err
		}
		c.room(size) // for all, at once
		size -= len(p) + MaxHeader
		c.enqueue(im.OpBinary, p)
	}
	return nil
}

// admit says whether something more may be queued: the bound is on what waits already, so that one
// packet above it, a page of a sync, still reaches a client that reads. Locked.
func (c *Channel) admit() error {
	if c.load() != stateOpen {
		return im.ErrChannelClosed
	}
	if int(c.queued) > c.host.queueBytes {
		c.host.metrics.QueueFull.Add(1)
		c.close(im.ReasonSlowConsumer)
		return im.ErrQueueFull
	}
	return nil
}

// enqueue frames the payload at the end of the queue. Locked.
func (c *Channel) enqueue(op im.OpCode, payload []byte) {
	c.room(len(payload) + MaxHeader)
	before := len(c.pending.data)
	c.pending.data = c.host.codec.AppendFrame(c.pending.data, op, payload)
	c.pending.frames++
	c.queued += uint32(len(c.pending.data) - before)
	c.schedule()
}

func (c *Channel) room(n int) {
	if c.pending == nil {
		c.pending = c.host.buffers.get(n)
		return
	}
	c.pending = c.host.buffers.grow(c.pending, n)
}

// schedule sees to it that there is a flusher, unless the socket would not take anything. Locked.
func (c *Channel) schedule() {
	if !c.flushing && !c.blocked {
		c.flushing = true
		c.sock.wake(c)
	}
}

// flush writes what is queued. Only the flusher calls it; again means that there may be more and
// it is the others' turn.
func (c *Channel) flush() (again bool) {
	c.mu.Lock()
	defer c.unlock()
	for turn := 0; c.take(); turn++ {
		if turn == flushTurns {
			return true
		}
		if c.flushOnce(); c.blocked {
			c.flushing = false
			return false
		}
	}
	if c.load() == stateClosing {
		c.linger()
	}
	c.flushing = false
	return false
}

// take makes sure that the flusher has something to write. Locked.
func (c *Channel) take() bool {
	if c.load() == stateDead {
		return false
	}
	if c.writing == nil {
		c.writing, c.pending = c.pending, nil
	}
	return c.writing != nil
}

// flushOnce does one write, outside the lock.
func (c *Channel) flushOnce() {
	b := c.writing
	c.writable = false
	c.mu.Unlock()
	n, err := c.sock.write(c, b.unread())
	c.mu.Lock()
	c.wrote(n, err)
}

// wrote acts upon what a write of what was left of writing has come to. Locked.
func (c *Channel) wrote(n int, err error) {
	b := c.writing
	b.off += n
	c.queued -= uint32(n)
	c.host.metrics.BytesOut.Add(uint64(n))
	switch {
	case b.off == len(b.data):
		c.host.metrics.FramesOut.Add(uint64(b.frames))
		c.host.buffers.put(b)
		c.writing = nil
	case err == errAgain && !c.writable:
		c.blocked = true
		c.sock.stalled(c)
	case err == errAgain || err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.kill(im.ReasonWriteTimeout)
	default:
		c.kill(im.ReasonClosedByPeer)
	}
}

// ready is the driver's call after errAgain: the socket takes bytes again. Locked.
func (c *Channel) ready() {
	c.writable = true
	if c.blocked && c.load() != stateDead {
		c.blocked = false
		c.schedule()
	}
}

// linger waits for the peer to close: all is written. The flusher calls it, locked.
func (c *Channel) linger() {
	if c.peerClosed {
		c.kill(c.reason)
		return
	}
	c.setState(stateLingering)
	c.sock.expire(c, min(lingerWait, c.host.writeWait))
	c.mu.Unlock()
	c.sock.closeWrite(c)
	c.mu.Lock()
	if c.reading || !c.sock.discards() || c.load() == stateDead {
		return
	}
	c.reading = true
	c.mu.Unlock()
	c.discard()
	c.mu.Lock()
	c.reading = false
}

// Close ends the channel; see im.Channel.
func (c *Channel) Close(reason im.Reason) {
	c.mu.Lock()
	defer c.unlock()
	c.close(reason)
}

func (c *Channel) close(reason im.Reason) {
	if c.load() != stateOpen {
		return
	}
	c.beginClose(reason)
	text := reason.String()
	if c.host.silent {
		text = ""
	}
	c.enqueueClose(reason.Code(), text)
}

// closedByPeer answers a close frame; code is that of the frame.
func (c *Channel) closedByPeer(code uint16) {
	c.mu.Lock()
	defer c.unlock()
	c.peerClosed = true
	switch c.load() {
	case stateOpen:
		c.beginClose(im.ReasonClosedByPeer)
		c.enqueueClose(code, "")
	case stateLingering:
		c.kill(c.reason)
	}
}

// eof: the peer sends nothing more. What is queued is still written, since it may be half-closed.
func (c *Channel) eof() {
	c.mu.Lock()
	defer c.unlock()
	c.peerClosed = true
	switch c.load() {
	case stateOpen:
		c.beginClose(im.ReasonClosedByPeer)
		c.schedule()
	case stateLingering:
		c.kill(c.reason)
	}
}

func (c *Channel) beginClose(reason im.Reason) {
	c.reason = reason
	c.setState(stateClosing)
	c.sock.expire(c, c.host.writeWait)
}

func (c *Channel) enqueueClose(code uint16, text string) {
	var payload [MaxControl]byte
	p := payload[:0]
	if code != codeNone {
		p = appendClose(p, code, text)
	}
	c.enqueue(im.OpClose, p)
}

// expired: the driver's clock for this channel has run out.
func (c *Channel) expired() {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.load() != stateOpen:
		c.kill(c.reason)
	case c.blocked:
		// A peer may have taken bytes all the time: the kernel tells of room once a third of the send buffer is free.
		n, err := c.sock.write(c, c.writing.unread())
		if err == errAgain {
			c.kill(im.ReasonWriteTimeout)
			return
		}
		c.wrote(n, err)
		c.ready()
	}
}

// cut ends the channel without another word.
func (c *Channel) cut(reason im.Reason) {
	c.mu.Lock()
	defer c.unlock()
	c.kill(reason)
}

// kill makes the channel dead; the first reason stays. Locked.
func (c *Channel) kill(reason im.Reason) {
	if c.load() == stateDead {
		return
	}
	if c.reason == im.ReasonNone {
		c.reason = reason
	}
	c.setState(stateDead)
	c.sock.shut(c)
}

// unlock releases mu, and with it the socket if the channel is dead and nobody uses it any more.
func (c *Channel) unlock() {
	last := c.load() == stateDead && !c.reading && !c.flushing && !c.released
	if !last {
		c.mu.Unlock()
		return
	}
	c.released = true
	c.host.buffers.put(c.pending)
	c.host.buffers.put(c.writing)
	c.pending, c.writing, c.queued = nil, nil, 0
	c.mu.Unlock()

	if c.reader != nil {
		c.reader.release()
		c.reader = nil
	}
	c.sock.release(c)
	go c.host.ended(c)
}

// finished closes Done: the last thing that happens to a channel.
func (c *Channel) finished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.done != nil {
		close(c.done)
	}
}

// left: the peer has said already that it sends nothing more.
func (c *Channel) left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peerClosed
}

// beginRead makes the caller the reader, if there is none and something left to read.
func (c *Channel) beginRead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading || c.load() == stateDead {
		return false
	}
	c.reading = true
	return true
}

// endRead is the counterpart of beginRead.
func (c *Channel) endRead() {
	c.mu.Lock()
	defer c.unlock()
	c.reading = false
}

// deliver gives the frames of r to the listener until the source ends or has no more (errAgain), or
// the channel closes (nil): then what comes is to be discarded.
func (c *Channel) deliver(r *frameReader) (err error) {
	frames := 0
	defer func() {
		c.host.metrics.FramesIn.Add(uint64(frames))
		if v := recover(); v != nil {
			c.host.panicked(v)
			err = &im.CloseError{Reason: im.ReasonInternal}
		}
	}()
	for c.load() == stateOpen {
		f, err := r.next()
		if err != nil {
			return err
		}
		frames++
		switch {
		case f.Op.IsControl():
			err = c.control(f)
		case f.Op == im.OpText:
			err = errText
		case c.load() == stateOpen && c.host.receiver != nil:
			c.host.receiver.Receive(c, f.Payload)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// control answers a control frame. A close frame is returned as *PeerClosedError.
func (c *Channel) control(f Frame) error {
	switch f.Op {
	case im.OpPing:
		// A full queue has closed the channel; the reader will see it.
		_ = c.push(im.OpPong, f.Payload)
	case im.OpClose:
		closed, err := parseClose(f.Payload)
		if err != nil {
			return err
		}
		c.closedByPeer(closed.Code)
		if c.host.closedByPeer != nil {
			c.host.closedByPeer(c, closed)
		}
		return closed
	}
	return nil
}

// readFailed acts upon what ended reading; afterwards what the peer sends is to be discarded, until
// the channel is dead.
func (c *Channel) readFailed(err error) {
	var closed *PeerClosedError
	switch {
	case err == nil, errors.As(err, &closed): // closing already
	case err == io.EOF:
		c.eof()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Close(im.ReasonTimeout)
	default:
		if reason := im.ReasonOf(err, im.ReasonNone); reason != im.ReasonNone {
			c.Close(reason)
			return
		}
		c.cut(im.ReasonClosedByPeer)
	}
}

// discard reads until the peer closes or the channel is dead: what comes is of no interest, but
// unread bytes would turn our close into a reset. Only for sockets whose reads block.
func (c *Channel) discard() {
	r := c.reader
	r.release()
	b := c.host.buffers.get(firstRead)
	defer c.host.buffers.put(b)
	for c.load() != stateDead {
		if _, err := r.src.Read(b.data[:cap(b.data)]); err != nil {
			c.eof()
			return
		}
	}
}

func (c *Channel) load() state      { return state(c.state.Load()) }
func (c *Channel) setState(s state) { c.state.Store(uint32(s)) }

// panicked reports the panic of a listener.
func (h *host) panicked(v any) {
	h.metrics.Panics.Add(1)
	h.logf("transport: listener panicked: %v\n%s", v, debug.Stack())
}
