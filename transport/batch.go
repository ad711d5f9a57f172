package transport

import (
	"sync"
	"sync/atomic"
)

// fewChannels is how many channels of a poller who ends a batch writes to by himself. More are left to the
// flushers of the pollers, which share the work among the cores.
const fewChannels = 64

// Batch writes together what is queued together. While one is open, what is pushed to channels of its
// pollers waits; End writes it, without waking another goroutine. Pollers are a batch for each look
// at their sockets, so that all packets of one read leave in one write. Servers and clients that push to each
// other share one; see Options.Batch. The zero value is ready to use. All methods may be called at any time.
type Batch struct {
	open atomic.Int32

	mu    sync.Mutex
	lists atomic.Pointer[[]*readyList] // replaced with mu held
}

// Begin lets pushes wait for End. It must come soon: nothing may block in between.
func (b *Batch) Begin() { b.open.Add(1) }

// End writes what was pushed since Begin, by anybody.
func (b *Batch) End() {
	// Before the lists are looked at: who adds to one behind our look sees that it must wake a flusher.
	b.open.Add(-1)
	if lists := b.lists.Load(); lists != nil {
		for _, l := range *lists {
			l.flushFew()
		}
	}
}

// join adds a list to those that End looks at.
func (b *Batch) join(l *readyList) {
	b.edit(func(lists []*readyList) []*readyList { return append(lists, l) })
}

func (b *Batch) leave(l *readyList) {
	b.edit(func(lists []*readyList) []*readyList {
		for i := range lists {
			if lists[i] == l {
				return append(lists[:i], lists[i+1:]...)
			}
		}
		return lists
	})
}

func (b *Batch) edit(f func([]*readyList) []*readyList) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lists []*readyList
	if old := b.lists.Load(); old != nil {
		lists = append(lists, *old...)
	}
	lists = f(lists)
	b.lists.Store(&lists)
}

// readyList is the channels of a poller that have something to write.
type readyList struct {
	batch  *Batch
	signal chan struct{} // capacity 1: there is something on the list

	mu   sync.Mutex
	list []*Channel
}

func (l *readyList) add(c *Channel) {
	l.mu.Lock()
	l.list = append(l.list, c)
	first := len(l.list) == 1
	l.mu.Unlock()
	if first && l.batch.open.Load() == 0 {
		l.wake()
	}
}

func (l *readyList) wake() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// take exchanges the list for an empty one with the memory of the one before.
func (l *readyList) take(old []*Channel) []*Channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = old[:0]
	return list
}

// flushFew writes to the channels of the list, or wakes the flusher if they are many.
func (l *readyList) flushFew() {
	var few [fewChannels]*Channel
	l.mu.Lock()
	n := len(l.list)
	if n <= len(few) {
		copy(few[:], l.list)
		clear(l.list)
		l.list = l.list[:0]
	}
	l.mu.Unlock()
	if n > len(few) {
		l.wake()
		return
	}
	for _, c := range few[:n] {
		if c.flush() {
			l.add(c)
		}
	}
}
