package storagetest

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// on makes the session one on a platform.
func on(session storage.Session, platform string) storage.Session {
	session.Platform = platform
	return session
}

// channels are the account's sessions.
func channels(t testing.TB, s storage.Sessions, account string) []string {
	t.Helper()
	out := []string{}
	for _, x := range find(t, s, "app", account) {
		out = append(out, x.Channel)
	}
	return out
}

// refused is a login that finds these sessions in its way.
func refused(t testing.TB, s storage.Sessions, session storage.Session, p storage.DevicePolicy, stay ...storage.Session) {
	t.Helper()
	before := channels(t, s, session.Account)
	_, err := s.Login(t.Context(), session, p)
	var conflict *storage.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.ElementsMatch(t, stay, conflict.Sessions)
	require.Equal(t, before, channels(t, s, session.Account), "nothing has changed")
}

// A login that was delayed in a stopped logic node displaced the newer connection of the same client,
// which then took itself for displaced by another.
func testLateLogin(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	client := func(channel string, attempt uint64) storage.Session {
		return of(session("alice", "phone", channel, "g1"), "run-1", attempt)
	}
	// Beyond 2^53, where Lua's numbers lose the last digits, and with more digits than the one before.
	const big = math.MaxUint64 - 7
	login(t, s, client("c1", 9), anyone)
	login(t, s, client("c2", big), anyone, storage.DisplacedByReconnect)
	for _, attempt := range []uint64{0, 9, big - 1} {
		_, err := s.Login(t.Context(), client("late", attempt), anyone)
		require.ErrorIs(t, err, storage.ErrSuperseded)
	}
	require.Equal(t, []string{"c2"}, channels(t, s, "alice"))
	loginAgain(t, s, client("c2", big))
	newer, displaced := login(t, s, client("c3", big+1), anyone, storage.DisplacedByReconnect)
	require.Equal(t, "c2", displaced[0].Channel)
	require.Equal(t, []storage.Session{newer}, find(t, s, "app", "alice"))

	login(t, s, of(session("alice", "phone", "c4", "g1"), "run-2", 1), anyone, storage.DisplacedByDevice)
	login(t, s, session("alice", "phone", "c5", "g1"), anyone, storage.DisplacedByDevice)
	login(t, s, session("alice", "phone", "c6", "g1"), anyone, storage.DisplacedByDevice)
	login(t, s, of(session("alice", "tablet", "c7", "g1"), "run-1", 1), anyone) // another device
}

// The same with a client that says nothing of itself: the gateway's channels tell the order, where it
// came back to the same gateway.
func testLateLoginOfAnOldClient(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	lease(t, s, "g2", longLease)
	login(t, s, session("alice", "", "g1.z", "g1"), anyone)
	login(t, s, session("alice", "", "g1.10", "g1"), anyone, storage.DisplacedByDevice)
	login(t, s, session("alice", "", "g1.1a", "g1"), anyone, storage.DisplacedByDevice)
	for _, channel := range []string{"g1.z", "g1.10", "g1.19"} {
		_, err := s.Login(t.Context(), session("alice", "", channel, "g1"), anyone)
		require.ErrorIs(t, err, storage.ErrSuperseded)
		_, err = s.Login(t.Context(), of(session("alice", "", channel, "g1"), "x", 9), anyone)
		require.ErrorIs(t, err, storage.ErrSuperseded)
	}
	require.Equal(t, []string{"g1.1a"}, channels(t, s, "alice"))
	loginAgain(t, s, session("alice", "", "g1.1a", "g1"))
	login(t, s, session("alice", "", "g2.1", "g2"), anyone, storage.DisplacedByDevice)
	login(t, s, session("alice", "", "g1.1a", "g1"), anyone, storage.DisplacedByDevice) // the store's order
	// A client that says more is believed: its connections may have overtaken each other.
	login(t, s, of(session("bob", "", "g1.5", "g1"), "x", 1), anyone)
	login(t, s, of(session("bob", "", "g1.4", "g1"), "x", 2), anyone, storage.DisplacedByReconnect)
}

