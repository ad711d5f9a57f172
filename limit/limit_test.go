package limit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Unix(1_700_000_000, 0)

func TestBucket(t *testing.T) {
	r := Rate{PerSecond: 10, Burst: 3}
	var b Bucket
	for range 3 {
		require.True(t, b.Take(r, start))
	}
	require.False(t, b.Take(r, start), "the burst is used up")
	require.False(t, b.Take(r, start.Add(50*time.Millisecond)), "half a token")
	require.True(t, b.Take(r, start.Add(100*time.Millisecond)))
	require.False(t, b.Take(r, start.Add(-time.Hour)), "a clock that steps back adds nothing")
	for range 3 {
		require.True(t, b.Take(r, start.Add(time.Hour)), "never more than the burst")
	}
	require.False(t, b.Take(r, start.Add(time.Hour)))
	require.True(t, b.Take(Rate{}, start), "no rate, no limit")
}

func TestKeyedForgetsFullBuckets(t *testing.T) {
	k := NewKeyed[string](Rate{PerSecond: 1, Burst: 1})
	require.True(t, k.Take("a", start))
	require.False(t, k.Take("a", start))
	require.True(t, k.Take("b", start), "keys do not share")
	for i := range 10 * minSweep {
		k.Take(fmt.Sprint(i), start.Add(time.Duration(i)*time.Second))
	}
	require.LessOrEqual(t, len(k.buckets), 2*minSweep)
}
