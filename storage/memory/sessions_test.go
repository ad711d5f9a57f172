package memory

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/storagetest"
	"github.com/hermod-im/hermod/test/cost"
)

func TestSessions(t *testing.T) {
	storagetest.Sessions(t, func(*testing.T) storagetest.SessionsFactory {
		s := NewSessions(Options{})
		return func(testing.TB) storage.Sessions { return s }
	})
}

// Accounts whose hashes are the same are not mixed up.
func TestSessionsOfOneHash(t *testing.T) {
	s := NewSessions(Options{})
	s.hash = func(storage.AccountKey) uint64 { return 7 }
	ctx := t.Context()
	_, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	keys := []storage.AccountKey{{App: "a", Account: "alice"}, {App: "b", Account: "alice"}, {App: "a", Account: "bob"}}
	login := func(key storage.AccountKey, device, channel string) storage.Admission {
		a, err := s.Login(ctx, storage.Session{App: key.App, Account: key.Account, Device: device, Channel: channel, Gateway: "g"}, storage.DevicePolicy{})
		require.NoError(t, err)
		return a
	}
	channels := func() (out [][]string) {
		found, err := s.Find(ctx, keys)
		require.NoError(t, err)
		for i, sessions := range found {
			out = append(out, nil)
			for _, session := range sessions {
				require.Equal(t, keys[i], keyOf(session))
				out[i] = append(out[i], session.Channel)
			}
		}
		return out
	}
	for i, key := range keys {
		require.Empty(t, login(key, "phone", fmt.Sprint("c", i)).Displaced)
		require.Empty(t, login(key, "desk", fmt.Sprint("d", i)).Displaced)
	}
	require.Equal(t, [][]string{{"d0", "c0"}, {"d1", "c1"}, {"d2", "c2"}}, channels())
	require.Len(t, login(keys[1], "phone", "e1").Displaced, 1)
	removed, err := s.Logout(ctx, "a", "bob", "desk", "d2")
	require.NoError(t, err)
	require.True(t, removed)
	removed, err = s.Logout(ctx, "a", "alice", "phone", "c0")
	require.NoError(t, err)
	require.True(t, removed)
	require.Equal(t, [][]string{{"d0"}, {"d1", "e1"}, {"c2"}}, channels())
}

func TestSessionsOfEndedLeasesAreForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	s := NewSessions(Options{Now: func() time.Time { return now }})
	ctx := t.Context()
	_, err := s.RenewLease(ctx, "g1", 1000, 0)
	require.NoError(t, err)
	for i := range 100 {
		_, err := s.Login(ctx, storage.Session{Account: fmt.Sprint(i), Channel: "c", Gateway: "g1"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	now = now.Add(time.Second)
	_, err = s.RenewLease(ctx, "g2", 1000, 0)
	require.NoError(t, err)
	for range 101 {
		_, err := s.Login(ctx, storage.Session{Account: "alice", Channel: "c", Gateway: "g2"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	require.Len(t, s.accounts, 1)
	require.Len(t, s.leases, 1)
}

// What a session of standalone takes: 96 to 112 bytes of its own, and 30 to 50 for its place in the map, which is not the
// same each time.
func TestCostOfSession(t *testing.T) {
	const accounts = 14_000 // as many as fit into a map's 16 tables
	s := NewSessions(Options{})
	_, err := s.RenewLease(t.Context(), "gateway-1", 60_000, 0)
	require.NoError(t, err)
	before := cost.Heap()
	for i := range accounts {
		_, err := s.Login(t.Context(), storage.Session{
			App: strings.Clone("default"), Account: fmt.Sprintf("account-%08d", i), Device: "0123456789", Platform: "desktop",
			Channel: fmt.Sprint("gateway-1.", i), Gateway: "gateway-1", Instance: "xyz", Attempt: 1, LoginAt: time.Now().UnixNano(),
		}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	cost.Bytes(t, "a session", 165, accounts, before)
	runtime.KeepAlive(s)
}

func BenchmarkFind(b *testing.B) {
	s := NewSessions(Options{})
	_, err := s.RenewLease(b.Context(), "gateway-1", 1<<40, 0)
	require.NoError(b, err)
	keys := make([]storage.AccountKey, 100)
	for i := range keys {
		keys[i] = storage.AccountKey{App: "default", Account: fmt.Sprint("account-", i)}
		_, err := s.Login(b.Context(), storage.Session{
			App: "default", Account: keys[i].Account, Device: "phone", Platform: "ios", Channel: fmt.Sprint("gateway-1.", i), Gateway: "gateway-1",
		}, storage.DevicePolicy{})
		require.NoError(b, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Find(b.Context(), keys); err != nil {
			b.Fatal(err)
		}
	}
}
