package limit

import (
	"strconv"
	"testing"
	"time"
)

type account struct{ app, name string }

// BenchmarkKeyed takes tokens of accounts of which a million have a bucket that is not full at any time.
// slowest-µs is the longest that one of them kept all others waiting, or was kept by the scheduler.
func BenchmarkKeyed(b *testing.B) {
	const keys, refill = 1_000_000, 4 * time.Second
	k := NewKeyed[account](Rate{PerSecond: 1 / refill.Seconds(), Burst: 1})
	now := start
	var slowest time.Duration
	take := func(i int) {
		now = now.Add(refill / keys)
		key := account{"app", strconv.Itoa(i)}
		before := time.Now()
		k.Take(key, now)
		slowest = max(slowest, time.Since(before))
	}
	for i := range keys {
		take(-i)
	}
	b.ReportAllocs()
	for i := 1; b.Loop(); i++ {
		take(i)
	}
	b.ReportMetric(float64(slowest.Microseconds()), "slowest-µs")
}
