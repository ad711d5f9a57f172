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

// recorder is a histogram of microseconds that many goroutines record into.
type recorder struct {
	shards [16]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram
	}
}

func newRecorder() *recorder {
	r := &recorder{}
	for i := range r.shards {
		r.shards[i].h = hdrhistogram.New(1, maxLatency.Microseconds(), 3)
	}
	return r
}

// record adds a duration; who spreads the recorders over the shards.
func (r *recorder) record(who int, d time.Duration) {
	s := &r.shards[who%len(r.shards)]
	s.mu.Lock()
	_ = s.h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // in range
	s.mu.Unlock()
}

func (r *recorder) latency() Latency {
	all := hdrhistogram.New(1, maxLatency.Microseconds(), 3)
	for i := range r.shards {
		r.shards[i].mu.Lock()
		all.Merge(r.shards[i].h)
		r.shards[i].mu.Unlock()
	}
	ms := func(micros int64) float64 { return float64(micros) / 1000 }
	return Latency{
		P50:  ms(all.ValueAtQuantile(50)),
		P99:  ms(all.ValueAtQuantile(99)),
		P999: ms(all.ValueAtQuantile(99.9)),
		Max:  ms(all.Max()),
	}
}
