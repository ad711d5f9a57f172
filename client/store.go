package client

import (
	"context"
	"crypto/rand"
	"maps"
	"sync"
)

// Store keeps the cursors of a device between runs: of each conversation the seq up to which the
// application has handled it. A cursor is saved after OnMessage has returned, so a crash in between
// delivers that message again.
type Store interface {
	// Load returns all cursors; Run calls it once, first, and ends with its error.
	Load(ctx context.Context) (map[string]int64, error)
	// Save keeps one cursor, which may be 0. It is called by one goroutine at a time; a smaller seq than before
	// says that the service was restored from a backup. An error is logged, and the next Save of the
	// conversation makes up for it.
	Save(ctx context.Context, conversation string, seq int64) error
	// Delete forgets the cursor of a conversation that the account does not belong to any more.
	Delete(ctx context.Context, conversation string) error
}

// LoginCounter may be implemented by a Store: it numbers the logins of all runs that use it, one after the
// other. Without it a run that begins while a login of the run before is still on its way can be
// displaced by that: the server cannot know which is the later one.
//
// A copy of the Store, and what is restored from a backup, must have another instance: a login with a smaller
// number than one that the server has seen of the instance is refused (ErrConflict).
type LoginCounter interface {
	// NextLogin returns the name of this Store, up to 64 bytes and the same for ever, and a number larger than
	// any before. It is called before each login; its error makes that wait and try again.
	NextLogin(ctx context.Context) (instance string, attempt uint64, err error)
}

// runCounter numbers the logins of one run. It belongs to Run.
type runCounter struct {
	instance string
	logins   uint64
}

// NextLogin counts the logins.
func (r *runCounter) NextLogin(context.Context) (instance string, attempt uint64, err error) {
	r.logins++
	return r.instance, r.logins, nil
}

// MemoryStore is a Store that ends with the process. The zero value is empty.
type MemoryStore struct {
	mu       sync.Mutex
	cursors  map[string]int64
	instance string // "" before the first login
	logins   uint64
}

var (
	_ Store        = (*MemoryStore)(nil)
	_ LoginCounter = (*MemoryStore)(nil)
)

// NewMemoryStore returns a store that begins with these cursors.
func NewMemoryStore(cursors map[string]int64) *MemoryStore {
	return &MemoryStore{cursors: maps.Clone(cursors)}
}

// Load returns the cursors.
func (s *MemoryStore) Load(context.Context) (map[string]int64, error) { return s.Cursors(), nil }

// Save keeps a cursor.
func (s *MemoryStore) Save(_ context.Context, conversation string, seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursors == nil {
		s.cursors = map[string]int64{}
	}
	s.cursors[conversation] = seq
	return nil
}

// Delete forgets a cursor.
func (s *MemoryStore) Delete(_ context.Context, conversation string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cursors, conversation)
	return nil
}

// NextLogin counts the logins.
func (s *MemoryStore) NextLogin(context.Context) (instance string, attempt uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instance == "" {
		s.instance = rand.Text()
	}
	s.logins++
	return s.instance, s.logins, nil
}

// Cursors returns a copy of the cursors.
func (s *MemoryStore) Cursors() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.cursors)
}
