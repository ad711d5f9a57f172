// Package memory keeps sessions in the memory of one process, for standalone and for tests.
package memory

import (
	"context"
	"hash/maphash"
	"iter"
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

	hash func(storage.AccountKey) uint64

	mu       sync.Mutex
	accounts map[uint64]packed  // the sessions of the accounts with this hash, mostly one; those of an account by device
	leases   map[string]lease   // by gateway
	logins   int                // since the last sweep
	missed   map[string]*missed // by gateway
	notes    int64              // of what was missed
	changes  changes
}

// lease is a gateway's.
type lease struct {
	end   time.Time
	stamp int64 // how often something was stored under it
}

var _ storage.Sessions = (*Sessions)(nil)

// NewSessions returns an empty store.
func NewSessions(o Options) *Sessions {
	if o.Now == nil {
		o.Now = time.Now
	}
	seed := maphash.MakeSeed()
	return &Sessions{
		now: o.Now,
		hash: func(key storage.AccountKey) uint64 {
			return maphash.String(seed, key.App)*31 + maphash.String(seed, key.Account)
		},
		accounts: make(map[uint64]packed),
		leases:   make(map[string]lease),
		missed:   make(map[string]*missed),
	}
}

// Login implements storage.Sessions.
func (s *Sessions) Login(ctx context.Context, session storage.Session, p storage.DevicePolicy) (storage.Admission, error) {
	if err := ctx.Err(); err != nil {
		return storage.Admission{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	displaced, err := admit(session, s.living(session), p)
	if err != nil {
		return storage.Admission{}, err
	}
	for other := range s.of(session) {
		session.LoginAt = max(session.LoginAt, other.LoginAt+1)
	}
	for _, d := range displaced {
		s.drop(d.Session)
	}
	s.put(session)
	return storage.Admission{LoginAt: session.LoginAt, Stamp: s.stamp(session.Gateway), Displaced: displaced}, nil
}

// living are the sessions of the session's account whose leases run. Caller holds mu.
func (s *Sessions) living(session storage.Session) (out []storage.Session) {
	for other := range s.of(session) {
		if s.live(other) {
			out = append(out, other)
		}
	}
	return out
}

func keyOf(session storage.Session) storage.AccountKey {
	return storage.AccountKey{App: session.App, Account: session.Account}
}

// of are the sessions of the session's account. Caller holds mu.
func (s *Sessions) of(session storage.Session) iter.Seq[storage.Session] {
	key := keyOf(session)
	return s.accounts[s.hash(key)].of(key)
}

// keep stores the account's sessions. Caller holds mu.
func (s *Sessions) keep(key storage.AccountKey, list []storage.Session) {
	hash := s.hash(key)
	for other := range s.accounts[hash].all() {
		if keyOf(other) != key {
			list = append(list, other)
		}
	}
	s.set(hash, list)
}

// set stores all sessions of accounts with this hash. Caller holds mu.
func (s *Sessions) set(hash uint64, list []storage.Session) {
	if len(list) == 0 {
		delete(s.accounts, hash)
		return
	}
	s.accounts[hash] = pack(list)
}

// put stores the session. Caller holds mu.
func (s *Sessions) put(session storage.Session) {
	list := []storage.Session{session}
	for other := range s.of(session) {
		if other.Device != session.Device {
			list = append(list, other)
		}
	}
	slices.SortFunc(list, func(a, b storage.Session) int { return strings.Compare(a.Device, b.Device) })
	s.keep(keyOf(session), list)
	s.changes.add(keyOf(session))
}

// drop removes the session if it is still the one of its device, and reports whether it was. Caller holds mu.
func (s *Sessions) drop(session storage.Session) bool {
	var others []storage.Session
	found := false
	for other := range s.of(session) {
		if other.Device == session.Device && other.Channel == session.Channel {
			found = true
		} else {
			others = append(others, other)
		}
	}
	if found {
		s.keep(keyOf(session), others)
	}
	return found
}

// live reports whether the session's lease runs. Caller holds mu.
func (s *Sessions) live(session storage.Session) bool {
	return s.now().Before(s.leases[session.Gateway].end)
}

// stamp notes that something was stored under the gateway's lease. Caller holds mu.
func (s *Sessions) stamp(gateway string) int64 {
	l, ok := s.leases[gateway]
	if !ok || !s.now().Before(l.end) {
		return 0
	}
	l.stamp++
	s.leases[gateway] = l
	return l.stamp
}

// sweep forgets the sessions of ended leases, once in as many logins as there are accounts, so
// that it costs little per login. Caller holds mu.
func (s *Sessions) sweep() {
	if s.logins++; s.logins <= len(s.accounts) {
		return
	}
	s.logins = 0
	now := s.now()
	for gateway, l := range s.leases {
		if !now.Before(l.end) {
			delete(s.leases, gateway)
			delete(s.missed, gateway) // should it come back, it has lost everything
		}
	}
	for hash, sessions := range s.accounts {
		var leased []storage.Session
		ended := false
		for session := range sessions.all() {
			if _, ok := s.leases[session.Gateway]; ok {
				leased = append(leased, session)
			} else {
				ended = true
			}
		}
		if ended {
			s.set(hash, leased)
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
	return s.drop(storage.Session{App: app, Account: account, Device: device, Channel: channel}), nil
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
		for session := range s.accounts[s.hash(key)].of(key) {
			if s.live(session) {
				found[i] = append(found[i], session)
			}
		}
	}
	return found, nil
}

// RenewLease implements storage.Sessions.
func (s *Sessions) RenewLease(ctx context.Context, gateway string, ttlMillis, seen int64) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	l := s.leases[gateway]
	ended := !now.Before(l.end)
	if ended {
		l.stamp = 0
		s.changes.addAll()
	}
	l.end = now.Add(time.Duration(ttlMillis) * time.Millisecond)
	s.leases[gateway] = l
	return ended || l.stamp < seen, nil
}

// Restore implements storage.Sessions.
func (s *Sessions) Restore(ctx context.Context, gateway string, sessions []storage.Session, p storage.DevicePolicy) (int64, []storage.Displaced, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var displaced []storage.Displaced
	for _, session := range sessions {
		displaced = append(displaced, s.restore(session, p)...)
	}
	return s.stamp(gateway), displaced, nil
}

// restore stores the session again, unless a newer one conflicts with it. Caller holds mu.
func (s *Sessions) restore(session storage.Session, p storage.DevicePolicy) []storage.Displaced {
	var older []storage.Displaced
	for _, other := range s.living(session) {
		if !conflict(other, session, p) {
			continue
		}
		if newer(other, session) {
			s.drop(session)
			return []storage.Displaced{giveWay(session, other)}
		}
		older = append(older, giveWay(other, session))
	}
	for _, d := range older {
		s.drop(d.Session)
	}
	s.put(session)
	return older
}

// EndLease implements storage.Sessions.
func (s *Sessions) EndLease(ctx context.Context, gateway string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, gateway)
	delete(s.missed, gateway)
	return nil
}

// Ping implements storage.Sessions.
func (s *Sessions) Ping(ctx context.Context) error { return ctx.Err() }

// Close implements storage.Sessions.
func (s *Sessions) Close() error { return nil }
