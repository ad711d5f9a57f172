package gateway

import (
	"context"
	"time"
)

// What is done to all clients is spread, so that they do not all sync or log in at once: evenly over a
// time that grows with their number, up to a bound.

// spreadTick is how often those that are due are done: what takes less is done at once.
const spreadTick = 20 * time.Millisecond

// span is the time over which n clients are spread: so many a second, but never longer than that.
func span(n, perSecond int, longest time.Duration) time.Duration {
	return min(longest, time.Duration(n)*time.Second/time.Duration(perSecond))
}

// due is how many of n are to be done when so much of the span is over: the first at once.
func due(n int, span, elapsed time.Duration) int {
	if span < spreadTick || elapsed >= span {
		return n
	}
	return min(n, 1+int(int64(n)*int64(elapsed)/int64(span)))
}

// spread calls do for 0 to n-1 over the span, until ctx ends.
func spread(ctx context.Context, n int, span time.Duration, do func(i int)) {
	start := time.Now()
	ticker := time.NewTicker(spreadTick)
	defer ticker.Stop()
	for done := 0; ; {
		for upTo := due(n, span, time.Since(start)); done < upTo; done++ {
			do(done)
		}
		if done == n {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
