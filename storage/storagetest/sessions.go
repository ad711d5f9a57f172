// Package storagetest is the contracts of storage as tests: every implementation passes the one suite.
package storagetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

const (
	// longLease outlives every test, in milliseconds.
	longLease = 600_000
	// eventually bounds the wait for what must happen soon.
	eventually = 10 * time.Second
)

// SessionsFactory opens a store for the test. Within one test every call opens the same store
// again, so that the second one may be another node's view of it.
type SessionsFactory func(t testing.TB) storage.Sessions

// Sessions runs the contract suite of storage.Sessions. Each subtest calls setup once.
func Sessions(t *testing.T, setup func(t *testing.T) SessionsFactory) {
	for name, test := range map[string]func(*testing.T, SessionsFactory){
		"Login":                    testLogin,
		"LoginsOfOneDeviceRace":    testLoginRace,
		"LateLogoutRemovesNothing": testLateLogout,
		"LeaseEnds":                testLeaseEnds,
		"EndLease":                 testEndLease,
		"Restore":                  testRestore,
		"RestoreObeysTheOrder":     testRestoreOrder,
		"LateLoginOfOneClient":     testLateLogin,
		"LateLoginOfAnOldClient":   testLateLoginOfAnOldClient,
		"Clocks":                   testClocks,
		"OnePerPlatform":           testOnePerPlatform,
		"OnePerPlatformRefuses":    testOnePerPlatformRefuses,
		"MaxDevices":               testMaxDevices,
		"MaxDevicesRefuses":        testMaxDevicesRefuses,
		"LoginsOfOnePlatformRace":  testPlatformRace,
		"LoginsAtTheLimitRace":     testLimitRace,
		"Stamps":                   testStamps,
		"Missed":                   testMissed,
		"MissedTooMany":            testMissedTooMany,
		"KickedTooMany":            testKickedTooMany,
		"Changes":                  testChanges,
		"ChangesOfALease":          testChangesOfALease,
		"ChangesUnknown":           testChangesUnknown,
		"KeysAreUnambiguous":       testSessionKeys,
		"FindMany":                 testFindMany,
		"NodesSeeEachOther":        testTwoNodes,
	} {
		t.Run(name, func(t *testing.T) { test(t, setup(t)) })
	}
}

func session(account, device, channel, gateway string) storage.Session {
	return storage.Session{
		App: "app", Account: account, Device: device, Platform: "ios", Channel: channel,
		Gateway: gateway, Features: 5, LoginAt: 1_700_000_000_123_456_789,
	}
}

// of makes the session one of a run of a client program.
func of(session storage.Session, instance string, attempt uint64) storage.Session {
	session.Instance, session.Attempt = instance, attempt
	return session
}

func at(session storage.Session, loginAt int64) storage.Session {
	session.LoginAt = loginAt
	return session
}

// lease renews it and says whether it was there.
func lease(t testing.TB, s storage.Sessions, gateway string, millis int64) bool {
	t.Helper()
	lost, err := s.RenewLease(t.Context(), gateway, millis, 0)
	require.NoError(t, err)
	return !lost
}

// login is one that displaces as many sessions as there are reasons, each with its own: what is
// stored, and what was displaced.
func login(t testing.TB, s storage.Sessions, session storage.Session, p storage.DevicePolicy, reasons ...storage.Displacement) (stored storage.Session, displaced []storage.Session) {
	t.Helper()
	a, err := s.Login(t.Context(), session, p)
	require.NoError(t, err)
	var got []storage.Displacement
	for _, d := range a.Displaced {
		require.Equal(t, session.Device, d.ByDevice)
		require.Equal(t, session.Platform, d.ByPlatform)
		require.Less(t, d.LoginAt, a.LoginAt, "its gateway must not win the device back")
		got = append(got, d.Reason)
		displaced = append(displaced, d.Session)
	}
	require.ElementsMatch(t, reasons, got)
	session.LoginAt = a.LoginAt
	return session, displaced
}

// loginAgain is one of a channel that is there, by another node perhaps: it displaces nobody but those that it has displaced before.
func loginAgain(t testing.TB, s storage.Sessions, session storage.Session) {
	t.Helper()
	before := find(t, s, session.App, session.Account)
	a, err := s.Login(t.Context(), session, anyone)
	require.NoError(t, err)
	after := find(t, s, session.App, session.Account)
	require.Len(t, after, len(before))
	for _, x := range after {
		for _, d := range a.Displaced {
			require.NotEqual(t, d.Channel, x.Channel)
		}
	}
}

// anyone is the policy that lets all devices in.
var anyone storage.DevicePolicy

