package logic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// crowd is the sorted members of a group of n.
func crowd(n int) []string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf("user-%05d", i)
	}
	return members
}

// present are the accounts of rows, which must be in order.
func present(t *testing.T, rows [][]storage.Session) (accounts []string) {
	t.Helper()
	for _, row := range rows {
		require.NotEmpty(t, row)
		for _, s := range row {
			require.Equal(t, row[0].Account, s.Account)
		}
		accounts = append(accounts, row[0].Account)
	}
	require.True(t, slices.IsSorted(accounts))
	return accounts
}

// Whoever has been on line for an age is in a roster, and nobody whose session ended longer ago than answers are kept: whatever happens to
// whom meanwhile, and in all phases of the generations.
func TestRosterIsWhatTheStoreSays(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 4))
			l, s, login, _ := located(t)
			members := crowd(300)
			everybody := append(slices.Clone(members), "somebody else", "user-1")
			left := map[string]time.Time{} // zero: on line
			for range 200 {
				for range random.IntN(4) * random.IntN(maxPatched/2) {
					who := everybody[random.IntN(len(everybody))]
					if at, was := left[who]; was && at.IsZero() {
						_, err := s.Logout(t.Context(), "a", who, "", who)
						require.NoError(t, err)
						left[who] = time.Now()
						continue
					}
					login(who)
					left[who] = time.Time{}
				}
				if random.IntN(20) == 0 {
					l.forgetAll()
				}
				time.Sleep(age)
				rows, err := l.online(t.Context(), "a", members)
				require.NoError(t, err)
				found := present(t, rows)
				for _, who := range members {
					_, is := slices.BinarySearch(found, who)
					switch at, was := left[who]; {
					case was && at.IsZero():
						require.True(t, is, "%s, seed %d", who, seed)
					case !was || time.Since(at) > locationsKept:
						require.False(t, is, "%s, seed %d", who, seed)
					}
				}
				time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
			}
		})
	}
}

// A message to a large group costs nothing for members who are off line, and one of whom something has changed costs one question.
func TestRosterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, login, _ := located(t)
		members := crowd(largeGroup + 1)
		login("user-00007")
		online := func() []string {
			rows, err := l.online(t.Context(), "a", members)
			require.NoError(t, err)
			return present(t, rows)
		}
		require.Equal(t, []string{"user-00007"}, online())
		require.Equal(t, len(members), s.asked)
		before, err := l.online(t.Context(), "a", members)
		require.NoError(t, err)

		login("user-00003")
		login("somebody else")
		time.Sleep(age)
		require.Equal(t, []string{"user-00003", "user-00007"}, online())
		require.Equal(t, len(members)+1, s.asked)
		require.Equal(t, []string{"user-00007"}, present(t, before), "who has the rows keeps them")
		require.Equal(t, []string{"user-00003", "user-00007"}, online())
		require.Equal(t, len(members)+1, s.asked)

		time.Sleep(locationsKept)
		require.Equal(t, []string{"user-00003", "user-00007"}, online())
		require.Equal(t, 2*len(members)+1, s.asked, "nothing is believed for longer")
	})
}

// Another tenant's accounts of the same names change nothing, and nothing is kept where nothing is remembered.
func TestRosterOfATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, login, _ := located(t)
		members := crowd(largeGroup + 1)
		_, err := l.online(t.Context(), "another", members)
		require.NoError(t, err)
		login("user-00001")
		time.Sleep(age)
		asked := s.asked
		rows, err := l.online(t.Context(), "another", members)
		require.NoError(t, err)
		require.Empty(t, rows)
		require.Equal(t, asked, s.asked)

		l = newLocations(s, 0, l.metrics)
		for range 2 {
			rows, err := l.online(t.Context(), "a", members)
			require.NoError(t, err)
			require.Equal(t, []string{"user-00001"}, present(t, rows))
		}
		require.Equal(t, asked+2*len(members), s.asked)
	})
}

// What rosters hold is bounded, also if nobody is on line: each keeps the list of its group's members alive.
func TestRostersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _, _ := located(t)
		require.NoError(t, l.catchUp(t.Context()))
		for range 20 {
			members := make([]string, maxRostered/4)
			r, _, ok := l.rosterOf("a", members)
			require.False(t, ok)
			l.keep(audienceOf(members), r)
			l.keep(audienceOf(members), r)
			require.LessOrEqual(t, len(l.rosters), 4)
			require.Equal(t, len(l.rosters)*len(members), l.rostered)
			_, _, ok = l.rosterOf("a", members)
			require.True(t, ok)
		}
	})
}

// A repeated message, whose receivers may be a list of its own, takes no roster; what is new behind it goes by what was found for that.
func TestNoRosterOfADuplicate(t *testing.T) {
	f := build(t, func(c *Config) { c.LocationAge = age })
	members := crowd(largeGroup + 1)
	f.online("gateway-1", members[3], syncs, "")
	batch := burstOf(f, members, "a", "a")
	batch[0].draft.Duplicate = true
	f.dispatch.messages(batch)
	require.Empty(t, f.dispatch.locations.rosters)
	require.Len(t, f.links.pushes(), 2)
	f.dispatch.messages(batch[1:])
	require.Len(t, f.dispatch.locations.rosters, 1)
	require.Len(t, f.links.pushes(), 3)
}
