package boot

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A process keeps the memory of its busiest moment, for a heap may grow to twice what is live, and is
// collected after two minutes if nothing is allocated. A gateway that has taken 15,000 logins and then only
// answers pings holds half as much again as it needs. So a process that has become calm is collected, and gives
// back what is free.

const (
	// trimEvery is how often it is asked whether the process is calm.
	trimEvery = 5 * time.Second
	// calm is the most that is allocated meanwhile, and worth what must have been allocated since the last
	// time, in bytes.
	calm  = 4 << 20
	worth = 16 << 20
)

// trim gives memory back until ctx ends.
func trim(ctx context.Context) {
	ticker := time.NewTicker(trimEvery)
	defer ticker.Stop()
	for last, trimmed := allocated(), uint64(0); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := allocated()
		if now-last < calm && now-trimmed > worth {
			debug.FreeOSMemory()
			trimmed = now
		}
		last = now
	}
}

// allocated is what the process has allocated so far, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