func find(t testing.TB, s storage.Sessions, app, account string) []storage.Session {
	t.Helper()
	found, err := s.Find(t.Context(), []storage.AccountKey{{App: app, Account: account}})
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

func testLogin(t *testing.T, open SessionsFactory) {
	s := open(t)
	require.NoError(t, s.Ping(t.Context()))
	require.False(t, lease(t, s, "g1", longLease))
	require.True(t, lease(t, s, "g1", longLease))
	require.Empty(t, find(t, s, "app", "alice"))

	phone, old := session("alice", "phone", "c1", "g1"), session("alice", "", "c2", "g1")
	login(t, s, phone, anyone)
	old, _ = login(t, s, old, anyone) // another device displaces nobody
	require.Equal(t, []storage.Session{old, phone}, find(t, s, "app", "alice"), "sorted by device")
	phone, _ = login(t, s, phone, anyone) // the same channel again

	again, displaced := login(t, s, session("alice", "phone", "c3", "g1"), anyone, storage.DisplacedByDevice)
	require.Equal(t, []storage.Session{phone}, displaced)
	require.Equal(t, []storage.Session{old, again}, find(t, s, "app", "alice"))
}

func testLoginRace(t *testing.T, open SessionsFactory) {
	s := open(t)
	for i := range racers {
		lease(t, s, fmt.Sprint("g", i), longLease)
	}
	displaced := race(t, s, func(i int) storage.Session {
		return session("alice", "phone", fmt.Sprint("c", i), fmt.Sprint("g", i))
	}, anyone)
	require.Len(t, displaced, racers-1, "every login but the first displaces one")
	left := find(t, s, "app", "alice")
	require.Len(t, left, 1)
	require.False(t, displaced[left[0].Channel], "the one that is left was displaced by nobody")
}

// racers is how many logins race.
const racers = 50

// race has all log in at once, and returns the channels that were displaced.
func race(t *testing.T, s storage.Sessions, racer func(i int) storage.Session, p storage.DevicePolicy) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	displaced := map[string]bool{}
	each(func(i int) {
		a, err := s.Login(t.Context(), racer(i), p)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, d := range a.Displaced {
			if displaced[d.Channel] {
				t.Errorf("%s was displaced twice", d.Channel)
			}
			displaced[d.Channel] = true
		}
	})
	return displaced
}

// each calls f for every racer, all at once.
func each(f func(i int)) {
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// Flaw 2: the displaced connection's late logout erased the session that displaced it.
func testLateLogout(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	first, second := session("alice", "phone", "c1", "g1"), session("alice", "phone", "c2", "g1")
	login(t, s, first, anyone)
	second, _ = login(t, s, second, anyone, storage.DisplacedByDevice)
	removed, err := s.Logout(t.Context(), "app", "alice", "phone", "c")
	require.NoError(t, err)
	require.False(t, removed, "half a name is another one")
	removed, err = s.Logout(t.Context(), "app", "alice", "phone", "c1")
	require.NoError(t, err)
	require.False(t, removed)
	require.Equal(t, []storage.Session{second}, find(t, s, "app", "alice"))

	removed, err = s.Logout(t.Context(), "app", "alice", "phone", "c2")
	require.NoError(t, err)
	require.True(t, removed)
	require.Empty(t, find(t, s, "app", "alice"))
	removed, err = s.Logout(t.Context(), "app", "nobody", "phone", "c2")
	require.NoError(t, err)
	require.False(t, removed)
}

func testLeaseEnds(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "dies", 50)
	lease(t, s, "lives", longLease)
	dead, other := session("alice", "phone", "c1", "dies"), session("alice", "web", "c2", "lives")
	login(t, s, dead, anyone)
	login(t, s, other, anyone)
	require.Eventually(t, func() bool {
		return len(find(t, s, "app", "alice")) == 1
	}, eventually, 5*time.Millisecond, "the crashed gateway's sessions end with its lease")
	require.Equal(t, "c2", find(t, s, "app", "alice")[0].Channel)
	all := storage.DevicePolicy{PerPlatform: true, Refuse: true, Max: 2, RefuseBeyondMax: true}
	login(t, s, session("bob", "phone", "c4", "dies"), anyone)
	login(t, s, session("bob", "tablet", "c5", "dies"), anyone)
	login(t, s, session("bob", "web", "c6", "lives"), all)           // a dead session refuses nobody
	login(t, s, session("alice", "phone", "c3", "lives"), anyone)    // and is displaced by nobody
	login(t, s, of(session("carol", "", "c7", "dies"), "x", 9), all) // and supersedes nobody
	login(t, s, of(session("carol", "", "c8", "lives"), "x", 1), all)
	require.False(t, lease(t, s, "dies", longLease))
}

