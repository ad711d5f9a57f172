package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency sums up a distribution, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
}

// maxLatency is the largest that is told apart.
const maxLatency = time.Minute

// newHistogram is of microseconds, with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 3)
}

// recorder is a histogram that many goroutines record into. The zero value is empty.
type recorder struct {
	shards [16]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram // nil until something is recorded
	}
}

// record adds a duration; who spreads the recorders over the shards.
func (r *recorder) record(who int, d time.Duration) {
	s := &r.shards[who%len(r.shards)]
	s.mu.Lock()
	if s.h == nil {
		s.h = newHistogram()
	}
	_ = s.h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // in range
	s.mu.Unlock()
}

func (r *recorder) latency() Latency { return latencyOf(r.histogram()) }

// histogram is what all have recorded.
func (r *recorder) histogram() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		if s.h != nil {
			all.Merge(s.h)
		}
		s.mu.Unlock()
	}
	return all
}

func latencyOf(all *hdrhistogram.Histogram) Latency {
	ms := func(micros int64) float64 { return float64(micros) / 1000 }
	return Latency{
		P50:  ms(all.ValueAtQuantile(50)),
		P99:  ms(all.ValueAtQuantile(99)),
		P999: ms(all.ValueAtQuantile(99.9)),
		Max:  ms(all.Max()),
	}
}
