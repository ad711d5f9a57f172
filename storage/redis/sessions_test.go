package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/storagetest"
	"github.com/hermod-im/hermod/test/component"
)

func TestMain(m *testing.M) { component.Main(m, component.KindRedis) }

// testDB is the database of this package's tests, which empty it.
const testDB = 7

// newSessions opens the test's Redis; the first call of a test empties it.
func newSessions(t testing.TB, empty bool) *Sessions {
	t.Helper()
	s := NewSessions(Options{Addr: component.Redis(t), DB: testDB})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	if empty {
		require.NoError(t, s.client.FlushDB(t.Context()).Err())
	}
	return s
}

func TestSessions(t *testing.T) {
	storagetest.Sessions(t, func(t *testing.T) storagetest.SessionsFactory {
		newSessions(t, true)
		return func(t testing.TB) storage.Sessions { return newSessions(t, false) }
	})
}

func TestEncoding(t *testing.T) {
	for _, s := range []storage.Session{
		{},
		{LoginAt: 1<<63 - 1, Gateway: "g:1", Channel: "::", Platform: "9:x", Features: 1<<32 - 1},
		{LoginAt: 1, Gateway: "💬", Channel: "c", Platform: "\x00"},
	} {
		s.App, s.Account, s.Device = "app", "alice", "phone"
		got, err := decode("app", "alice", "phone", encode(s))
		require.NoError(t, err)
		require.Equal(t, s, got)
		for cut := range encode(s) {
			_, err := decode("app", "alice", "phone", encode(s)[:cut])
			require.Error(t, err)
		}
	}
	s, err := decode("", "", "", encode(storage.Session{Channel: "c"})+"3:new")
	require.NoError(t, err)
	require.Equal(t, "c", s.Channel)
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(storage.Session{LoginAt: 5, Gateway: "g", Channel: "c", Platform: "p", Features: 3}))
	f.Fuzz(func(t *testing.T, value string) {
		s, err := decode("", "", "", value)
		if err != nil {
			return
		}
		again, err := decode("", "", "", encode(s))
		if s.LoginAt >= 0 && (err != nil || again != s) {
			t.Fatalf("%q: %+v became %+v: %v", value, s, again, err)
		}
	})
}

// Losing all of Redis heals: the lease is found lost, and what is restored is found.
func TestRedisLosesEverything(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	session := storage.Session{App: "app", Account: "alice", Channel: "c", Gateway: "g"}
	_, err := s.RenewLease(ctx, "g", 60_000)
	require.NoError(t, err)
	_, err = s.Login(ctx, session)
	require.NoError(t, err)
	require.NoError(t, s.client.FlushDB(ctx).Err())
	require.NoError(t, s.client.ScriptFlush(ctx).Err())

	existed, err := s.RenewLease(ctx, "g", 60_000)
	require.NoError(t, err)
	require.False(t, existed)
	displaced, err := s.Restore(ctx, []storage.Session{session})
	require.NoError(t, err)
	require.Empty(t, displaced)
	found, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: "alice"}})
	require.NoError(t, err)
	require.Equal(t, [][]storage.Session{{session}}, found)
}

// What crashed gateways leave behind goes away: with the key, or before where there is much of it.
func TestGarbage(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	_, err := s.RenewLease(ctx, "g", 60_000)
	require.NoError(t, err)
	for i := range 30 {
		_, err := s.Login(ctx, storage.Session{App: "app", Account: "alice", Device: fmt.Sprint(i), Channel: "c", Gateway: "dead"})
		require.NoError(t, err)
	}
	_, err = s.Login(ctx, storage.Session{App: "app", Account: "alice", Device: "phone", Channel: "c", Gateway: "g"})
	require.NoError(t, err)
	key := accountKey("app", "alice")
	require.LessOrEqual(t, s.client.HLen(ctx, key).Val(), int64(8))
	require.Greater(t, s.client.PTTL(ctx, key).Val(), 24*time.Hour)
	require.NoError(t, s.client.PExpire(ctx, key, time.Minute).Err())
	_, err = s.Restore(ctx, []storage.Session{{App: "app", Account: "alice", Device: "phone", Channel: "c", Gateway: "g"}})
	require.NoError(t, err)
	require.Greater(t, s.client.PTTL(ctx, key).Val(), 24*time.Hour)
}

func TestRedisDown(t *testing.T) {
	s := NewSessions(Options{Addr: "127.0.0.1:1", DialTimeout: 200 * time.Millisecond})
	defer s.Close()
	require.Error(t, s.Ping(t.Context()))
	_, err := s.Find(t.Context(), []storage.AccountKey{{}})
	require.Error(t, err)
	_, err = s.Login(t.Context(), storage.Session{})
	require.Error(t, err)
}

func BenchmarkFind(b *testing.B) {
	s := newSessions(b, true)
	ctx := b.Context()
	_, err := s.RenewLease(ctx, "g", 600_000)
	require.NoError(b, err)
	const n = 100
	keys := make([]storage.AccountKey, n)
	for i := range keys {
		keys[i] = storage.AccountKey{App: "app", Account: fmt.Sprint("account", i)}
		_, err := s.Login(ctx, storage.Session{App: "app", Account: keys[i].Account, Channel: fmt.Sprint(i), Gateway: "g"})
		require.NoError(b, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Find(ctx, keys); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/account")
}
