package logic

import (
	"context"
	"sync"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// doubts are messages whose commit had no answer, as far as this node knows. The database may have
// stored them all the same, and nobody was told (I4). When the sender asks again under the same
// client_id, the store finds a duplicate, but its push is still owed to everybody, old clients too. Where
// nobody asks again, the members' clients are hinted as soon as the database is back.
type doubts struct {
	mu      sync.Mutex
	waiting map[doubt]waiting // guarded by mu
}

// doubt is what makes a send idempotent, or else the id that the message has if it is stored.
type doubt struct {
	app, sender, dest, clientID string
	kind                        storage.Kind
	messageID                   int64
}

// waiting is who is to be hinted of a doubt, and when.
type waiting struct {
	members []string
	due     time.Time
}

const (
	// maxDoubts bounds what one shard remembers. Beyond it all clients are hinted instead.
	maxDoubts = 10_000
	// doubtWait is how long a sender is waited for that may ask again.
	doubtWait = 3 * time.Second
	// doubtPause is the time between looks whether something is due, and that until a doubt is due of
	// which nobody asks again.
	doubtPause = time.Second
)

func newDoubts() *doubts { return &doubts{waiting: map[doubt]waiting{}} }

func doubtOf(d *storage.Draft) doubt {
	k := doubt{app: d.App, sender: d.Sender, dest: d.Dest, clientID: d.ClientID, kind: d.Kind}
	if d.ClientID == "" {
		k.messageID = d.MessageID
	}
	return k
}

// note remembers a draft; false if there is no room.
func (b *doubts) note(d *storage.Draft, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) >= maxDoubts {
		return false
	}
	w := waiting{members: d.Members, due: now.Add(doubtWait)}
	if d.ClientID == "" {
		w.due = now.Add(doubtPause)
	}
	b.waiting[doubtOf(d)] = w
	return true
}

// resolve forgets a draft whose fate is known now, and reports whether it was in doubt.
func (b *doubts) resolve(d *storage.Draft) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return false
	}
	_, ok := b.waiting[doubtOf(d)]
	delete(b.waiting, doubtOf(d))
	return ok
}

// due removes what is due and adds the members to a set.
func (b *doubts) due(now time.Time, members map[storage.AccountKey]struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, w := range b.waiting {
		if w.due.After(now) {
			continue
		}
		delete(b.waiting, k)
		for _, m := range w.members {
			members[storage.AccountKey{App: k.app, Account: m}] = struct{}{}
		}
	}
}

// any reports whether there is one left.
func (b *doubts) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) > 0
}

// settleDoubts hints who may have missed a message, until ctx ends.
func (t *committer) settleDoubts(ctx context.Context) {
	ticker := time.NewTicker(doubtPause)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			t.hintDue(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

// hintDue hints the members of what is due, if the database answers: who asks it has to find the message.
func (t *committer) hintDue(ctx context.Context, now time.Time) {
	if !t.inDoubt() {
		return
	}
	s := t.shards[0]
	ping, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if s.messages.Ping(ping) != nil {
		return
	}
	members := map[storage.AccountKey]struct{}{}
	for _, s := range t.shards {
		s.doubts.due(now, members)
	}
	s.dispatch.hint(members)
}
