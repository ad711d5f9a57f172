package boot

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCalmness(t *testing.T) {
	var c calmness
	now := uint64(0)
	after := func(allocated uint64) bool {
		now += allocated
		return c.due(now)
	}
	require.False(t, after(1<<20), "not worth it")
	require.False(t, after(worth), "busy")
	require.False(t, after(calm+1), "busy")
	require.True(t, after(calm))
	require.False(t, after(0), "nothing new")
	for range worth/calm - 1 {
		require.False(t, after(calm), "not worth it yet")
	}
	require.True(t, after(calm))
	require.NotZero(t, allocated())
}
