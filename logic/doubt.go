package logic

import (
	"sync"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// doubts are messages whose commit failed as far as this node knows. The database may have stored
// them all the same, and nobody was told: when the sender asks again under the same client_id, the
// store finds a duplicate, but its push is still owed to everybody (I4), old clients too.
type doubts struct {
	mu    sync.Mutex
	since map[doubt]time.Time // guarded by mu
}

// doubt is what makes a send idempotent.
type doubt struct {
	app, sender, dest, clientID string
	kind                        storage.Kind
}

const (
	// maxDoubts bounds what one shard remembers. Beyond it all clients are hinted instead.
	maxDoubts = 10_000
	// doubtWait is how long a sender is waited for that does not ask again.
	doubtWait = 10 * time.Minute
)

func newDoubts() *doubts { return &doubts{since: map[doubt]time.Time{}} }

func doubtOf(d *storage.Draft) doubt {
	return doubt{app: d.App, sender: d.Sender, dest: d.Dest, clientID: d.ClientID, kind: d.Kind}
}

// note remembers a draft; false if there is no room. One without ClientID is never a duplicate.
func (b *doubts) note(d *storage.Draft, now time.Time) bool {
	if d.ClientID == "" {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.since) >= maxDoubts {
		for k, at := range b.since {
			if now.Sub(at) > doubtWait {
				delete(b.since, k)
			}
		}
	}
	if len(b.since) >= maxDoubts {
		return false
	}
	b.since[doubtOf(d)] = now
	return true
}

// resolve forgets a draft whose fate is known now, and reports whether it was in doubt.
func (b *doubts) resolve(d *storage.Draft) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.since) == 0 {
		return false
	}
	_, ok := b.since[doubtOf(d)]
	delete(b.since, doubtOf(d))
	return ok
}

// any reports whether there is one left.
func (b *doubts) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.since) > 0
}
