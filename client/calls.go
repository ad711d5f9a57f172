package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
)

// retryBase and retryMax are the ceilings of the wait before a request is sent again that the
// server could not take.
const (
	retryBase = 100 * time.Millisecond
	retryMax  = 2 * time.Second
	// maxLogins is how often a request may be answered with "log in first".
	maxLogins = 3
)

// request is what a method of the client asks for.
type request struct {
	command wire.Command
	dest    string
	body    proto.Message // nil: none
	into    proto.Message // what the answer is decoded into; nil: it has no body
	// again: the request may be sent more than once.
	again bool
	// counted: its bytes are counted elsewhere.
	counted bool
	// doubts is how often it was sent and may have been done, as far as is known. Guarded by Client.mu.
	doubts int
	// only binds the request to one connection. May be nil.
	only *session
	// answered, if not nil, is called by the reader, with mu held, after a success was decoded.
	answered func()
}

// call is one attempt at a request.
type call struct {
	*request
	body     []byte
	size     int // of the packet, in bytes
	sequence uint32
	// logins counts the answers that told us to log in first.
	logins int
	// on is the connection that it was queued to, and sent when; nil if it waits for one.
	on   *session
	sent time.Time
	done chan struct{} // closed after err is set
	err  error
}

// calls are those that wait for an answer, by the sequence of their header. Guarded by Client.mu.
type calls struct {
	pending map[uint32]*call
	last    uint32
	// bytes are those of the pending calls and of the outbox.
	bytes int
	buf   []byte
	// finished holds one wake-up after a call has ended.
	finished chan struct{}
}

// nextSequence never gives 0 or one that is in use.
func (cs *calls) nextSequence() uint32 {
	for {
		cs.last++
		if cs.last != 0 && cs.pending[cs.last] == nil {
			return cs.last
		}
	}
}

func (cs *calls) add(c *call) {
	cs.pending[c.sequence] = c
	if !c.counted {
		cs.bytes += c.size
	}
}

// finish ends a call. It does nothing to one that has ended.
func (cs *calls) finish(c *call, err error) {
	if cs.pending[c.sequence] != c {
		return
	}
	delete(cs.pending, c.sequence)
	if !c.counted {
		cs.bytes -= c.size
	}
	c.err = err
	close(c.done)
	wake(cs.finished)
}

// inOrder are the pending calls in the order in which they were made, whatever the wrap of sequences.
func (cs *calls) inOrder() []*call {
	list := make([]*call, 0, len(cs.pending))
	for _, c := range cs.pending {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *call) int { return int(int32(a.sequence - b.sequence)) })
	return list
}

func (cs *calls) failAll(err error) {
	for _, c := range cs.inOrder() {
		cs.finish(c, err)
	}
}

// disconnected fails the calls that may have been done and must not be done twice; the others wait
// for the next connection.
func (cs *calls) disconnected(s *session) {
	for _, c := range cs.inOrder() {
		if c.only == s || (!c.again && c.on == s) {
			cs.finish(c, ErrDisconnected)
		}
		c.unsend()
	}
}

// unsend makes a call wait for the next connection.
func (c *call) unsend() { c.on, c.sent = nil, time.Time{} }

// open counts the calls that wait for their answer on a connection, and those of them that must not
// be made twice.
func (cs *calls) open(s *session) (all, fragile int) {
	for _, c := range cs.pending {
		if c.on == s {
			if all++; !c.again {
				fragile++
			}
		}
	}
	return all, fragile
}

// do makes a request and waits for its answer: over reconnections, and again where the server could
// not take it, if the request allows.
func (c *Client) do(ctx context.Context, r *request) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = proto.Marshal(r.body); err != nil {
			return fmt.Errorf("%s: %w", r.command, err)
		}
	}
	for failures := 0; ; failures++ {
		err := c.attempt(ctx, r, body)
		if err == nil || !r.again || !Retryable(err) || (errors.Is(err, ErrQueueFull) && !r.counted) {
			return err
		}
		if ended := sleep(ctx, max(retryAfter(err), backoff(failures, retryBase, retryMax))); ended != nil {
			return fmt.Errorf("%w, last: %w", ended, err)
		}
	}
}

