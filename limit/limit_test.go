package limit

import (
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Unix(1_700_000_000, 0)

func TestBucket(t *testing.T) {
	r := Rate{PerSecond: 10, Burst: 3}
	var b Bucket
	for range 3 {
		require.Zero(t, b.Take(r, start))
	}
	require.Equal(t, 100*time.Millisecond, b.Take(r, start), "the burst is used up")
	require.Equal(t, 50*time.Millisecond, b.Take(r, start.Add(50*time.Millisecond)), "half a token")
	require.Zero(t, b.Take(r, start.Add(100*time.Millisecond)))
	require.Equal(t, 100*time.Millisecond, b.Take(r, start.Add(-time.Hour)), "a clock that steps back adds nothing")
	require.Zero(t, b.Take(r, start.Add(-time.Hour+100*time.Millisecond)), "and holds nobody up for long")
	for range 3 {
		require.Zero(t, b.Take(r, start.Add(time.Hour)), "never more than the burst")
	}
	require.Positive(t, b.Take(r, start.Add(time.Hour)))
	require.Zero(t, b.Take(Rate{}, start), "no rate, no limit")
}

// Who waits as long as it was told to gets its token, whatever the rounding.
func TestWaitIsLongEnough(t *testing.T) {
	for _, r := range []Rate{{PerSecond: 3, Burst: 1}, {PerSecond: 0.7, Burst: 1}, {PerSecond: 1e9, Burst: 1}, {PerSecond: 997, Burst: 5}} {
		var b Bucket
		now := start
		for range 1000 {
			if wait := b.Take(r, now); wait > 0 {
				now = now.Add((wait + time.Millisecond - 1).Truncate(time.Millisecond)) // as wire.Error.Resp rounds it
				require.Zero(t, b.Take(r, now), "%+v", r)
			}
		}
	}
}

func TestKeyedForgetsFullBuckets(t *testing.T) {
	k := NewKeyed[string](Rate{PerSecond: 1, Burst: 1})
	require.Zero(t, k.Take("a", start))
	require.Equal(t, time.Second, k.Take("a", start))
	require.Zero(t, k.Take("b", start), "keys do not share")
	for i := range 100_000 {
		k.Take(fmt.Sprint(i), start.Add(time.Duration(i)*time.Second))
	}
	for i := range k.shards {
		require.LessOrEqual(t, len(k.shards[i].buckets), minSweep)
	}
}

// Full buckets were looked for among all, while the readers of all links waited. What counts is the slowest
// token, at its fastest of some rounds, for a busy machine makes any of them slow at times.
func TestKeyedHoldsNobodyUp(t *testing.T) {
	const keys = 1<<19 + 1
	fastest, seed := make([]time.Duration, keys), maphash.MakeSeed()
	for round := range 3 {
		k := NewKeyed[int](Rate{PerSecond: 1, Burst: 1})
		k.seed = seed
		for i := range keys {
			before := time.Now()
			k.Take(i, start)
			if d := time.Since(before); round == 0 || d < fastest[i] {
				fastest[i] = d
			}
		}
	}
	require.Less(t, slices.Max(fastest), 10*time.Millisecond)
}
