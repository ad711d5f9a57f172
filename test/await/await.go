// Package await is how tests wait for what must come: for the event, never for a time.
package await

import (
	"testing"
	"time"
)

// Patience is how long a test waits: only a test that fails waits that long.
const Patience = 20 * time.Second

// Events lets a test wait until something holds, looking again whenever something has happened.
type Events chan struct{}

// NewEvents returns events of which none has happened.
func NewEvents() Events { return make(Events, 1) }

// Happened lets Until look again. It never blocks.
func (e Events) Happened() {
	select {
	case e <- struct{}{}:
	default:
	}
}

// Until waits until holds is true, or fails the test with what it waited for.
func (e Events) Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	wait(t, e, what, holds)
}

// Until is Events.Until for what tells nobody.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	wait(t, ticker.C, what, holds)
}

func wait[T any](t testing.TB, look <-chan T, what string, holds func() bool) {
	t.Helper()
	late := time.After(Patience)
	for !holds() {
		select {
		case <-look:
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