// Nodes' clocks do not decide: logins are ordered by the store, and what it stores is ahead of what it displaces.
func testClocks(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	for _, ahead := range []int64{5, 999_999_999, 1_700_000_000_999_999_999, math.MaxInt64 - 1} {
		account := fmt.Sprint("at", ahead)
		login(t, s, at(session(account, "phone", "c1", "g1"), ahead), anyone)
		behind, displaced := login(t, s, at(session(account, "phone", "c2", "g1"), 1), anyone, storage.DisplacedByDevice)
		require.Equal(t, ahead+1, behind.LoginAt)
		require.Equal(t, []storage.Session{behind}, find(t, s, "app", account))
		_, lost, err := s.Restore(t.Context(), "g1", displaced, anyone)
		require.NoError(t, err)
		require.Len(t, lost, 1)
		require.Equal(t, []string{"c2"}, channels(t, s, account))
	}

	// A gateway that stood still, and whose lease has ended, does not win back what it had either.
	frozen := at(session("alice", "phone", "c1", "frozen"), 1_800_000_000_000_000_000)
	login(t, s, frozen, anyone)
	later, _ := login(t, s, session("alice", "phone", "c2", "g1"), anyone)
	require.Equal(t, frozen.LoginAt+1, later.LoginAt)
	lease(t, s, "frozen", longLease)
	_, lost, err := s.Restore(t.Context(), "frozen", []storage.Session{frozen}, anyone)
	require.NoError(t, err)
	require.Len(t, lost, 1)
	require.Equal(t, []storage.Session{later}, find(t, s, "app", "alice"))
}

// What was lost or late is stored again in the order of the logins, platforms included.
func testRestoreOrder(t *testing.T, open SessionsFactory) {
	platform := storage.DevicePolicy{PerPlatform: true}
	phone, tablet := session("alice", "phone", "c1", "g1"), session("alice", "tablet", "c2", "g2")
	for _, test := range []struct {
		name         string
		have, given  storage.Session
		policy       storage.DevicePolicy
		left, reason string
	}{
		{"another device", at(phone, 1), at(tablet, 2), anyone, "c1 c2", ""},
		{"another platform", at(phone, 1), on(at(tablet, 2), "web"), platform, "c1 c2", ""},
		{"a newer one of the platform", at(phone, 1), at(tablet, 2), platform, "c2", "platform"},
		{"an older one of the platform", at(phone, 2), at(tablet, 1), platform, "c1", "platform"},
		{"whatever the policy at a login", at(phone, 1), at(tablet, 2), storage.DevicePolicy{PerPlatform: true, Refuse: true}, "c2", "platform"},
		{"a later attempt", of(at(phone, 2), "x", 1), of(at(session("alice", "phone", "c2", "g2"), 1), "x", 2), anyone, "c2", "reconnected"},
		{"an earlier attempt", of(at(phone, 1), "x", 2), of(at(session("alice", "phone", "c2", "g2"), 2), "x", 1), anyone, "c1", "reconnected"},
		{"another client", of(at(phone, 1), "x", 2), of(at(session("alice", "phone", "c2", "g2"), 2), "y", 1), anyone, "c2", "device"},
		{"beyond the limit", at(phone, 1), at(tablet, 2), storage.DevicePolicy{Max: 1, RefuseBeyondMax: true}, "c1 c2", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			lease(t, s, "g1", longLease)
			lease(t, s, "g2", longLease)
			test.have.Account, test.given.Account = test.name, test.name
			login(t, s, test.have, anyone)
			for range 2 { // repeating changes nothing
				_, displaced, err := s.Restore(t.Context(), "g2", []storage.Session{test.given}, test.policy)
				require.NoError(t, err)
				if test.reason == "" || test.left == "c2" && len(displaced) == 0 {
					require.Empty(t, displaced)
				} else {
					require.Len(t, displaced, 1)
					require.Equal(t, storage.Displacement(test.reason), displaced[0].Reason)
					loser, winner := test.have, test.given
					if test.left == "c1" {
						loser, winner = winner, loser
					}
					require.Equal(t, loser, displaced[0].Session)
					require.Equal(t, winner.Device, displaced[0].ByDevice)
					require.Equal(t, winner.Platform, displaced[0].ByPlatform)
				}
				got := fmt.Sprint(channels(t, s, test.name))
				require.Equal(t, "["+test.left+"]", got)
			}
		})
	}

	// The policy has changed: of two that are stored the older goes when it is stored again.
	s := open(t)
	lease(t, s, "g1", longLease)
	login(t, s, at(session("bob", "a", "c1", "g1"), 1), anyone)
	login(t, s, at(session("bob", "b", "c2", "g1"), 2), anyone)
	_, displaced, err := s.Restore(t.Context(), "g1", []storage.Session{at(session("bob", "a", "c1", "g1"), 1)}, platform)
	require.NoError(t, err)
	require.Len(t, displaced, 1)
	require.Equal(t, []string{"c2"}, channels(t, s, "bob"))
}

