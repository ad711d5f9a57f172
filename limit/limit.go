// Package limit is token buckets: one, and one per key.
package limit

import (
	"hash/maphash"
	"sync"
	"time"
)

// Rate is PerSecond tokens on average and Burst at once. A PerSecond of 0 or less does not limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Bucket is a token bucket, full at first. Not safe for concurrent use. The zero value is empty.
type Bucket struct {
	tokens float64
	filled time.Time
}

// Take takes a token at the time now and returns 0, or how long it takes until there is one.
func (b *Bucket) Take(r Rate, now time.Time) (wait time.Duration) {
	if r.PerSecond <= 0 {
		return 0
	}
	b.fill(r, now)
	if b.tokens < 1 {
		return max(1, time.Duration((1-b.tokens)/r.PerSecond*float64(time.Second)))
	}
	b.tokens--
	return 0
}

// fill adds what has come since the last time. A clock that steps back adds nothing.
func (b *Bucket) fill(r Rate, now time.Time) {
	if b.filled.IsZero() {
		b.tokens = float64(r.Burst)
	} else if d := now.Sub(b.filled); d > 0 {
		b.tokens = min(float64(r.Burst), b.tokens+d.Seconds()*r.PerSecond)
	}
	b.filled = now
}

// Keyed is a bucket per key, all of one rate. Safe for concurrent use.
type Keyed[K comparable] struct {
	rate   Rate
	seed   maphash.Seed
	shards [shards]shard[K]
}

// shards is in how many parts the keys are, each with a mutex: full buckets are looked for in one part at a
// time, a millisecond or two of a million keys, and only the readers of links that need this part wait.
const shards = 256

type shard[K comparable] struct {
	mu      sync.Mutex
	buckets map[K]*Bucket // guarded by mu
	sweepAt int           // number of buckets at which full ones are forgotten; guarded by mu
}

// minSweep is the number of buckets of a shard below which nothing is forgotten.
const minSweep = 16

// NewKeyed returns a limiter without buckets.
func NewKeyed[K comparable](r Rate) *Keyed[K] {
	k := &Keyed[K]{rate: r, seed: maphash.MakeSeed()}
	for i := range k.shards {
		k.shards[i].buckets, k.shards[i].sweepAt = map[K]*Bucket{}, minSweep
	}
	return k
}

// Take takes a token of the key's bucket at the time now, as Bucket.Take does.
func (k *Keyed[K]) Take(key K, now time.Time) (wait time.Duration) {
	if k.rate.PerSecond <= 0 {
		return 0
	}
	s := &k.shards[maphash.Comparable(k.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[key]
	if b == nil {
		if len(s.buckets) >= s.sweepAt {
			s.sweep(k.rate, now)
		}
		b = new(Bucket)
		s.buckets[key] = b
	}
	return b.Take(k.rate, now)
}

// sweep forgets the buckets that are full again: a new one would be the same.
func (s *shard[K]) sweep(r Rate, now time.Time) {
	for key, b := range s.buckets {
		if b.fill(r, now); b.tokens >= float64(r.Burst) {
			delete(s.buckets, key)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.buckets))
}
