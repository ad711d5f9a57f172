package faults

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify"
)

// A row of the table is the sum of its parts: no number of package verify's is forgotten.
func TestAddAddsEverything(t *testing.T) {
	var sum, part verify.Row
	numbers := reflect.ValueOf(&part).Elem()
	for i := range numbers.NumField() {
		if f := numbers.Field(i); f.Kind() == reflect.Int64 {
			f.SetInt(2)
		}
	}
	part.Healed, part.Converged, part.Unjudged, part.Examples = true, true, "why", []string{"an example"}
	sum.Converged = true
	add(&sum, part)
	require.Equal(t, part, sum)
	part.Converged = false
	add(&sum, part)
	require.Equal(t, int64(4), sum.Lost)
	require.False(t, sum.Converged)
	require.Len(t, sum.Examples, 2)
}

func TestRoundsAreRepeatableAndDoNotTouchAThingTwice(t *testing.T) {
	choice := []Fault{
		{Name: "a", On: []string{"1"}},
		{Name: "b", On: []string{"1", "2"}},
		{Name: "c", On: []string{"2"}},
		{Name: "d", On: []string{onAll}},
		{Name: "e", On: []string{"3"}},
	}
	var longest int
	for seed := range uint64(200) {
		round := pick(rand.New(rand.NewPCG(seed, 0)), choice)
		require.NotEmpty(t, round)
		again := pick(rand.New(rand.NewPCG(seed, 0)), choice)
		require.Equal(t, round, again, "the same seed, the same faults")
		held := map[string]string{}
		for _, f := range round {
			require.False(t, f.On[0] == onAll && len(round) > 1, "%v", round)
			for _, on := range f.On {
				require.Empty(t, held[on], "%v", round)
				held[on] = f.Name
			}
		}
		longest = max(longest, len(round))
	}
	require.Equal(t, 3, longest, "faults overlap")
}