func testOnePerPlatform(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	p := storage.DevicePolicy{PerPlatform: true}
	login(t, s, session("alice", "phone", "c1", "g1"), p)
	login(t, s, on(session("alice", "laptop", "c2", "g1"), "web"), p)
	login(t, s, on(session("alice", "", "c3", "g1"), ""), p) // no platform is one too
	login(t, s, on(session("alice", "nameless", "c4", "g1"), ""), p, storage.DisplacedByPlatform)
	_, displaced := login(t, s, session("alice", "tablet", "c5", "g1"), p, storage.DisplacedByPlatform)
	require.Equal(t, "phone", displaced[0].Device)
	require.Equal(t, []string{"c2", "c4", "c5"}, channels(t, s, "alice"))

	// The device comes back, and then with another platform: its own session and that platform's give way.
	login(t, s, session("alice", "tablet", "c6", "g1"), p, storage.DisplacedByDevice)
	login(t, s, on(session("alice", "tablet", "c7", "g1"), "web"), p, storage.DisplacedByDevice, storage.DisplacedByPlatform)
	require.Equal(t, []string{"c4", "c7"}, channels(t, s, "alice"))
}

func testOnePerPlatformRefuses(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	p := storage.DevicePolicy{PerPlatform: true, Refuse: true}
	phone, _ := login(t, s, session("alice", "phone", "c1", "g1"), p)
	login(t, s, on(session("alice", "laptop", "c2", "g1"), "web"), p)
	refused(t, s, session("alice", "tablet", "c3", "g1"), p, phone)
	login(t, s, of(session("alice", "phone", "c4", "g1"), "x", 1), p, storage.DisplacedByDevice)
	phone, _ = login(t, s, of(session("alice", "phone", "c5", "g1"), "x", 2), p, storage.DisplacedByReconnect)
	_, err := s.Login(t.Context(), of(session("alice", "phone", "late", "g1"), "x", 1), p)
	require.ErrorIs(t, err, storage.ErrSuperseded)
	refused(t, s, session("alice", "laptop", "c6", "g1"), p, phone) // with a platform that is taken

	_, err = s.Logout(t.Context(), "app", "alice", "phone", "c5")
	require.NoError(t, err)
	login(t, s, session("alice", "tablet", "c7", "g1"), p)

	// The policy was another one when these came; each may come back.
	login(t, s, session("bob", "phone", "b1", "g1"), anyone)
	login(t, s, session("bob", "tablet", "b2", "g1"), anyone)
	login(t, s, session("bob", "phone", "b3", "g1"), p, storage.DisplacedByDevice)
	require.Equal(t, []string{"b3", "b2"}, channels(t, s, "bob"))
}

func testMaxDevices(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	p := storage.DevicePolicy{Max: 3}
	for i := range 5 {
		x := at(session("alice", fmt.Sprint("d", i), fmt.Sprint("c", i), "g1"), int64(100+i))
		if i < 3 {
			login(t, s, x, p)
			continue
		}
		_, displaced := login(t, s, x, p, storage.DisplacedByLimit)
		require.Equal(t, fmt.Sprint("c", i-3), displaced[0].Channel, "the one that logged in first")
	}
	login(t, s, at(session("alice", "d2", "c5", "g1"), 200), p, storage.DisplacedByDevice) // no more than before
	require.Equal(t, []string{"c5", "c3", "c4"}, channels(t, s, "alice"))
	// The limit was lowered; the newest stays although its node's clock is behind.
	p.Max = 1
	login(t, s, at(session("alice", "d9", "c9", "g1"), 1), p,
		storage.DisplacedByLimit, storage.DisplacedByLimit, storage.DisplacedByLimit)
	require.Equal(t, []string{"c9"}, channels(t, s, "alice"))

	// With platforms: what gives way for its platform does not count.
	p = storage.DevicePolicy{PerPlatform: true, Max: 2}
	login(t, s, session("bob", "phone", "b1", "g1"), p)
	login(t, s, on(session("bob", "laptop", "b2", "g1"), "web"), p)
	login(t, s, session("bob", "tablet", "b3", "g1"), p, storage.DisplacedByPlatform)
	require.Equal(t, []string{"b2", "b3"}, channels(t, s, "bob"))
}

