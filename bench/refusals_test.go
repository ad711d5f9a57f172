package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/wire"
)

// A run of which everything was refused was clean, with zeros for its figures.
func TestRefusalsMakeARunUnclean(t *testing.T) {
	const (
		limited = "rate limited (302)"
		busy    = "system exception (300)"
	)
	for _, test := range []struct {
		name     string
		measured int64
		refused  Refusals
		// What is said of it, in a closed and in an open loop; empty: the run is clean.
		closed, open string
	}{
		{name: "none", measured: 1},
		{name: "nothing measured", closed: "no message was measured: give a longer --duration", open: "no message was measured: give a longer --duration"},
		{
			name: "all of them", refused: Refusals{limited: 5000},
			closed: "no message was measured: 5000 requests were refused, most with rate limited (302): start the servers with --set limits.enabled=false",
			open:   "no message was measured: 5000 requests were refused, most with rate limited (302): start the servers with --set limits.enabled=false",
		},
		{
			name: "some, by limits", measured: 1000, refused: Refusals{limited: 2, busy: 1},
			closed: "3 requests were refused, most with rate limited (302): start the servers with --set limits.enabled=false",
		},
		{
			name: "some, by busy servers", measured: 1000, refused: Refusals{limited: 1, busy: 2},
			closed: "3 requests were refused, most with system exception (300): the servers are not well, or take less than this load: see their logs",
		},
		{
			name: "one for another reason", measured: 1000, refused: Refusals{busy: 2, wire.StatusInvalidBody.String(): 1},
			closed: "3 requests were refused, most with system exception (300)",
			open:   "1 requests were refused, most with invalid packet body (101): the servers' logs may say why",
		},
		{
			name: "as many of two", measured: 1, refused: Refusals{wire.StatusInvalidBody.String(): 1, wire.StatusNoDestination.String(): 1},
			closed: "2 requests were refused, most with invalid packet body (101): the servers' logs may say why",
			open:   "2 requests were refused, most with invalid packet body (101): the servers' logs may say why",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := func(want string, err error, clean bool) {
				t.Helper()
				require.Equal(t, want == "", clean)
				if want == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, want)
				}
			}
			talk := TalkResult{Window: 1, Messages: test.measured, Refused: test.refused}
			check(test.closed, talk.Err(), talk.Clean())
			talk.Window, talk.DueRate = 0, 100
			check(test.open, talk.Err(), talk.Clean())

			group := GroupResult{Window: 1, Messages: test.measured, Deliveries: test.measured, Refused: test.refused}
			check(test.closed, group.Err(), group.Clean())
			group.Rate = 100
			check(test.open, group.Err(), group.Clean())
		})
	}
}

// Trouble and refusals are both said.
func TestErrSaysAll(t *testing.T) {
	talk := TalkResult{Messages: 1, Lost: 1, Refused: Refusals{"rate limited (302)": 1}}
	require.ErrorContains(t, talk.Err(), "lost")
	require.ErrorContains(t, talk.Err(), "limits.enabled=false")
	require.ErrorContains(t, (&GroupResult{Messages: 1, Deliveries: 1, Dropped: 1}).Err(), "dropped")
	require.Error(t, (&GroupResult{Messages: 1}).Err(), "acknowledged, and nobody got it")
}
