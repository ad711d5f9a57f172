package client

import (
	"context"
	"maps"
	"sync"
)

// Store keeps the cursors of a device between runs: of each conversation the seq up to which the
// application has handled it. A cursor is saved after OnMessage has returned, so a crash in between
// delivers that message again.
type Store interface {
	// Load returns all cursors; Run calls it once, first, and ends with its error.
	Load(ctx context.Context) (map[string]int64, error)
	// Save keeps one cursor, which may be 0. It is called by one goroutine at a time and with growing
	// seqs; an error is logged, and the next Save of the conversation makes up for it.
	Save(ctx context.Context, conversation string, seq int64) error
	// Delete forgets the cursor of a conversation that the account does not belong to any more.
	Delete(ctx context.Context, conversation string) error
}

// MemoryStore is a Store that ends with the process. The zero value is empty.
type MemoryStore struct {
	mu      sync.Mutex
	cursors map[string]int64
}

var _ Store = (*MemoryStore)(nil)

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

// Cursors returns a copy of the cursors.
func (s *MemoryStore) Cursors() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.cursors)
}
