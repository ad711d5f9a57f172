package logic

import (
	"context"
	"sync"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// locations says on which channels accounts are on line, as the session store says or has said no
// longer than age ago. So that nobody is missed, a login, or the restoring of sessions, is answered no
// sooner than age after it is stored: when a client asks for what it has missed, no node goes by
// what was so before it came. A session that has gone since costs a push that its gateway refuses.
type locations struct {
	sessions storage.Sessions
	age      time.Duration
	metrics  *metrics

	mu sync.Mutex
	// The answers of two spans of half the age: of the running one, and of the one before.
	young, old generation // guarded by mu
}

// generation is what the session store has answered to questions since began.
type generation struct {
	began time.Time
	found map[storage.AccountKey][]storage.Session
}

// maxLocations bounds a generation, in accounts; about 300 B each.
const maxLocations = 200_000

func newLocations(s storage.Sessions, age time.Duration, m *metrics) *locations {
	return &locations{sessions: s, age: age, metrics: m}
}

// find returns the sessions of each key, in order. The slices are shared: not to be changed.
func (l *locations) find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	asked := time.Now()
	found := make([][]storage.Session, len(keys))
	missing := l.recall(keys, found, asked)
	l.metrics.located(len(keys)-len(missing), len(missing))
	if len(missing) == 0 {
		return found, nil
	}
	unknown := make([]storage.AccountKey, len(missing))
	for i, at := range missing {
		unknown[i] = keys[at]
	}
	answers, err := l.sessions.Find(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for i, at := range missing {
		found[at] = answers[i]
	}
	l.remember(unknown, answers, asked)
	return found, nil
}

// recall fills in what is known, and returns the indexes of the others.
func (l *locations) recall(keys []storage.AccountKey, found [][]storage.Session, now time.Time) (missing []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(now)
	for i, key := range keys {
		sessions, ok := l.young.found[key]
		if !ok {
			sessions, ok = l.old.found[key]
		}
		if ok {
			found[i] = sessions
			continue
		}
		missing = append(missing, i)
	}
	return missing
}

// turn begins a generation if the young one lasts for half the age, and forgets the old one if that
// began an age ago: all of a generation counts as old as its beginning. mu is held.
func (l *locations) turn(now time.Time) {
	if now.Sub(l.young.began) >= l.age/2 {
		l.old, l.young = l.young, generation{began: now, found: make(map[storage.AccountKey][]storage.Session, len(l.young.found))}
	}
	if now.Sub(l.old.began) >= l.age {
		l.old = generation{}
	}
}

// remember keeps what the store said to a question.
func (l *locations) remember(keys []storage.AccountKey, answers [][]storage.Session, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if asked.Before(l.young.began) || len(l.young.found)+len(keys) > maxLocations {
		return // it would be believed for too long, or is too much
	}
	for i, key := range keys {
		l.young.found[key] = answers[i]
	}
}