func testMaxDevicesRefuses(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	p := storage.DevicePolicy{Max: 2, RefuseBeyondMax: true}
	phone, _ := login(t, s, session("alice", "phone", "c1", "g1"), p)
	laptop, _ := login(t, s, session("alice", "laptop", "c2", "g1"), p)
	refused(t, s, session("alice", "tablet", "c3", "g1"), p, phone, laptop)
	login(t, s, session("alice", "phone", "c4", "g1"), p, storage.DisplacedByDevice)
	p.Max = 1 // lowered: who is there may come back
	login(t, s, session("alice", "phone", "c5", "g1"), p, storage.DisplacedByDevice)
	require.Equal(t, []string{"c2", "c5"}, channels(t, s, "alice"))
}

// However many devices of a platform log in at once, one is left, and each of the others was displaced once.
func testPlatformRace(t *testing.T, open SessionsFactory) {
	s, p := open(t), storage.DevicePolicy{PerPlatform: true}
	lease(t, s, "g1", longLease)
	device := func(i int) storage.Session {
		return session("alice", fmt.Sprint("d", i), fmt.Sprint("c", i), "g1")
	}
	displaced := race(t, s, device, p)
	require.Len(t, displaced, racers-1)
	left := channels(t, s, "alice")
	require.Len(t, left, 1)
	require.False(t, displaced[left[0]])

	p.Refuse = true
	var admitted, conflicts atomic.Int32
	each(func(i int) {
		x := device(i)
		x.Account = "bob"
		_, err := s.Login(t.Context(), x, p)
		var conflict *storage.ConflictError
		switch {
		case err == nil:
			admitted.Add(1)
		case errors.As(err, &conflict):
			conflicts.Add(1)
		default:
			t.Error(err)
		}
	})
	require.EqualValues(t, 1, admitted.Load())
	require.EqualValues(t, racers-1, conflicts.Load())
	require.Len(t, channels(t, s, "bob"), 1)
}

func testLimitRace(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	displaced := race(t, s, func(i int) storage.Session {
		return at(session("alice", fmt.Sprint("d", i), fmt.Sprint("c", i), "g1"), int64(i))
	}, storage.DevicePolicy{Max: 3})
	require.Len(t, displaced, racers-3)
	left := channels(t, s, "alice")
	require.Len(t, left, 3)
	for _, c := range left {
		require.False(t, displaced[c])
	}
}

// A store that went back to an older state of itself did so unnoticed, with the lease in it: sessions
// were gone, and nobody stored them again.
func testStamps(t *testing.T, open SessionsFactory) {
	s := open(t)
	renew := func(seen int64) (lost bool) {
		t.Helper()
		lost, err := s.RenewLease(t.Context(), "g1", longLease, seen)
		require.NoError(t, err)
		return lost
	}
	stamp := func(channel string) int64 {
		t.Helper()
		a, err := s.Login(t.Context(), session("alice", channel, channel, "g1"), anyone)
		require.NoError(t, err)
		return a.Stamp
	}
	require.Zero(t, stamp("c0"), "no lease")
	require.True(t, renew(0))
	first := stamp("c1")
	require.Positive(t, first)
	second := stamp("c2")
	require.Equal(t, first+1, second, "one for each, so that one that comes twice shows")
	third, _, err := s.Restore(t.Context(), "g1", []storage.Session{session("bob", "", "b", "g1"), session("carol", "", "c", "g1")}, anyone)
	require.NoError(t, err)
	require.Equal(t, second+1, third)
	require.False(t, renew(third))
	require.False(t, renew(first), "an older one is no wonder: answers overtake each other")
	require.True(t, renew(third+5), "what had these stamps is not there")
	require.True(t, renew(third+5), "the answer may have been lost")
	require.False(t, renew(0))
	require.Equal(t, third+1, stamp("c3"))

	lease(t, s, "g2", longLease)
	a, err := s.Login(t.Context(), session("dave", "", "d", "g2"), anyone)
	require.NoError(t, err)
	require.Equal(t, int64(1), a.Stamp, "each gateway has its own")
	require.NoError(t, s.EndLease(t.Context(), "g1"))
	require.True(t, renew(third))
	require.True(t, renew(third), "the answer may have been lost")
	require.False(t, renew(0))
}
