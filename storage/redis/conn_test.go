package redis

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/component"
)

// A Redis that hangs was asked four times, each time for a whole timeout.
func TestATimeoutEndsACommand(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	addr := ln.Addr().String()
	for name, o := range map[string]Options{
		"alone":             {Addr: addr},
		"with a password":   {Addr: addr, DB: testDB, Password: "x"},
		"Sentinel":          {SentinelMaster: "master", SentinelAddrs: []string{addr}},
		"Sentinel, with it": {SentinelMaster: "master", SentinelAddrs: []string{addr}, SentinelPassword: "x"},
	} {
		o.Timeout = 20 * time.Millisecond
		for command, run := range commands {
			t.Run(name+", "+command, func(t *testing.T) {
				s := NewSessions(o)
				defer s.Close()
				require.Error(t, run(t.Context(), s))
				require.Equal(t, 1, waiting(t, ln), "a connection is used no more after a timeout")
			})
		}
	}
}

// waiting accepts and closes the connections that wait, and says how many there were.
func waiting(t *testing.T, ln net.Listener) (n int) {
	last, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer last.Close()
	for {
		c, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, c.Close())
		if c.RemoteAddr().String() == last.LocalAddr().String() {
			return n
		}
		n++
	}
}

// A connection that Redis has closed while it was idle is no error: what was sent over it is sent over another one. What was
// missed was asked for in a transaction, which go-redis does not send again.
func TestIdleConnectionWasClosed(t *testing.T) {
	newSessions(t, true)
	p := newProxy(t)
	s := p.open(t)
	for command, run := range commands {
		t.Run(command, func(t *testing.T) {
			require.NoError(t, s.Ping(t.Context()))
			p.closeAll()
			require.NoError(t, run(t.Context(), s))
		})
	}
}

// The answer to a login or a restore was cut off, and the second one, sent by go-redis, said that nobody had given way: the old
// connection was kept, without a session, a push or a kick.
func TestAnswerIsLost(t *testing.T) {
	direct := newSessions(t, true)
	ctx := t.Context()
	for _, gateway := range []string{"g1", "g2"} {
		_, err := direct.RenewLease(ctx, gateway, 60_000, 0)
		require.NoError(t, err)
	}
	perPlatform := storage.DevicePolicy{PerPlatform: true}
	old := func(account, device string) storage.Session {
		session := storage.Session{App: "app", Account: account, Device: device, Platform: device, Channel: "old " + device, Gateway: "g1", LoginAt: 5}
		a, err := direct.Login(ctx, session, storage.DevicePolicy{})
		require.NoError(t, err)
		session.LoginAt = a.LoginAt
		return session
	}
	phone := func(account string) storage.Session {
		return storage.Session{
			App: "app", Account: account, Device: "phone", Platform: "tablet", Channel: "new", Gateway: "g2", LoginAt: 9,
			Instance: "1", Attempt: 1,
		}
	}
	gaveWay := func(account string) []storage.Displaced {
		return []storage.Displaced{
			{Session: old(account, "phone"), Reason: storage.DisplacedByDevice, ByDevice: "phone", ByPlatform: "tablet"},
			{Session: old(account, "tablet"), Reason: storage.DisplacedByPlatform, ByDevice: "phone", ByPlatform: "tablet"},
		}
	}
	_, _, err := direct.Restore(ctx, "g2", []storage.Session{phone("other")}, perPlatform) // Redis has the scripts
	require.NoError(t, err)
	p := newProxy(t)
	s := p.open(t)

	want := gaveWay("alice")
	p.cut.Store(true)
	a, err := s.Login(ctx, phone("alice"), perPlatform)
	require.NoError(t, err)
	require.False(t, p.cut.Load())
	require.ElementsMatch(t, want, a.Displaced)
	a, err = direct.Login(ctx, phone("alice"), perPlatform) // the gateway asks another node
	require.NoError(t, err)
	require.ElementsMatch(t, want, a.Displaced)

	// Of a batch each learns of its own; those that gave way themselves do so again.
	batch := []storage.Session{phone("bob"), phone("carol"), phone("dave"), phone("erin")}
	want = append(gaveWay("bob"), gaveWay("carol")...)
	newer := storage.Session{App: "app", Account: "dave", Device: "phone", Channel: "newer", Gateway: "g1", LoginAt: 10}
	_, err = direct.Login(ctx, newer, storage.DevicePolicy{})
	require.NoError(t, err)
	want = append(want, storage.Displaced{Session: batch[2], Reason: storage.DisplacedByDevice, ByDevice: "phone"})
	p.cut.Store(true)
	_, displaced, err := s.Restore(ctx, "g2", batch, perPlatform)
	require.NoError(t, err)
	require.False(t, p.cut.Load())
	require.ElementsMatch(t, want, displaced)

	// Another channel is told nothing of it, and it is kept for a moment only.
	next := phone("bob")
	next.Channel, next.Attempt = "next", 2
	a, err = direct.Login(ctx, next, perPlatform)
	require.NoError(t, err)
	require.Len(t, a.Displaced, 1)
	kept := direct.client.Keys(ctx, keptPrefix+"*").Val()
	require.Len(t, kept, 4, "alice, bob, bob's next, carol")
	for _, key := range kept {
		left := direct.client.PTTL(ctx, key).Val()
		require.Greater(t, left, time.Duration(0))
		require.LessOrEqual(t, left, 30*time.Second)
		require.NoError(t, direct.client.Del(ctx, key).Err())
	}
	_, displaced, err = direct.Restore(ctx, "g2", batch[1:2], perPlatform)
	require.NoError(t, err)
	require.Empty(t, displaced)
}

