package faults

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

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