func (c *Client) attempt(ctx context.Context, r *request, body []byte) error {
	call, err := c.issue(r, body)
	if err != nil {
		return err
	}
	timer := time.NewTimer(c.opts.AnswerWait)
	defer timer.Stop()
	for {
		select {
		case <-call.done:
			return call.err
		case <-ctx.Done():
			return c.abandon(call, ctx.Err())
		case <-timer.C:
		}
		left := c.answerIn(call)
		if left <= 0 {
			return c.abandon(call, ErrNoAnswer)
		}
		timer.Reset(left)
	}
}

// answerIn is how much longer the answer may take; the time without a connection does not count.
func (c *Client) answerIn(call *call) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.on == nil {
		return c.opts.AnswerWait
	}
	return c.opts.AnswerWait - time.Since(call.sent)
}

// abandon ends a call that nobody waits for, unless its answer was faster.
func (c *Client) abandon(call *call, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls.finish(call, err)
	return call.err
}

// issue queues a call to the connection, or keeps it for the next one.
func (c *Client) issue(r *request, body []byte) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return nil, c.ended
	}
	if r.only != nil && r.only != c.session {
		return nil, ErrDisconnected
	}
	call := &call{request: r, body: body, sequence: c.calls.nextSequence(), done: make(chan struct{})}
	c.calls.buf = call.packet(c.calls.buf[:0])
	call.size = len(c.calls.buf)
	if call.size > c.opts.MaxPacket {
		return nil, fmt.Errorf("%s: %w: %d bytes", r.command, ErrTooLarge, call.size)
	}
	if !r.counted && c.calls.bytes+call.size > c.opts.OutboxBytes {
		return nil, ErrQueueFull
	}
	c.calls.add(call)
	if c.session != nil && !c.holding {
		c.send(c.session, call)
	}
	return call, nil
}

func (c *call) packet(dst []byte) []byte {
	p := wire.LogicPkt{Header: wire.Header{Command: c.command, Sequence: c.sequence, Dest: c.dest}, Body: c.body}
	return p.Append(dst)
}

// send queues a call to a connection. If that is closed the call waits for the next one.
func (c *Client) send(s *session, call *call) {
	c.calls.buf = call.packet(c.calls.buf[:0])
	switch err := s.conn.Send(c.calls.buf); {
	case err == nil:
		call.on, call.sent = s, time.Now()
		call.doubts++
	case errors.Is(err, ErrQueueFull):
		c.calls.finish(call, ErrQueueFull)
	}
}

// answer takes a response. One that nobody waits for (any more, or here) is dropped.
func (c *Client) answer(s *session, p *wire.LogicPkt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls.pending[p.Sequence]
	if call == nil || call.command != p.Command || call.on != s {
		return
	}
	err := decode(p, call.into)
	if p.Status != wire.StatusSuccess && p.Status != wire.StatusSystemException {
		call.doubts-- // it was not done
	}
	if mustLogIn(p.Status) {
		s.end(err)
		if call.logins++; call.logins < maxLogins {
			call.unsend() // it goes out again after the login
			return
		}
	}
	if err == nil && call.answered != nil {
		call.answered()
		c.arrived()
	}
	c.calls.finish(call, err)
}

// retryAfter is how long the server has asked to wait, or 0.
func retryAfter(err error) time.Duration {
	var refused *wire.Error
	if errors.As(err, &refused) {
		return refused.RetryAfter
	}
	return 0
}

// mustLogIn: existing clients take any such status as the end of their session (docs/protocol.md, "Statuses").
func mustLogIn(s wire.Status) bool { return s >= 400 }

// decode reads the body of a response; a refusal is a *wire.Error.
func decode(p *wire.LogicPkt, into proto.Message) error {
	if p.Status != wire.StatusSuccess {
		return refusal(p)
	}
	if into == nil {
		return nil
	}
	if err := proto.Unmarshal(p.Body, into); err != nil {
		return fmt.Errorf("%s: malformed answer: %w", p.Command, err)
	}
	return nil
}
