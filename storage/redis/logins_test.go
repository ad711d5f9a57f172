package redis

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/component"
)

// loginAll signs in that many accounts at the same moment, and returns the errors by account.
func loginAll(t *testing.T, s *Sessions, accounts int) []error {
	t.Helper()
	errs := make([]error, accounts)
	var wg sync.WaitGroup
	for i := range accounts {
		wg.Go(func() {
			session := storage.Session{App: "app", Account: fmt.Sprint("a", i), Channel: fmt.Sprint("c", i), Gateway: "g"}
			a, err := s.Login(t.Context(), session, storage.DevicePolicy{})
			if errs[i] = err; err == nil && a.Stamp == 0 {
				errs[i] = fmt.Errorf("no stamp, and the lease runs")
			}
		})
	}
	wg.Wait()
	return errs
}

// Logins that share pipelines each get their own answer, also from a Redis that does not have the script.
func TestLoginsTogether(t *testing.T) {
	s := newSessions(t, true)
	ctx := t.Context()
	_, err := s.RenewLease(ctx, "g", 60_000, 0)
	require.NoError(t, err)
	for range 3 {
		const accounts = 5 * loginPipeline
		require.NoError(t, s.client.ScriptFlush(ctx).Err())
		for i, err := range loginAll(t, s, accounts) {
			require.NoError(t, err, i)
		}
		for i := range accounts {
			found, err := s.Find(ctx, []storage.AccountKey{{App: "app", Account: fmt.Sprint("a", i)}})
			require.NoError(t, err)
			require.Len(t, found[0], 1)
			require.Equal(t, fmt.Sprint("c", i), found[0][0].Channel)
		}
	}
	s.logins.mu.Lock()
	defer s.logins.mu.Unlock()
	require.Empty(t, s.logins.waiting)
}

// A connection that takes everything and answers nothing fails the logins that went over it, each with an error.
func TestLoginsWithoutAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close() //nolint:revive // all of them at the end
		}
	}()
	s := NewSessions(Options{Addr: ln.Addr().String(), Timeout: 20 * time.Millisecond})
	defer s.Close()
	for i, err := range loginAll(t, s, 3*loginPipeline) {
		require.Error(t, err, i)
	}
}

// A connection that hangs holds up what went over it, and not those who come later.
func TestLoginsPassAHangingConnection(t *testing.T) {
	server := component.Redis(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	hangs := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if first {
				close(hangs)
				defer c.Close() //nolint:revive // at the end
				continue
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
			go func() { _, _ = io.Copy(c, up); _ = c.Close() }()
		}
	}()
	s := NewSessions(Options{Addr: ln.Addr().String(), DB: testDB, Timeout: time.Minute})
	defer s.Close()
	ctx := t.Context()
	login := func(account string) error {
		_, err := s.Login(ctx, storage.Session{App: "hanging", Account: account, Channel: "c", Gateway: "g"}, storage.DevicePolicy{})
		return err
	}
	go func() { _ = login("first") }() // ends with the connection
	<-hangs
	for s.logins.quiet() <= loginLate {
		runtime.Gosched()
	}
	require.NoError(t, login("second"))
}

// quiet is for how long nothing has been sent.
func (l *logins) quiet() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.sent)
}