// The address of the master leads to another server, and the one that was is a replica now. Logins, which go in pipelines, used their
// connection to it for ever, and were refused.
func TestLoginsLeaveAReplica(t *testing.T) {
	ctx := t.Context()
	_, err := newSessions(t, true).RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	old, err := component.StartRedis(ctx, t.TempDir(), component.RedisOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, old.Close()) }()
	p := newProxy(t)
	master := p.server.Swap(old.Addr)
	s := p.open(t)
	_, err = s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	require.NoError(t, loginAll(t, s, 1)[0])
	require.NoError(t, s.client.SlaveOf(ctx, "127.0.0.1", "1").Err())
	p.server.Store(master)
	for _, err := range loginAll(t, s, 3) {
		require.NoError(t, err)
	}
}

// commands are all that the store asks of Redis.
var commands = map[string]func(ctx context.Context, s *Sessions) error{
	"login": func(ctx context.Context, s *Sessions) error {
		_, err := s.Login(ctx, storage.Session{App: "app", Account: "alice", Channel: "c", Gateway: "g"}, storage.DevicePolicy{})
		return err
	},
	"logout": func(ctx context.Context, s *Sessions) error {
		_, err := s.Logout(ctx, "app", "alice", "", "c")
		return err
	},
	"find": func(ctx context.Context, s *Sessions) error {
		_, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: "alice"}})
		return err
	},
	"changes": func(ctx context.Context, s *Sessions) error {
		_, err := s.Changes(ctx, "")
		return err
	},
	"renew": func(ctx context.Context, s *Sessions) error {
		_, err := s.RenewLease(ctx, "g", 60_000, 0)
		return err
	},
	"restore": func(ctx context.Context, s *Sessions) error {
		_, _, err := s.Restore(ctx, "g", []storage.Session{{App: "app", Account: "bob", Channel: "c", Gateway: "g"}}, storage.DevicePolicy{})
		return err
	},
	"note": func(ctx context.Context, s *Sessions) error { return s.NoteMissed(ctx, "g", []string{"c"}, nil) },
	"missed": func(ctx context.Context, s *Sessions) error {
		_, err := s.Missed(ctx, "g", 0)
		return err
	},
	"end":  func(ctx context.Context, s *Sessions) error { return s.EndLease(ctx, "g") },
	"ping": func(ctx context.Context, s *Sessions) error { return s.Ping(ctx) },
}

// proxy stands between stores and the test's Redis.
type proxy struct {
	ln net.Listener

	mu    sync.Mutex
	conns []net.Conn // of both sides; guarded by mu
	wait  sync.WaitGroup

	// server is where new connections lead to, an address.
	server atomic.Value
	// cut has the answer to the next script lost, with its connection.
	cut atomic.Bool
}

func newProxy(t *testing.T) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{ln: ln}
	p.server.Store(component.Redis(t))
	p.wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", p.server.Load().(string))
			if err != nil {
				_ = c.Close()
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, up)
			p.mu.Unlock()
			var lost atomic.Bool
			p.wait.Go(func() {
				pass(up, c, func(request []byte) bool {
					if bytes.Contains(request, []byte("evalsha")) && p.cut.CompareAndSwap(true, false) {
						lost.Store(true)
					}
					return true
				})
			})
			p.wait.Go(func() { pass(c, up, func([]byte) bool { return !lost.Load() }) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.closeAll()
		p.wait.Wait()
	})
	return p
}

// pass copies what goes on, and closes both sides at the end or when something does not.
func pass(to, from net.Conn, goesOn func([]byte) bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !goesOn(buf[:n]) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// closeAll closes the connections that there are.
func (p *proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// open returns a store behind the proxy, to be closed before it.
func (p *proxy) open(t *testing.T) *Sessions {
	s := NewSessions(Options{Addr: p.ln.Addr().String(), DB: testDB})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}
