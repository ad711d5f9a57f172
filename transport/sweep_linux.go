package transport

import (
	"time"

	im "github.com/hermod-im/hermod"
)

// sweepSlots is how many channels the sweep looks at under one lock.
const sweepSlots = 4096

// sweep closes what has been silent for too long or has not ended in time.
func (p *poller) sweep() {
	clocks := time.NewTicker(tick(min(p.host.writeWait, lingerWait)))
	defer clocks.Stop()
	silent := time.NewTicker(tick(p.host.readWait))
	defer silent.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-clocks.C:
			p.sweepClocks()
		case <-silent.C:
			p.sweepSilent()
		}
	}
}

// tick is how often to look whether the wait is over: it may last an eighth longer, which keeps
// the look at a million channels rare.
func tick(wait time.Duration) time.Duration { return max(wait/8, 5*time.Millisecond) }

func (p *poller) sweepSilent() {
	wait := p.host.readWait.Milliseconds()
	if wait <= 0 {
		return
	}
	var silent []*Channel
	for from, more := 0, true; more; from += sweepSlots {
		silent, more = p.silent(silent[:0], from, uint32(wait))
		for _, c := range silent {
			if c.joins() || !p.stillSilent(c, uint32(wait)) { // a handshake has deadlines of its own
				continue
			}
			if p.host.silent { // who waits for Deliver is not to wait for the peer as well
				c.cut(im.ReasonTimeout)
			} else {
				c.Close(im.ReasonTimeout)
			}
		}
	}
}

// silent collects the channels among sweepSlots slots that have not been heard of for the wait.
func (p *poller) silent(list []*Channel, from int, wait uint32) (_ []*Channel, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	to := min(from+sweepSlots, len(p.slots))
	for i := from; i < to; i++ {
		if sl := &p.slots[i]; sl.c != nil && now-sl.last >= wait {
			list = append(list, sl.c)
		}
	}
	return list, to < len(p.slots)
}

// stillSilent: nothing was heard of the channel since silent listed it.
func (p *poller) stillSilent(c *Channel, wait uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	sl := &p.slots[c.place.slot]
	return sl.c == c && p.now()-sl.last >= wait
}

func (p *poller) sweepClocks() {
	var expired []*Channel
	p.mu.Lock()
	now := p.now()
	for c, at := range p.clocks {
		if int32(now-at) >= 0 {
			expired = append(expired, c)
			delete(p.clocks, c)
		}
	}
	p.mu.Unlock()
	for _, c := range expired {
		c.expired()
	}
}
