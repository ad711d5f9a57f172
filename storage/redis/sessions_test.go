package redis

import (
	"fmt"
	"strconv"
	"strings"
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
		{LoginAt: 1<<63 - 1, Gateway: "g:1", Channel: "::", Platform: "9:x", Features: 1<<32 - 1, Instance: "1:", Attempt: 1<<64 - 1},
		{LoginAt: 1, Gateway: "💬", Channel: "c", Platform: "\x00", Attempt: 3},
	} {
		s.App, s.Account, s.Device = "app", "alice", "phone"
		got, err := decode("app", "alice", "phone", encode(s))
		require.NoError(t, err)
		require.Equal(t, s, got)
		got, err = decode("app", "alice", "phone", encodeOld(s))
		require.NoError(t, err, "what the release before wrote")
		old := s
		old.Instance, old.Attempt = "", 0
		require.Equal(t, old, got)
		for cut := range encode(s) {
			if cut == len(encodeOld(s)) {
				continue
			}
			_, err := decode("app", "alice", "phone", encode(s)[:cut])
			require.Error(t, err)
		}
	}
	s, err := decode("", "", "", encode(storage.Session{Channel: "c"})+"3:new")
	require.NoError(t, err)
	require.Equal(t, "c", s.Channel)
}

// encodeOld is a session as the release before writes it: without instance and attempt.
func encodeOld(s storage.Session) string {
	return strings.TrimSuffix(encode(s), fmt.Sprintf("%d:%s20:%020d", len(s.Instance), s.Instance, s.Attempt))
}

// One session that could not be read failed the look-up of all, so that a whole batch of pushes was dropped.
func TestUnreadableSessionIsLeftOut(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	var said []string
	s.logf = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	_, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	for _, account := range []string{"alice", "bob"} {
		_, err = s.Login(ctx, storage.Session{App: "app", Account: account, Device: "phone", Channel: account, Gateway: "g"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	require.NoError(t, s.client.HSet(ctx, accountKey("app", "alice"), "laptop", "garbage", "tablet", "garbage").Err())
	for range 2 {
		found, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: "alice"}, {App: "app", Account: "bob"}})
		require.NoError(t, err)
		require.Len(t, found, 2)
		require.Len(t, found[0], 1)
		require.Equal(t, "phone", found[0][0].Device)
		require.Len(t, found[1], 1)
	}
	require.Len(t, said, 1, "not with every push")
	require.Contains(t, said[0], `"alice"`)
}

// During an upgrade nodes of the release before write sessions without instance, and leases without
// stamp: the former are ordered as ever, the latter say nothing, lest every renewal restores.
func TestReleaseBefore(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	renew := func(seen int64) (lost bool) {
		lost, err := s.RenewLease(ctx, "g", 60_000, seen)
		require.NoError(t, err)
		return lost
	}
	oldRenew := func() { require.NoError(t, s.client.Set(ctx, leasePrefix+"g", "", time.Minute).Err()) }
	require.True(t, renew(0))
	oldRenew()
	old := storage.Session{App: "app", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Gateway: "g", LoginAt: 7}
	require.NoError(t, s.client.HSet(ctx, accountKey("app", "alice"), "phone", encodeOld(old)).Err())
	found, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: "alice"}})
	require.NoError(t, err)
	require.Equal(t, [][]storage.Session{{old}}, found)

	next := old
	next.Channel, next.Instance, next.Attempt = "c2", "run", 1
	a, err := s.Login(ctx, next, storage.DevicePolicy{PerPlatform: true, Max: 1})
	require.NoError(t, err)
	require.Equal(t, storage.Admission{LoginAt: 8, Displaced: []storage.Displaced{
		{Session: old, Reason: storage.DisplacedByDevice, ByDevice: "phone", ByPlatform: "ios"},
	}}, a)
	require.False(t, renew(41), "the stamp is unknown, not smaller")
	a, err = s.Login(ctx, next, storage.DevicePolicy{})
	require.NoError(t, err)
	require.EqualValues(t, 42, a.Stamp)
	oldRenew()
	require.False(t, renew(42))

	require.NoError(t, s.client.HSet(ctx, accountKey("app", "alice"), "phone", encodeOld(old)).Err())
	_, displaced, err := s.Restore(ctx, "g", []storage.Session{next}, storage.DevicePolicy{})
	require.NoError(t, err)
	require.Len(t, displaced, 1)
	removed, err := s.Logout(ctx, "app", "alice", "phone", "c2")
	require.NoError(t, err)
	require.True(t, removed)
}

