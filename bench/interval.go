package bench

import (
	"sync/atomic"
	"time"
)

// interval is the measured part of a run. What is counted per second or per CPU time counts while it runs; a latency
// counts if its message was sent in it, or due in an open loop, whenever the message arrives: otherwise the
// slowest ones were left out at its end. The zero value has not begun.
type interval struct {
	begun, ended atomic.Pointer[time.Time] // nil: not yet
}

func (v *interval) begin() {
	now := time.Now()
	v.begun.Store(&now)
}

func (v *interval) end() {
	now := time.Now()
	v.ended.Store(&now)
}

// runs reports whether the interval has begun and not ended.
func (v *interval) runs() bool { return v.begun.Load() != nil && v.ended.Load() == nil }

// has reports whether a moment, which is not after now, is in the interval.
func (v *interval) has(at time.Time) bool {
	begun, ended := v.begun.Load(), v.ended.Load()
	return begun != nil && !at.Before(*begun) && (ended == nil || at.Before(*ended))
}
