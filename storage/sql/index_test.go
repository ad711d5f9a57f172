package sql

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// However long the conversation is, and wherever the last message that is not above lies, it is found soon.
func TestSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lastSeq := rapid.Int64Range(0, math.MaxUint32).Draw(t, "last seq")
		floor := rapid.Int64Range(0, lastSeq).Draw(t, "floor")
		want := rapid.Int64Range(floor, lastSeq).Draw(t, "last that is not above")
		r := search{low: floor, high: lastSeq + 1, step: 1}
		for range 64 {
			seq, ok := r.probe()
			if !ok {
				break
			}
			if seq <= floor || seq > lastSeq {
				t.Fatalf("seq %d is not between %d and %d", seq, floor, lastSeq)
			}
			if seq <= want {
				r.low = seq
			} else {
				r.high = seq
			}
		}
		if _, ok := r.probe(); ok || r.low != want {
			t.Fatalf("after 64 probes between %d and %d", r.low, r.high)
		}
	})
}
