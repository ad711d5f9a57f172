// Package cost holds things to what they cost: allocations and bytes of heap, which are the same on
// every machine, unlike times. A test of it is named TestCost…: `make guard` runs those without the
// race detector, under which they compare nothing.
package cost

import (
	"runtime"
	"testing"
)

// runs is how often Allocs calls a function; what rarely allocates, like a pool after a
// collection, counts as nothing.
const runs = 1000

// Allocs fails the test unless a call of f allocates exactly want times, be it here or on a goroutine that
// works for it. Less is a failure too: write the better number down, or nobody sees it get worse again.
func Allocs(t testing.TB, what string, want int, f func()) {
	t.Helper()
	got := testing.AllocsPerRun(runs, f)
	if !raceEnabled && got != float64(want) {
		t.Errorf("%s: %v allocations, want %d", what, got, want)
	}
}

// noise is what the rest of the process may add to each of some thousand things, in bytes: less than the
// smallest step of a size class.
const noise = 4

// Bytes fails the test if n things that were made since Heap said before, some thousands, cost more than most
// bytes of heap each.
func Bytes(t testing.TB, what string, most float64, n int, before int64) {
	t.Helper()
	each := float64(Heap()-before) / float64(n)
	t.Logf("%s: %.1f bytes", what, each)
	if !raceEnabled && each > most+noise {
		t.Errorf("%s: %.1f bytes, want at most %v", what, each, most)
	}
}

// Heap is how many bytes of heap are in use.
func Heap() int64 {
	runtime.GC()
	runtime.GC() // pools keep what was in use until the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
