package gateway

import (
	"context"
	"net"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/transport"
)

// fakeChannel is a channel without a socket.
type fakeChannel struct {
	id string

	mu         sync.Mutex
	attachment any
	pushed     [][]byte
	pushes     int
	keep       bool // what is pushed, in pushed
	full       bool
	closed     im.Reason
}

var _ im.Channel = (*fakeChannel)(nil)

func newFakeChannel(id string) *fakeChannel { return &fakeChannel{id: id, keep: true} }

func (c *fakeChannel) ID() string            { return c.id }
func (c *fakeChannel) RemoteAddr() net.Addr  { return nil }
func (c *fakeChannel) Done() <-chan struct{} { return nil }

func (c *fakeChannel) Push(payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != im.ReasonNone:
		return im.ErrChannelClosed
	case c.full:
		return im.ErrQueueFull
	}
	c.pushes++
	if c.keep {
		c.pushed = append(c.pushed, payload)
	}
	return nil
}

func (c *fakeChannel) PushAll(payloads [][]byte) error {
	for _, p := range payloads {
		if err := c.Push(p); err != nil {
			return err
		}
	}
	return nil
}

func (c *fakeChannel) Attachment() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attachment
}

func (c *fakeChannel) SetAttachment(v any) {
	c.mu.Lock()
	c.attachment = v
	c.mu.Unlock()
}

func (c *fakeChannel) Close(r im.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == im.ReasonNone {
		c.closed = r
	}
}

func (c *fakeChannel) reason() im.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// fakeConn is a connection before its login that reads one packet, without a socket.
type fakeConn struct {
	im.Conn
	packet  []byte
	settled func() error // the login is let through: the connection's read deadline is taken back
}

func (c *fakeConn) ReadFrame() (im.Frame, error) {
	return &transport.Frame{Op: im.OpBinary, Payload: c.packet}, nil
}

func (c *fakeConn) WriteFrame(im.OpCode, []byte) error { return nil }
func (c *fakeConn) Flush() error                       { return nil }

func (c *fakeConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		return c.settled()
	}
	return nil
}

// hanging is a registry that answers neither Find nor Deregister between hang and goOn.
type hanging struct {
	naming.Naming
	mu   sync.RWMutex
	open chan struct{} // closed while it answers
}

func newHanging(n naming.Naming) *hanging {
	h := &hanging{Naming: n, open: make(chan struct{})}
	close(h.open)
	return h
}

// hang returns goOn.
func (h *hanging) hang() (goOn func()) {
	open := make(chan struct{})
	h.mu.Lock()
	h.open = open
	h.mu.Unlock()
	return sync.OnceFunc(func() { close(open) })
}

func (h *hanging) wait(ctx context.Context) error {
	h.mu.RLock()
	open := h.open
	h.mu.RUnlock()
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hanging) Find(ctx context.Context, service string) ([]naming.Instance, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Naming.Find(ctx, service)
}

func (h *hanging) Deregister(ctx context.Context, id string) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	return h.Naming.Deregister(ctx, id)
}
