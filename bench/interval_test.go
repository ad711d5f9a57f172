package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInterval(t *testing.T) {
	var v interval
	require.False(t, v.runs())
	require.False(t, v.has(time.Now()), "not begun")

	v.begin()
	begun := *v.begun.Load()
	require.True(t, v.runs())
	require.False(t, v.has(begun.Add(-1)), "before it began")
	require.True(t, v.has(begun))

	ended := begun.Add(time.Second)
	v.end()
	v.ended.Store(&ended)
	require.False(t, v.runs())
	require.False(t, v.has(begun.Add(-1)))
	require.True(t, v.has(ended.Add(-1)), "still")
	require.False(t, v.has(ended), "after it ended")
}

// lateness is a message that arrives now, in a run that began to be measured 3 s ago.
type lateness struct {
	name   string
	sent   time.Duration // ago
	ended  time.Duration // ago, when measuring ended; 0: it has not
	counts bool
}

// Latencies were recorded while the run was measured, of whatever arrived: of the warm-up's messages, too, and not of those
// that were under way in the end, which are the slowest if the servers stand still.
func latenesses() []lateness {
	return []lateness{
		{name: "sent and arrives while measuring", sent: 2 * time.Second, counts: true},
		{name: "arrives after it", sent: 2 * time.Second, ended: time.Second, counts: true},
		{name: "of the warm-up, arrives while measuring", sent: 4 * time.Second},
		{name: "of the warm-up, arrives after measuring", sent: 4 * time.Second, ended: time.Second},
		{name: "sent after measuring", sent: 500 * time.Millisecond, ended: time.Second},
	}
}

// measure sets the interval, and returns when the message was sent.
func (l *lateness) measure(v *interval) (sent time.Time) {
	now := time.Now()
	begun, ended := now.Add(-3*time.Second), now.Add(-l.ended)
	v.begun.Store(&begun)
	if l.ended > 0 {
		v.ended.Store(&ended)
	}
	return now.Add(-l.sent)
}

// check looks at what a result says of the only message.
func (l *lateness) check(t *testing.T, what string, got Latency) {
	t.Helper()
	if l.counts {
		require.GreaterOrEqual(t, got.Max, 0.99*float64(l.sent.Milliseconds()), what) // a histogram of three digits
	} else {
		require.Zero(t, got, what)
	}
}
