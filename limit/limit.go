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

// Bucket is a token bucket in 8 bytes. Not safe for concurrent use. The zero value is full.
type Bucket struct {
	full int64 // when it will be full, in Unix nanoseconds: a token less is an interval later
}

// Take takes a token at the time now and returns 0, or how long it takes until there is one. A clock
// that steps back empties the bucket at most.
func (b *Bucket) Take(r Rate, now time.Time) (wait time.Duration) {
	if r.PerSecond <= 0 {
		return 0
	}
	interval := max(1, int64(min(1e9/r.PerSecond, longest)))
	at := now.UnixNano()
	empty := at + int64(min(float64(r.Burst)*float64(interval), longest)) // when an empty one will be full
	full := min(max(b.full, at), empty)
	if b.full = full; full+interval > empty {
		return time.Duration(full + interval - empty)
	}
	b.full = full + interval
	return 0
}

// longest bounds the time in which a bucket fills, in nanoseconds: 36 years.
const longest = 1 << 60

// isFull reports whether a new bucket would be the same.
func (b *Bucket) isFull(now time.Time) bool { return b.full <= now.UnixNano() }

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
	buckets map[K]Bucket // guarded by mu
	sweepAt int          // number of buckets at which full ones are forgotten; guarded by mu
}

// minSweep is the number of buckets of a shard below which nothing is forgotten.
const minSweep = 16

// NewKeyed returns a limiter without buckets.
func NewKeyed[K comparable](r Rate) *Keyed[K] {
	k := &Keyed[K]{rate: r, seed: maphash.MakeSeed()}
	for i := range k.shards {
		k.shards[i].buckets, k.shards[i].sweepAt = map[K]Bucket{}, minSweep
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
	b, ok := s.buckets[key]
	if !ok && len(s.buckets) >= s.sweepAt {
		s.sweep(now)
	}
	wait = b.Take(k.rate, now)
	s.buckets[key] = b
	return wait
}

// sweep forgets the buckets that are full again: a new one would be the same.
func (s *shard[K]) sweep(now time.Time) {
	for key, b := range s.buckets {
		if b.isFull(now) {
			delete(s.buckets, key)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.buckets))
}
