package boot

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A process keeps the memory of its busiest moment: a heap grows to twice what is live, and if little is
// allocated it is collected after two minutes only. A gateway that has taken 15,000 logins and then only answers
// pings would hold half as much again as it needs. So a process that has become calm is collected, and gives back
// what is free.

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
	for c := (calmness{last: allocated()}); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if c.due(allocated()) {
			runtime.GC() // what is pooled goes with the second collection only
			debug.FreeOSMemory()
		}
	}
}

// calmness is what the process had allocated, in bytes.
type calmness struct {
	last    uint64 // when it was asked last
	trimmed uint64 // when it gave memory back last
}

// due reports whether the process is to give memory back, now that it has allocated so much.
func (c *calmness) due(now uint64) bool {
	due := now-c.last <= calm && now-c.trimmed >= worth
	c.last = now
	if due {
		c.trimmed = now
	}
	return due
}

// allocated is what the process has allocated since it began.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
