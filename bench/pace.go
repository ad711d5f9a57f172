package bench

import (
	"context"
	"time"
)

// pacer gives the moments of an open loop: each is due at its own time, however late the one before
// was, so that what waits behind a slow answer counts as slow too (no coordinated omission).
type pacer struct {
	began    time.Time
	interval time.Duration // 0: now
	n        int
}

// newPacer gives rate moments a second; a rate of 0 or less: no waiting. phase, in [0, 1), is where in
// the first interval the first one is.
func newPacer(rate, phase float64) *pacer {
	if rate <= 0 {
		return &pacer{}
	}
	interval := time.Duration(float64(time.Second) / rate)
	return &pacer{began: time.Now().Add(time.Duration(phase * float64(interval))), interval: interval}
}

// next waits for the next moment and returns it, or false when ctx ends.
func (p *pacer) next(ctx context.Context) (time.Time, bool) {
	if p.interval == 0 {
		return time.Now(), ctx.Err() == nil
	}
	due := p.began.Add(time.Duration(p.n) * p.interval)
	p.n++
	return due, pause(ctx, time.Until(due)) == nil && ctx.Err() == nil
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
