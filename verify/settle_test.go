package verify

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify/internal/oracle"
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

// absent is a device that never comes on line.
type absent struct{ actor }

func (absent) run(context.Context) {}

// Regression: a late device that was opened after a row's goal was reached, and before the row was
// judged, had lost everything.
func TestLateDevicesWaitWhileARowSettles(t *testing.T) {
	late := &device{actor: absent{}, oracle: &oracle.Device{Name: "late"}, late: time.Nanosecond}
	r := &Run{o: Options{Log: t.Logf}, oracle: oracle.New("run", []string{"a"}), devices: []*device{late}}
	r.ctx, r.cancel = context.WithCancel(t.Context())
	defer r.stop()
	r.quiet()
	require.NoError(t, r.open(t.Context()))
	require.Never(t, late.opened.Load, 50*time.Millisecond, time.Millisecond)
	r.resume()
	require.Eventually(t, late.opened.Load, 5*time.Second, time.Millisecond)
}
