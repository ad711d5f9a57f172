package redis

import (
	"context"
	"io"
	"net"
	"sync"
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
}

func newProxy(t *testing.T) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{ln: ln}
	server := component.Redis(t)
	p.wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				_ = c.Close()
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, up)
			p.mu.Unlock()
			p.wait.Go(func() { pass(up, c) })
			p.wait.Go(func() { pass(c, up) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.closeAll()
		p.wait.Wait()
	})
	return p
}

// pass copies, and closes both sides at the end.
func pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	_, _ = io.Copy(to, from)
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
