package logic

import (
	"errors"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// bulk bounds the requests whose answers may be large: pages of messages, and the members of a group. A few of them are
// under way for one channel, so that nobody takes all handlers and the memory. Their answers leave half
// of a link's queue to all others: a client that asks for more than its gateway takes must not have the link cut (I5).
type bulk struct {
	mu       sync.Mutex
	underWay map[string]int // by channel; guarded by mu
}

const (
	// maxBulk is how many of them one channel may have under way at this node.
	maxBulk = 4
	// bulkRetry is when to ask again beyond that: most take some ms, the largest some 100.
	bulkRetry = 100 * time.Millisecond
)

func newBulk() *bulk { return &bulk{underWay: map[string]int{}} }

// begin counts the request, or refuses it.
func (b *bulk) begin(c *Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.underWay[c.Packet.ChannelID]
	if n >= maxBulk {
		c.node.metrics.bulk.Inc()
		return &wire.Error{Status: wire.StatusRateLimited, Message: "too many such requests at once: wait for the answers", RetryAfter: bulkRetry}
	}
	b.underWay[c.Packet.ChannelID] = n + 1
	c.bulk = true
	return nil
}

// end is called when the request is answered, and also for one that begin has not counted.
func (b *bulk) end(c *Context) {
	if !c.bulk {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.underWay[c.Packet.ChannelID]; n > 1 {
		b.underWay[c.Packet.ChannelID] = n - 1
		return
	}
	delete(b.underWay, c.Packet.ChannelID)
}

// offerer is a link that refuses what it has no room for and stays open; see transport.Channel.
type offerer interface {
	Offer(payload []byte) error
}

var errTooLarge = wire.Errorf(wire.StatusInvalidBody, "the answer is too large: ask for less")

// offer queues a bulk answer, or says what to answer instead.
func (c *Context) offer(payload []byte) error {
	link, ok := c.agent.(offerer)
	if !ok {
		_ = c.agent.Push(payload)
		return nil
	}
	err := link.Offer(payload)
	switch {
	case errors.Is(err, im.ErrQueueFull):
		c.node.metrics.crowded.Inc()
		return errBusy
	case errors.Is(err, im.ErrFrameTooLarge):
		return errTooLarge
	default: // see Respond
		return nil
	}
}