// Redis that was restarted from a snapshot, or whose replica took over that lagged, has the lease but
// not the sessions that came after: the gateway learns it by the stamp.
func TestRedisGoesBack(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	lost, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	require.True(t, lost)
	login := func(account string) int64 {
		a, err := s.Login(ctx, storage.Session{App: "app", Account: account, Channel: account, Gateway: "g"}, storage.DevicePolicy{})
		require.NoError(t, err)
		return a.Stamp
	}
	login("alice")
	older := dump(t, s)
	seen := login("bob")
	restoreDump(t, s, older)

	found, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: "alice"}, {App: "app", Account: "bob"}})
	require.NoError(t, err)
	require.Len(t, found[0], 1)
	require.Empty(t, found[1])
	lost, err = s.RenewLease(ctx, "g", 60_000, seen)
	require.NoError(t, err)
	require.True(t, lost)
	_, _, err = s.Restore(ctx, "g", []storage.Session{{App: "app", Account: "bob", Channel: "bob", Gateway: "g"}}, storage.DevicePolicy{})
	require.NoError(t, err)
	lost, err = s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	require.False(t, lost)
}

// dump is all of the database, as Redis itself writes it; restoreDump puts it in place of what there is.
func dump(t *testing.T, s *Sessions) map[string]string {
	keys, err := s.client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	out := map[string]string{}
	for _, key := range keys {
		out[key], err = s.client.Dump(t.Context(), key).Result()
		require.NoError(t, err)
	}
	return out
}

func restoreDump(t *testing.T, s *Sessions, dump map[string]string) {
	require.NoError(t, s.client.FlushDB(t.Context()).Err())
	for key, value := range dump {
		require.NoError(t, s.client.Restore(t.Context(), key, time.Minute, value).Err())
	}
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
	_, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	_, err = s.Login(ctx, session, storage.DevicePolicy{})
	require.NoError(t, err)
	require.NoError(t, s.client.FlushDB(ctx).Err())
	require.NoError(t, s.client.ScriptFlush(ctx).Err())

	lost, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	require.True(t, lost)
	_, displaced, err := s.Restore(ctx, "g", []storage.Session{session}, storage.DevicePolicy{})
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
	_, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	for i := range 30 {
		_, err := s.Login(ctx, storage.Session{App: "app", Account: "alice", Device: fmt.Sprint(i), Channel: "c", Gateway: "dead"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	_, err = s.Login(ctx, storage.Session{App: "app", Account: "alice", Device: "phone", Channel: "c", Gateway: "g"}, storage.DevicePolicy{})
	require.NoError(t, err)
	key := accountKey("app", "alice")
	require.LessOrEqual(t, s.client.HLen(ctx, key).Val(), int64(8))
	require.Greater(t, s.client.PTTL(ctx, key).Val(), 24*time.Hour)
	require.NoError(t, s.client.PExpire(ctx, key, time.Minute).Err())
	_, _, err = s.Restore(ctx, "g", []storage.Session{{App: "app", Account: "alice", Device: "phone", Channel: "c", Gateway: "g"}}, storage.DevicePolicy{})
	require.NoError(t, err)
	require.Greater(t, s.client.PTTL(ctx, key).Val(), 24*time.Hour)
}

func TestRedisDown(t *testing.T) {
	s := NewSessions(Options{Addr: "127.0.0.1:1", DialTimeout: 200 * time.Millisecond})
	defer s.Close()
	require.Error(t, s.Ping(t.Context()))
	_, err := s.Find(t.Context(), []storage.AccountKey{{}})
	require.Error(t, err)
	_, err = s.Login(t.Context(), storage.Session{}, storage.DevicePolicy{})
	require.Error(t, err)
}

func BenchmarkFind(b *testing.B) {
	s := newSessions(b, true)
	ctx := b.Context()
	_, err := s.RenewLease(ctx, "g", 600_000, 0)
	require.NoError(b, err)
	const n = 100
	keys := make([]storage.AccountKey, n)
	for i := range keys {
		keys[i] = storage.AccountKey{App: "app", Account: fmt.Sprint("account", i)}
		_, err := s.Login(ctx, storage.Session{App: "app", Account: keys[i].Account, Channel: fmt.Sprint(i), Gateway: "g"}, storage.DevicePolicy{})
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

// BenchmarkLogin is a device that logs in again beside two others, with all policies. redis-µs is what
// Redis itself spends on it.
func BenchmarkLogin(b *testing.B) {
	s := newSessions(b, true)
	ctx := b.Context()
	_, err := s.RenewLease(ctx, "g", 600_000, 0)
	require.NoError(b, err)
	p := storage.DevicePolicy{PerPlatform: true, Max: 10}
	login := func(device, channel string) {
		_, err := s.Login(ctx, storage.Session{
			App: "app", Account: "alice", Device: device, Platform: device, Channel: channel, Gateway: "g", Instance: device,
		}, p)
		require.NoError(b, err)
	}
	login("phone", "c")
	login("laptop", "c")
	require.NoError(b, s.client.ConfigResetStat(ctx).Err())
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		login("tablet", strconv.Itoa(i))
	}
	stats, err := s.client.Info(ctx, "commandstats").Result()
	require.NoError(b, err)
	_, evalsha, _ := strings.Cut(stats, "cmdstat_evalsha:")
	_, usec, _ := strings.Cut(evalsha, "usec_per_call=")
	usec, _, _ = strings.Cut(usec, ",")
	perCall, err := strconv.ParseFloat(usec, 64)
	require.NoError(b, err)
	b.ReportMetric(perCall, "redis-µs")
}
