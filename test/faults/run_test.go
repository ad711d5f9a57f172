package faults

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/test/component"
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

// bare is a site without processes: its rows can be looked at, not run.
func bare(t *testing.T, d *disk) *Site {
	server := func() *component.Process { return new(component.Process) }
	return &Site{
		Cluster: &cluster.Cluster{
			MySQL: server(), Redis: server(), Consul: server(),
			Logics: []*cluster.Node{{Name: "logic-1"}}, Gateways: []*cluster.Node{{Name: "gateway-1"}}, Routers: []*cluster.Node{{Name: "router"}},
		},
		proxies: newProxies(t.Logf), disk: d, log: t.Logf,
	}
}

// A fault that cannot be made has a line of its own.
func TestWhatIsNotRunIsSaid(t *testing.T) {
	s := bare(t, &disk{missing: errors.New("operation not permitted")})
	report, err := s.RunAll(t.Context(), verify.Options{}, func(name string) bool { return strings.Contains(name, "disk") }, 0)
	require.NoError(t, err)
	require.Len(t, report.Rows, 1)
	require.Contains(t, report.Table(), "disk full for the database: NOT RUN: operation not permitted")
}

func TestRowsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range bare(t, new(disk)).Rows() {
		require.NotEmpty(t, row.Name)
		require.False(t, seen[row.Name], row.Name)
		seen[row.Name] = true
		for _, f := range row.Faults {
			require.NotEmpty(t, f.On, "%s: nothing may overlap with what holds nothing", f.Name)
		}
	}
}
