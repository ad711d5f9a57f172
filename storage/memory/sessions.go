// Package memory keeps sessions in the memory of one process, for standalone and for tests.
package memory

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// Options of the store. The zero value works.
type Options struct {
	// Now is the clock of the leases. Defaults to time.Now.
	Now func() time.Time
}

// Sessions is storage.Sessions in memory.
type Sessions struct {
	now func() time.Time

	mu       sync.Mutex
	accounts map[storage.AccountKey]map[string]storage.Session // by device
	leases   map[string]time.Time                              // end, by gateway
	logins   int                                               // since the last sweep
}

var _ storage.Sessions = (*Sessions)(nil)

// NewSessions returns an empty store.
func NewSessions(o Options) *Sessions {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sessions{
		now:      o.Now,
		accounts: make(map[storage.AccountKey]map[string]storage.Session),
		leases:   make(map[string]time.Time),
	}
}

// Login implements storage.Sessions.
func (s *Sessions) Login(ctx context.Context, session storage.Session) (*storage.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	old, ok := s.put(session)
	if !ok || old.Channel == session.Channel || !s.live(old) {
		return nil, nil
	}
	return &old, nil
}

// put stores the session and returns what was in its place. Caller holds mu.
func (s *Sessions) put(session storage.Session) (old storage.Session, ok bool) {
	key := storage.AccountKey{App: session.App, Account: session.Account}
	devices := s.accounts[key]
	if devices == nil {
		devices = make(map[string]storage.Session, 1)
		s.accounts[key] = devices
	}
	old, ok = devices[session.Device]
	devices[session.Device] = session
	return old, ok
}

// live reports whether the session's lease runs. Caller holds mu.
func (s *Sessions) live(session storage.Session) bool {
	return s.now().Before(s.leases[session.Gateway])
}

// sweep forgets the sessions of ended leases, once in as many logins as there are accounts, so
// that it costs little per login. Caller holds mu.
func (s *Sessions) sweep() {
	if s.logins++; s.logins <= len(s.accounts) {
		return
	}
	s.logins = 0
	now := s.now()
	for gateway, end := range s.leases {
		if !now.Before(end) {
			delete(s.leases, gateway)
		}
	}
	for key, devices := range s.accounts {
		for device, session := range devices {
			if _, ok := s.leases[session.Gateway]; !ok {
				delete(devices, device)
			}
		}
		if len(devices) == 0 {
			delete(s.accounts, key)
		}
	}
}

// Logout implements storage.Sessions.
func (s *Sessions) Logout(ctx context.Context, app, account, device, channel string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := storage.AccountKey{App: app, Account: account}
	if current, ok := s.accounts[key][device]; !ok || current.Channel != channel {
		return false, nil
	}
	delete(s.accounts[key], device)
	if len(s.accounts[key]) == 0 {
		delete(s.accounts, key)
	}
	return true, nil
}

// Find implements storage.Sessions.
func (s *Sessions) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([][]storage.Session, len(keys))
	for i, key := range keys {
		for _, session := range s.accounts[key] {
			if s.live(session) {
				found[i] = append(found[i], session)
			}
		}
		slices.SortFunc(found[i], func(a, b storage.Session) int { return strings.Compare(a.Device, b.Device) })
	}
	return found, nil
}

// RenewLease implements storage.Sessions.
func (s *Sessions) RenewLease(ctx context.Context, gateway string, ttlMillis int64) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	existed := now.Before(s.leases[gateway])
	s.leases[gateway] = now.Add(time.Duration(ttlMillis) * time.Millisecond)
	return existed, nil
}

// Restore implements storage.Sessions.
func (s *Sessions) Restore(ctx context.Context, sessions []storage.Session) ([]storage.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var displaced []storage.Session
	for _, session := range sessions {
		current, ok := s.accounts[storage.AccountKey{App: session.App, Account: session.Account}][session.Device]
		if ok && current.Channel != session.Channel && current.LoginAt > session.LoginAt && s.live(current) {
			displaced = append(displaced, session)
			continue
		}
		s.put(session)
	}
	return displaced, nil
}

// EndLease implements storage.Sessions.
func (s *Sessions) EndLease(ctx context.Context, gateway string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, gateway)
	return nil
}

// Ping implements storage.Sessions.
func (s *Sessions) Ping(ctx context.Context) error { return ctx.Err() }

// Close implements storage.Sessions.
func (s *Sessions) Close() error { return nil }
