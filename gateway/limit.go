package gateway

import "time"

// Rate is a token bucket's: PerSecond requests on average, Burst at once. A PerSecond of 0 does not limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// bucket is a token bucket of one connection. Not safe for concurrent use.
type bucket struct {
	rate   Rate
	tokens float64
	filled time.Time
}

func (b *bucket) reset(r Rate) { *b = bucket{rate: r, tokens: float64(r.Burst)} }

// take takes a token, or reports that there is none.
func (b *bucket) take() bool {
	if b.rate.PerSecond <= 0 {
		return true
	}
	now := time.Now()
	if !b.filled.IsZero() {
		b.tokens = min(float64(b.rate.Burst), b.tokens+now.Sub(b.filled).Seconds()*b.rate.PerSecond)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
