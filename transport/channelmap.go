package transport

import (
	"hash/maphash"
	"sync"

	im "github.com/hermod-im/hermod"
)

// mapShards is a power of two well above the number of cores of any machine we know.
const mapShards = 128

// ChannelMap is an im.ChannelMap in shards, each with a lock of its own.
type ChannelMap struct {
	seed   maphash.Seed
	shards [mapShards]mapShard
}

type mapShard struct {
	mu       sync.RWMutex
	channels map[string]im.Channel
	_        [24]byte // one cache line each
}

var _ im.ChannelMap = (*ChannelMap)(nil)

// NewChannelMap returns an empty map.
func NewChannelMap() *ChannelMap {
	m := &ChannelMap{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].channels = make(map[string]im.Channel)
	}
	return m
}

func (m *ChannelMap) shard(id string) *mapShard {
	return &m.shards[maphash.String(m.seed, id)%mapShards]
}

// Add makes the channel findable by its id, replacing another one.
func (m *ChannelMap) Add(channel im.Channel) {
	s := m.shard(channel.ID())
	s.mu.Lock()
	s.channels[channel.ID()] = channel
	s.mu.Unlock()
}

// Remove forgets the id.
func (m *ChannelMap) Remove(id string) {
	s := m.shard(id)
	s.mu.Lock()
	delete(s.channels, id)
	s.mu.Unlock()
}

// Get finds a channel.
func (m *ChannelMap) Get(id string) (im.Channel, bool) {
	s := m.shard(id)
	s.mu.RLock()
	ch, ok := s.channels[id]
	s.mu.RUnlock()
	return ch, ok
}

// All returns the channels of now, in no order.
func (m *ChannelMap) All() []im.Channel {
	var all []im.Channel
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		for _, ch := range s.channels {
			all = append(all, ch)
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
		n += len(s.channels)
		s.mu.RUnlock()
	}
	return n
}
