package verify

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A row came out as one that never converged, if it was settled at the moment in which the last
// device had everything: who measures that had not noticed yet.
func TestConvergingIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &converging{took: make(chan time.Duration, 1)}
		go func() {
			time.Sleep(time.Second) // of the bubble
			c.took <- 3 * time.Second
		}()
		took, ok := c.result(true)
		require.True(t, ok)
		require.Equal(t, 3*time.Second, took)

		_, ok = c.result(true)
		require.False(t, ok, "a goal that was raised and not reached")
		began := time.Now()
		_, ok = c.result(false)
		require.False(t, ok)
		require.Equal(t, began, time.Now(), "nothing to wait for")
		c.took <- time.Second
		_, ok = c.result(false)
		require.True(t, ok, "the steady devices had everything, if others had not")
	})
}
