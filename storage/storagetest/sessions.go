// Package storagetest is the contracts of storage as tests: every implementation passes the one suite.
package storagetest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
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

func lease(t testing.TB, s storage.Sessions, gateway string, millis int64) bool {
	t.Helper()
	existed, err := s.RenewLease(t.Context(), gateway, millis)
	require.NoError(t, err)
	return existed
}

func login(t testing.TB, s storage.Sessions, session storage.Session) *storage.Session {
	t.Helper()
	displaced, err := s.Login(t.Context(), session)
	require.NoError(t, err)
	return displaced
}

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
	require.Nil(t, login(t, s, phone))
	require.Nil(t, login(t, s, old), "another device displaces nobody")
	require.Equal(t, []storage.Session{old, phone}, find(t, s, "app", "alice"), "sorted by device")
	require.Nil(t, login(t, s, phone), "the same channel again")

	again := session("alice", "phone", "c3", "g1")
	again.LoginAt -= 1_000_000_000 // its gateway's clock is behind: logins are ordered by the store
	require.Equal(t, &phone, login(t, s, again))
	require.Equal(t, []storage.Session{old, again}, find(t, s, "app", "alice"))
}

func testLoginRace(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	const n = 50
	var displaced sync.Map
	var count atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			d, err := s.Login(t.Context(), session("alice", "phone", fmt.Sprint("c", i), "g1"))
			if err != nil {
				t.Error(err)
			} else if d != nil {
				displaced.Store(d.Channel, true)
				count.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, n-1, count.Load(), "every login but the first displaces one")
	left := find(t, s, "app", "alice")
	require.Len(t, left, 1)
	_, gone := displaced.Load(left[0].Channel)
	require.False(t, gone, "the one that is left was displaced by nobody")
}

// Flaw 2: the displaced connection's late logout erased the session that displaced it.
func testLateLogout(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	first, second := session("alice", "phone", "c1", "g1"), session("alice", "phone", "c2", "g1")
	login(t, s, first)
	login(t, s, second)
	removed, err := s.Logout(t.Context(), "app", "alice", "phone", "c1")
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
	login(t, s, dead)
	login(t, s, other)
	require.Eventually(t, func() bool {
		return len(find(t, s, "app", "alice")) == 1
	}, eventually, 5*time.Millisecond, "the crashed gateway's sessions end with its lease")
	require.Equal(t, []storage.Session{other}, find(t, s, "app", "alice"))
	require.Nil(t, login(t, s, session("alice", "phone", "c3", "lives")), "a dead session is not displaced")
	require.False(t, lease(t, s, "dies", longLease))
}

func testEndLease(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "g1", longLease)
	login(t, s, session("alice", "phone", "c1", "g1"))
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
	at := func(session storage.Session, loginAt int64) storage.Session {
		session.LoginAt = loginAt
		return session
	}
	newer := at(session("alice", "phone", "c9", "g2"), 2000)
	same := at(session("bob", "phone", "c2", "g1"), 1000)
	older := at(session("carol", "phone", "c8", "g2"), 500)
	dead := at(session("dave", "phone", "c7", "ended"), 9000)
	for _, have := range []storage.Session{newer, same, older, dead} {
		login(t, s, have)
	}

	alice := at(session("alice", "phone", "c1", "g1"), 1000)
	carol := at(session("carol", "phone", "c3", "g1"), 1000)
	dave := at(session("dave", "phone", "c4", "g1"), 1000)
	erin := at(session("erin", "", "c5", "g1"), 1000)
	displaced, err := s.Restore(t.Context(), []storage.Session{alice, same, carol, dave, erin})
	require.NoError(t, err)
	require.Equal(t, []storage.Session{alice}, displaced)
	for account, want := range map[string]storage.Session{
		"alice": newer, "bob": same, "carol": carol, "dave": dave, "erin": erin,
	} {
		require.Equal(t, []storage.Session{want}, find(t, s, "app", account))
	}

	displaced, err = s.Restore(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, displaced)

	many := make([]storage.Session, 1500)
	for i := range many {
		many[i] = at(session(fmt.Sprint("many", i), "", fmt.Sprint("m", i), "g1"), 1)
	}
	displaced, err = s.Restore(t.Context(), many)
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
		login(t, s, x)
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
			login(t, s, session(account, "", fmt.Sprint("c", i), "g1"))
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
	login(t, a, x)
	require.Equal(t, []storage.Session{x}, find(t, b, "app", "alice"), "at once: nobody remembers that a gateway had no lease")
	require.NoError(t, a.EndLease(t.Context(), "g1"))
	require.Eventually(t, func() bool {
		return len(find(t, b, "app", "alice")) == 0
	}, eventually, 10*time.Millisecond)
}
