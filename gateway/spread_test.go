package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSpanGrowsWithTheClients(t *testing.T) {
	for _, test := range []struct {
		n    int
		want time.Duration
	}{
		{0, 0},
		{10, 500 * time.Microsecond},
		{10_000, 500 * time.Millisecond},
		{100_000, 5 * time.Second},
		{1_000_000, 5 * time.Second},
	} {
		require.Equal(t, test.want, span(test.n, hintRate, hintSpan), test.n)
	}
}

func TestDue(t *testing.T) {
	for _, test := range []struct {
		n             int
		span, elapsed time.Duration
		want          int
	}{
		{0, 0, 0, 0},
		{7, 0, 0, 7},
		{7, spreadTick - 1, 0, 7},
		{100, time.Second, 0, 1},
		{100, time.Second, 10 * time.Millisecond, 2},
		{100, time.Second, 500 * time.Millisecond, 51},
		{100, time.Second, time.Second - 1, 100},
		{100, time.Second, time.Hour, 100},
		{1, time.Second, 0, 1},
		{1_000_000, time.Hour, time.Hour / 2, 500_001},
	} {
		require.Equal(t, test.want, due(test.n, test.span, test.elapsed), test)
	}
}

func TestSpreadIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var seconds [5]int
		next := 0
		spread(t.Context(), 100_000, 5*time.Second, func(i int) {
			require.Equal(t, next, i)
			next++
			seconds[min(4, time.Since(start)/time.Second)]++
		})
		require.Equal(t, 5*time.Second, time.Since(start))
		for _, n := range seconds {
			require.InEpsilon(t, 20_000, n, 0.05)
		}
	})
}

func TestSpreadEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		spread(ctx, 1000, 10*time.Second, func(int) { n++ })
		require.InEpsilon(t, 100, n, 0.05)
	})
}
