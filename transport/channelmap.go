package transport

import (
	"hash/maphash"
	"sync"

	im "github.com/hermod-im/hermod"
)

// mapShards is a power of two well above the number of cores of any machine we know.
const mapShards = 128

// ChannelMap is an im.ChannelMap in shards, each with a lock of its own. A channel takes 20 to 32
// bytes of it: a built-in map would keep the id beside the channel, which has it already.
type ChannelMap struct {
	seed   maphash.Seed
	shards [mapShards]mapShard
}

// mapShard is a hash table with linear probing.
type mapShard struct {
	mu    sync.RWMutex
	table []im.Channel // nil where there is none; guarded by mu
	used  int          // how many there are; guarded by mu
	_     [8]byte      // one cache line each
}

// minTable is the smallest table of a shard that is not empty, in channels.
const minTable = 8

var _ im.ChannelMap = (*ChannelMap)(nil)

// NewChannelMap returns an empty map.
func NewChannelMap() *ChannelMap { return &ChannelMap{seed: maphash.MakeSeed()} }

// shard returns where the id belongs: the lower bits of its hash say in which shard, the upper ones
// at which place.
func (m *ChannelMap) shard(id string) (s *mapShard, hash uint64) {
	hash = maphash.String(m.seed, id)
	return &m.shards[hash%mapShards], hash
}

// Add makes the channel findable by its id, replacing another one.
func (m *ChannelMap) Add(channel im.Channel) {
	s, hash := m.shard(channel.ID())
	s.mu.Lock()
	defer s.mu.Unlock()
	if 5*(s.used+1) > 4*len(s.table) {
		m.resize(s, max(minTable, len(s.table)+len(s.table)/2))
	}
	i := s.find(channel.ID(), hash)
	if s.table[i] == nil {
		s.used++
	}
	s.table[i] = channel
}

// Remove forgets the id.
func (m *ChannelMap) Remove(id string) {
	s, hash := m.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == 0 {
		return
	}
	gap := s.find(id, hash)
	if s.table[gap] == nil {
		return
	}
	s.table[gap] = nil
	s.used--
	// What could not have its own place because of this one moves up.
	for i := s.after(gap); s.table[i] != nil; i = s.after(i) {
		_, hash := m.shard(s.table[i].ID())
		if home := s.home(hash); s.distance(home, i) >= s.distance(gap, i) {
			s.table[gap], s.table[i] = s.table[i], nil
			gap = i
		}
	}
	if n := len(s.table) / 2; n >= minTable && 4*s.used < n {
		m.resize(s, n)
	}
}

// resize gives the shard a table of n places, which is more than it needs. s.mu is held.
func (m *ChannelMap) resize(s *mapShard, n int) {
	old := s.table
	s.table = make([]im.Channel, n)
	for _, ch := range old {
		if ch != nil {
			_, hash := m.shard(ch.ID())
			s.table[s.find(ch.ID(), hash)] = ch
		}
	}
}

// home is where a channel would be if it were the only one.
func (s *mapShard) home(hash uint64) int { return int(hash >> 32 * uint64(len(s.table)) >> 32) }

func (s *mapShard) after(i int) int {
	if i++; i < len(s.table) {
		return i
	}
	return 0
}

// distance is how far it is from one place on to another.
func (s *mapShard) distance(from, to int) int { return (to - from + len(s.table)) % len(s.table) }

// find returns the place of the id, or the free one where it would be. There is a free one.
func (s *mapShard) find(id string, hash uint64) int {
	i := s.home(hash)
	for s.table[i] != nil && s.table[i].ID() != id {
		i = s.after(i)
	}
	return i
}

// Get finds a channel.
func (m *ChannelMap) Get(id string) (im.Channel, bool) {
	s, hash := m.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.used == 0 {
		return nil, false
	}
	ch := s.table[s.find(id, hash)]
	return ch, ch != nil
}

// All returns the channels of now, in no order.
func (m *ChannelMap) All() []im.Channel {
	all := make([]im.Channel, 0, m.Len())
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		for _, ch := range s.table {
			if ch != nil {
				all = append(all, ch)
			}
		}
		s.mu.RUnlock()
	}
	return all
}

// Len is the number of channels.
func (m *ChannelMap) Len() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		n += s.used
		s.mu.RUnlock()
	}
	return n
}