func testEndLease(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	login(t, s, session("alice", "phone", "c1", "g1"), anyone)
	require.Len(t, find(t, s, "app", "alice"), 1)
	require.NoError(t, s.EndLease(t.Context(), "g1"))
	require.Empty(t, find(t, s, "app", "alice"))
	require.NoError(t, s.EndLease(t.Context(), "unknown"))
	require.False(t, lease(t, s, "g1", longLease))
}

func testRestore(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	lease(t, s, "g2", longLease)
	newer := at(session("alice", "phone", "c9", "g2"), 2000)
	same := at(session("bob", "phone", "c2", "g1"), 1000)
	older := at(session("carol", "phone", "c8", "g2"), 500)
	dead := at(session("dave", "phone", "c7", "ended"), 9000)
	for _, have := range []storage.Session{newer, same, older, dead} {
		login(t, s, have, anyone)
	}

	alice := at(session("alice", "phone", "c1", "g1"), 1000)
	carol := at(session("carol", "phone", "c3", "g1"), 1000)
	dave := at(session("dave", "phone", "c4", "g1"), 1000)
	erin := at(session("erin", "", "c5", "g1"), 1000)
	_, displaced, err := s.Restore(t.Context(), "g1", []storage.Session{alice, same, carol, dave, erin}, anyone)
	require.NoError(t, err)
	require.Equal(t, []storage.Displaced{
		{Session: alice, Reason: storage.DisplacedByDevice, ByDevice: "phone", ByPlatform: "ios"},
		{Session: older, Reason: storage.DisplacedByDevice, ByDevice: "phone", ByPlatform: "ios"},
	}, displaced)
	for account, want := range map[string]storage.Session{
		"alice": newer, "bob": same, "carol": carol, "dave": dave, "erin": erin,
	} {
		require.Equal(t, []storage.Session{want}, find(t, s, "app", account))
	}

	_, displaced, err = s.Restore(t.Context(), "g1", nil, anyone)
	require.NoError(t, err)
	require.Empty(t, displaced)

	many := make([]storage.Session, 1500)
	for i := range many {
		many[i] = at(session(fmt.Sprint("many", i), "", fmt.Sprint("m", i), "g1"), 1)
	}
	_, displaced, err = s.Restore(t.Context(), "g1", many, anyone)
	require.NoError(t, err)
	require.Empty(t, displaced)
	require.Equal(t, many[1499:], find(t, s, "app", "many1499"))
}

// I11: no choice of names makes two accounts one.
func testSessionKeys(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g:1", longLease)
	names := []storage.AccountKey{
		{App: "a", Account: "b"},
		{App: "a:b", Account: "c"},
		{App: "a", Account: "b:c"},
		{App: "", Account: "a:b:c"},
		{App: "{a}", Account: "b"},
		{App: "a}", Account: "{b"},
		{App: "app", Account: "Zoë"},
		{App: "app", Account: "zoë"},
		{App: "app", Account: "zoe"},
		{App: "app", Account: "zoe "},
		{App: "app", Account: "💬"},
		{App: "app", Account: "new\nline\x00"},
		{App: "app", Account: strings.Repeat("é", 32)},
	}
	want := make([][]storage.Session, len(names))
	for i, name := range names {
		x := session(name.Account, "dévice: 💻", fmt.Sprint("c:", i), "g:1")
		x.App, x.Platform, x.Features = name.App, "", 1<<31
		login(t, s, x, anyone)
		want[i] = []storage.Session{x}
	}
	found, err := s.Find(t.Context(), names)
	require.NoError(t, err)
	require.Equal(t, want, found)
}

func testFindMany(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	const n = 1200
	keys := make([]storage.AccountKey, n)
	for i := range keys {
		account := fmt.Sprint("account", i)
		keys[i] = storage.AccountKey{App: "app", Account: account}
		if i%3 == 0 {
			login(t, s, session(account, "", fmt.Sprint("c", i), "g1"), anyone)
		}
	}
	found, err := s.Find(t.Context(), keys)
	require.NoError(t, err)
	require.Len(t, found, n)
	for i := range found {
		if i%3 == 0 {
			require.Len(t, found[i], 1)
			require.Equal(t, keys[i].Account, found[i][0].Account)
		} else {
			require.Empty(t, found[i])
		}
	}
	found, err = s.Find(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, found)
}

func testTwoNodes(t *testing.T, open SessionsFactory) {
	a, b := open(t), open(t)
	require.Empty(t, find(t, b, "app", "alice"))
	lease(t, a, "g1", longLease)
	x := session("alice", "phone", "c1", "g1")
	login(t, a, x, anyone)
	require.Equal(t, []storage.Session{x}, find(t, b, "app", "alice"), "at once: nobody remembers that a gateway had no lease")
	require.NoError(t, a.EndLease(t.Context(), "g1"))
	require.Eventually(t, func() bool {
		return len(find(t, b, "app", "alice")) == 0
	}, eventually, 10*time.Millisecond)
}
