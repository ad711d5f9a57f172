package snowflake

import (
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// testLease is a Lease that the test moves.
type testLease struct {
	mu      sync.Mutex
	grant   Grant
	err     error
	extends int
}

func (l *testLease) Grant() (Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.grant, l.err
}

func (l *testLease) Extend(until int64) (Grant, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.extends++
		l.grant.Until = max(l.grant.Until, until+10_000)
	}
	return l.grant, l.err
}

// testClock generates as the library does, from a time that the test sets.
type testClock struct {
	millis int64
	last   int64
	step   int64
}

func (c *testClock) source(number int64) (func() int64, error) {
	return func() int64 {
		c.step++
		if c.millis != c.last {
			c.last, c.step = c.millis, 0
		}
		return compose(c.millis, number, c.step&maxStep)
	}, nil
}

func newTest(t *testing.T, lease Lease, clock *testClock) *Generator {
	t.Helper()
	g, err := New(lease)
	require.NoError(t, err)
	if clock != nil {
		g.clock = clock.source
	}
	return g
}

func next(t *testing.T, g *Generator, floor int64) int64 {
	t.Helper()
	id, err := g.Next(floor)
	require.NoError(t, err)
	return id
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMilli()

func TestIDsAreUniqueOverGenerators(t *testing.T) {
	const nodes, workers, each = 3, 4, 20_000
	var mu sync.Mutex
	seen := make(map[int64]struct{}, nodes*workers*each)
	var wg sync.WaitGroup
	for n := range nodes {
		g := newTest(t, Fixed(n), nil)
		for range workers {
			wg.Go(func() {
				ids := make([]int64, each)
				for i := range ids {
					ids[i], _ = g.Next(0)
				}
				mu.Lock()
				defer mu.Unlock()
				for i, id := range ids {
					if i > 0 && id <= ids[i-1] {
						t.Errorf("id %d after %d", id, ids[i-1])
					}
					if Node(id) != int64(n) {
						t.Errorf("id %d of node %d carries %d", id, n, Node(id))
					}
					seen[id] = struct{}{}
				}
			})
		}
	}
	wg.Wait()
	require.Len(t, seen, nodes*workers*each)
}

func TestIDHasTheTimeOfTheClock(t *testing.T) {
	before := time.Now().UnixMilli()
	id := next(t, newTest(t, Fixed(7), nil), 0)
	require.GreaterOrEqual(t, Millis(id), before)
	require.LessOrEqual(t, Millis(id), time.Now().UnixMilli())
	require.EqualValues(t, 7, Node(id))
}

func TestFloor(t *testing.T) {
	ahead := start + 600_000
	for _, c := range []struct {
		name        string
		floor, want int64
	}{
		{"below the clock", compose(start-1, 9, 9), compose(start, 5, 0)},
		{"smaller node number", compose(ahead, 4, 77), compose(ahead, 5, 0)},
		{"same node number", compose(ahead, 5, 77), compose(ahead, 5, 78)},
		{"same node number, last step", compose(ahead, 5, maxStep), compose(ahead+1, 5, 0)},
		{"larger node number", compose(ahead, 6, 0), compose(ahead+1, 5, 0)},
		{"negative", -5, compose(start, 5, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newTest(t, Fixed(5), &testClock{millis: start})
			id := next(t, g, c.floor)
			require.Equal(t, c.want, id)
			require.Greater(t, next(t, g, 0), id)
		})
	}
	g := newTest(t, Fixed(5), &testClock{millis: start})
	_, err := g.Next(math.MaxInt64)
	require.Error(t, err)
	require.Equal(t, compose(start, 5, 1), next(t, g, 0), "a floor that cannot be met spoils nothing")
}

func TestClockStepsBack(t *testing.T) {
	clock := &testClock{millis: start}
	g := newTest(t, Fixed(1), clock)
	last := next(t, g, 0)
	clock.millis -= 600_000
	for range 3 * int(maxStep) {
		id := next(t, g, 0)
		require.Greater(t, id, last)
		require.EqualValues(t, 1, Node(id))
		last = id
	}
	clock.millis = start + 1000
	require.Equal(t, compose(start+1000, 1, 0), next(t, g, 0), "the clock has caught up")
}

func TestStepsOfOneMillisecondOverflow(t *testing.T) {
	g := newTest(t, Fixed(1), &testClock{millis: start})
	var id int64
	for range maxStep + 1 {
		id = next(t, g, 0)
	}
	require.Equal(t, compose(start, 1, maxStep), id)
	require.Equal(t, compose(start+1, 1, 0), next(t, g, 0))
}

func TestLostLeaseStopsIDs(t *testing.T) {
	lease := &testLease{grant: Grant{Number: 3, Until: start + 10_000}}
	clock := &testClock{millis: start}
	g := newTest(t, lease, clock)
	last := next(t, g, 0)

	lease.err = errors.Join(errors.New("gone"), storage.ErrNoLease)
	_, err := g.Next(0)
	require.ErrorIs(t, err, storage.ErrNoLease)

	// Another number, whose earlier holder's clock was ahead of ours.
	lease.err, lease.grant = nil, Grant{Number: 2, After: start + 20_000, Until: start + 30_000}
	id := next(t, g, 0)
	require.Greater(t, id, last)
	require.EqualValues(t, 2, Node(id))
	require.Greater(t, Millis(id), lease.grant.After)
	require.LessOrEqual(t, Millis(id), lease.grant.Until)
}

func TestNoIDBeyondTheHighMark(t *testing.T) {
	lease := &testLease{grant: Grant{Number: 3, Until: start}}
	clock := &testClock{millis: start}
	g := newTest(t, lease, clock)
	next(t, g, 0)
	require.Zero(t, lease.extends)

	floor := compose(start+3_600_000, 9, 0)
	id := next(t, g, floor)
	require.Greater(t, id, floor)
	require.Equal(t, 1, lease.extends, "the mark was raised before the id was issued")
	require.LessOrEqual(t, Millis(id), lease.grant.Until)
}

func TestFixedRefusesNumbersOutOfRange(t *testing.T) {
	for _, n := range []int64{-1, MaxNode + 1} {
		_, err := newTest(t, Fixed(n), nil).Next(0)
		require.ErrorIs(t, err, storage.ErrNoLease)
	}
}

func BenchmarkNext(b *testing.B) {
	g, err := New(Fixed(0))
	require.NoError(b, err)
	for b.Loop() {
		if _, err := g.Next(0); err != nil {
			b.Fatal(err)
		}
	}
}

func TestIDsFollowTheClockThatIsGiven(t *testing.T) {
	const back = 10 * time.Minute
	now := func() time.Time { return time.Now().Add(-back) }
	g, err := NewAt(Fixed(1), now)
	require.NoError(t, err)
	id := next(t, g, 0)
	require.WithinDuration(t, now(), Time(id), time.Minute)
	require.Equal(t, int64(1), Node(id))
	require.Greater(t, next(t, g, 0), id)
}
