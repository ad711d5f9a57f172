package client

import (
	"context"
	"sync"
	"time"

	"github.com/hermod-im/hermod/wire"
)

// move takes the place of a connection whose gateway stops (gateway.goaway): it connects to another
// gateway, lets what was asked here be answered and logs in there. Nothing is sent here any more
// then. After an error this connection is in use as before.
func (c *Client) move(ctx context.Context, s *session, w *workers) (*session, error) {
	conn, token, err := c.open(ctx, s.conn.gateway)
	if err != nil {
		return nil, err
	}
	w.stop() // a sync begins anew at the other gateway
	c.hold(ctx, s)
	next, err := c.login(ctx, conn, token)
	if err != nil {
		conn.close()
		c.release(s)
		w.start()
		wake(c.syncWake) // for the sync that was cut off
		return nil, err
	}
	c.addresses.connected()
	c.online(next)
	return next, nil
}

// hold keeps new calls for the other gateway, and waits for those that are open at this one: moveWait
// long, but for as long as it takes for those that must not be made twice.
func (c *Client) hold(ctx context.Context, s *session) {
	patience := time.NewTimer(moveWait)
	defer patience.Stop()
	for late := false; ; {
		c.mu.Lock()
		c.holding = true
		all, fragile := c.calls.open(s)
		c.mu.Unlock()
		if all == 0 || (late && fragile == 0) {
			return
		}
		select {
		case <-c.calls.finished:
		case <-patience.C:
			late = true
		case <-s.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// release sends what was held, on the connection that stays.
func (c *Client) release(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = false
	for _, call := range c.calls.inOrder() {
		if call.on == nil {
			c.send(s, call)
		}
	}
}

// workers are the goroutines of a connection beside its reader.
type workers struct {
	start func()
	stop  func() // waits for them
}

// work starts them.
func (c *Client) work(ctx context.Context, s *session) *workers {
	w := &workers{}
	w.start = func() {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		running.Go(func() { c.heartbeat(ctx, s) })
		if s.features.Has(wire.FeatureSync) {
			running.Go(func() { c.synchronise(ctx, s) })
		}
		w.stop = func() {
			cancel()
			running.Wait()
		}
	}
	w.start()
	return w
}
