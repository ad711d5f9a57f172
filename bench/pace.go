package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pacer gives the moments of an open loop: each is due at its own time, however late the one before
// was, so that what waits behind a slow answer counts as slow too (no coordinated omission).
type pacer struct {
	began    time.Time
	interval time.Duration
	n        int
}

// newPacer gives rate moments a second. phase, in [0, 1), is where in
// the first interval the first one is.
func newPacer(rate, phase float64) *pacer {
	interval := time.Duration(float64(time.Second) / rate)
	return &pacer{began: time.Now().Add(time.Duration(phase * float64(interval))), interval: interval}
}

// loop gives the moments at which one sender sends: in a closed loop when one of its messages has
// arrived, in an open one at a rate.
type loop struct {
	slots chan struct{} // one for each message under way; nil in an open loop
	pace  *pacer
}

// newLoop is sender i of n, which send rate messages a second together, or have a window each if that is 0.
func newLoop(rate float64, window, i, n int) *loop {
	if rate > 0 {
		return &loop{pace: newPacer(rate/float64(n), float64(i)/float64(n))}
	}
	return &loop{slots: make(chan struct{}, window)}
}

// due waits until the next message may be sent, and returns from when its latency counts, or false
// when ctx has ended.
func (l *loop) due(ctx context.Context) (time.Time, bool) {
	if l.slots == nil {
		return l.pace.next(ctx)
	}
	select {
	case l.slots <- struct{}{}:
		return time.Now(), ctx.Err() == nil
	case <-ctx.Done():
		return time.Time{}, false
	}
}

// done: a message is under way no more.
func (l *loop) done() {
	if l.slots != nil {
		<-l.slots
	}
}

// next waits for the next moment and returns it, or false when ctx ends.
func (p *pacer) next(ctx context.Context) (time.Time, bool) {
	p.n++
	return p.nth(ctx, p.n-1)
}

// nth is next for many goroutines, which share the moments by themselves.
func (p *pacer) nth(ctx context.Context, n int) (time.Time, bool) {
	due := p.began.Add(time.Duration(n) * p.interval)
	return due, pause(ctx, time.Until(due)) == nil && ctx.Err() == nil
}

// each calls f with 0 to n-1, parallel of them at a time, and with the moment from which its latency
// counts: now, or at a rate when it was due. It ends with ctx, or when f reports that it should.
func each(ctx context.Context, n, parallel int, rate float64, f func(i int, begun time.Time) (goOn bool)) {
	var (
		next atomic.Int64
		pace *pacer
		wg   sync.WaitGroup
	)
	if rate > 0 {
		pace = newPacer(rate, 0)
	}
	for range min(n, parallel) {
		wg.Go(func() {
			for goOn := true; goOn && ctx.Err() == nil; {
				i, begun := int(next.Add(1))-1, time.Now()
				if i >= n {
					return
				}
				if pace != nil {
					if begun, goOn = pace.nth(ctx, i); !goOn {
						return
					}
				}
				goOn = f(i, begun)
			}
		})
	}
	wg.Wait()
}

// pause waits, and returns early with ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
