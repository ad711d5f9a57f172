package memory

import (
	"context"
	"maps"
	"slices"

	"github.com/hermod-im/hermod/storage"
)

// missed is what was noted for one gateway, with the number of the last note of each.
type missed struct {
	channels, kicked map[string]int64
	all              int64 // 0: not all
	upTo             int64
}

// NoteMissed implements storage.Sessions.
func (s *Sessions) NoteMissed(ctx context.Context, gateway string, channels, kicked []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.missed[gateway]
	if m == nil {
		m = &missed{channels: map[string]int64{}, kicked: map[string]int64{}}
		s.missed[gateway] = m
	}
	s.notes++
	m.upTo = s.notes
	for _, c := range channels {
		if c == storage.AllChannels {
			m.all = s.notes
		} else {
			m.channels[c] = s.notes
		}
	}
	for _, c := range kicked {
		if _, known := m.kicked[c]; known || len(m.kicked) < storage.MaxKicked {
			m.kicked[c] = s.notes
		}
	}
	if len(m.channels) > storage.MaxMissed {
		m.all = s.notes
		clear(m.channels)
	}
	return nil
}

// Missed implements storage.Sessions.
func (s *Sessions) Missed(ctx context.Context, gateway string, told int64) (storage.Missed, error) {
	if err := ctx.Err(); err != nil {
		return storage.Missed{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.missed[gateway]
	if m == nil {
		return storage.Missed{}, nil
	}
	forget := func(_ string, note int64) bool { return note <= told }
	maps.DeleteFunc(m.channels, forget)
	maps.DeleteFunc(m.kicked, forget)
	if m.all <= told {
		m.all = 0
	}
	if len(m.channels) == 0 && len(m.kicked) == 0 && m.all == 0 {
		delete(s.missed, gateway)
		return storage.Missed{}, nil
	}
	return storage.Missed{Channels: slices.Collect(maps.Keys(m.channels)), Kicked: slices.Collect(maps.Keys(m.kicked)), All: m.all > 0, UpTo: m.upTo}, nil
}
