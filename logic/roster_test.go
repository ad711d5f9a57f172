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
				rows, err := l.online(t.Context(), rosterKey{"a", 9}, members)
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
			rows, err := l.online(t.Context(), rosterKey{"a", 9}, members)
			require.NoError(t, err)
			return present(t, rows)
		}
		require.Equal(t, []string{"user-00007"}, online())
		require.Equal(t, len(members), s.asked)
		before, err := l.online(t.Context(), rosterKey{"a", 9}, members)
		require.NoError(t, err)

		login("user-00003")
		login("somebody else")
		login("user-00003")
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
		_, err := l.online(t.Context(), rosterKey{"another", 9}, members)
		require.NoError(t, err)
		login("user-00001")
		time.Sleep(age)
		asked := s.asked
		rows, err := l.online(t.Context(), rosterKey{"another", 9}, members)
		require.NoError(t, err)
		require.Empty(t, rows)
		require.Equal(t, asked, s.asked)

		l = newLocations(s, 0, l.metrics)
		for range 2 {
			rows, err := l.online(t.Context(), rosterKey{"a", 9}, members)
			require.NoError(t, err)
			require.Equal(t, []string{"user-00001"}, present(t, rows))
		}
		require.Equal(t, asked+2*len(members), s.asked)
	})
}

// What rosters hold is bounded, also if nobody is on line: each keeps the list of its group's members alive. A new list, as after
// each join, takes the place of the one before.
func TestRostersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _, _ := located(t)
		require.NoError(t, l.catchUp(t.Context()))
		for i := range int64(20) {
			for range 3 {
				members := make([]string, maxRostered/5)
				r, _, ok := l.rosterOf(rosterKey{"a", i}, members)
				require.False(t, ok)
				r.rows = make([][]storage.Session, maxRostered/20)
				l.keep(rosterKey{"a", i}, r)
				l.keep(rosterKey{"a", i}, r)
				require.LessOrEqual(t, len(l.rosters), 4)
				require.Equal(t, len(l.rosters)*maxRostered/4, l.rostered)
				_, _, ok = l.rosterOf(rosterKey{"a", i}, members)
				require.True(t, ok)
			}
		}
	})
}

// A roster that is made of old answers ended with the generation after theirs: a session was believed for 15 s.
func TestRosterIsBelievedNoLonger(t *testing.T) {
	for idle := time.Duration(0); idle < locationsKept; idle += 497 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			l, s, login, channels := located(t)
			members := crowd(10)
			login(members[0])
			time.Sleep(age)
			require.Equal(t, 1, channels(members[0]))
			asked := time.Now()
			_, err := s.Logout(t.Context(), "a", members[0], "", members[0])
			require.NoError(t, err)
			time.Sleep(idle)
			for {
				rows, err := l.online(t.Context(), rosterKey{"a", 9}, members)
				require.NoError(t, err)
				if len(rows) == 0 {
					return
				}
				require.Less(t, time.Since(asked), locationsKept)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// What a batch could not push is counted once, whatever could be looked up before.
func TestUnpushedOfABatch(t *testing.T) {
	f := build(t, func(c *Config) { c.LocationAge = age })
	batch := slices.Concat(burstOf(f, crowd(10), "a"), burstOf(f, crowd(largeGroup+1), "a"), burstOf(f, crowd(largeGroup+2), "a"))
	f.sessions.setDown(true)
	f.dispatch.messages(batch)
	require.EqualValues(t, 10+2*largeGroup+3, f.counter("unpushed_total", "session_store"))
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
