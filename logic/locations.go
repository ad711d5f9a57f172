package logic

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// locations says on which channels accounts are on line, as the session store has said once and, by its
// Changes, says no longer than age ago. So that nobody is missed, a login, or the restoring of sessions, is answered no
// sooner than age after it is stored: when a client asks for what it has missed, no node goes by
// what was so before it came. A session that has gone since costs a push that its gateway refuses.
type locations struct {
	sessions storage.Sessions
	age      time.Duration // 0: the store is asked each time
	metrics  *metrics

	catching sync.Mutex
	position string    // of the last Changes; belongs to who asks
	caughtUp time.Time // when they were asked for; guarded by catching
	asking   *question // for Changes, by one at a time; nil if nobody does; guarded by catching

	mu sync.Mutex
	// The answers of two spans of half of locationsKept: of the running one, and of the one before.
	young, old generation // guarded by mu
	// What has changed lately, and how many changes there were before that.
	recent []storage.AccountKey // guarded by mu
	passed int                  // guarded by mu
	forgot time.Time            // when forgetAll did so last; guarded by mu
	// rosters are of large groups. All are forgotten when old answers are, of which they may be made; turns counts that.
	rosters  map[rosterKey]roster // guarded by mu
	rostered int                  // what they hold, see roster.size; guarded by mu
	turns    int                  // guarded by mu
}

// generation is what the session store has answered to questions since began.
type generation struct {
	began time.Time
	found map[storage.AccountKey][]storage.Session
}

// question is one that is under way.
type question struct {
	answered chan struct{} // closed when there is an answer, or none to be had
	err      error         // set before
}

// errUnanswered is what others learn whose question was left by a panic.
var errUnanswered = errors.New("the session store was not asked to the end")

const (
	// maxLocations bounds a generation, in accounts; about 300 B each.
	maxLocations = 200_000
	// locationsKept is how long an answer is kept if nothing changes: as long as pushes to a session that has ended
	// may go on.
	locationsKept = 10 * time.Second
	// maxRecent is how many changes are remembered for answers that are under way meanwhile.
	maxRecent = 4096
)

func newLocations(s storage.Sessions, age time.Duration, m *metrics) *locations {
	return &locations{sessions: s, age: age, metrics: m}
}

// find returns the sessions of each key, in order. The slices are shared: not to be changed.
func (l *locations) find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	if l.age <= 0 {
		l.metrics.located(0, len(keys))
		return l.sessions.Find(ctx, keys)
	}
	if err := l.catchUp(ctx); err != nil {
		return nil, err
	}
	found := make([][]storage.Session, len(keys))
	missing, changes := l.recall(keys, found, time.Now())
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
	l.remember(unknown, answers, changes)
	return found, nil
}

// known is find, if the store need not be asked.
func (l *locations) known(keys []storage.AccountKey) (found [][]storage.Session, ok bool) {
	now := time.Now()
	if l.age <= 0 || !l.catching.TryLock() {
		return nil, false
	}
	defer l.catching.Unlock()
	if now.Sub(l.caughtUp) >= l.age/2 {
		return nil, false
	}
	found = make([][]storage.Session, len(keys))
	if missing, _ := l.recall(keys, found, now); len(missing) > 0 {
		return nil, false
	}
	l.metrics.located(len(keys), 0)
	return found, true
}

// catchUp forgets what has changed, unless that was done in the last half of age. Who waits for somebody else's question that
// began after he came need not ask again, and one that fails while he waits has failed for him, too: a store that hangs costs
// all of them one time-out, not one each.
func (l *locations) catchUp(ctx context.Context) error {
	for came := time.Now(); ; {
		q, mine := l.join(came)
		switch {
		case q == nil:
			return nil
		case mine:
			return l.ask(ctx, q)
		}
		select {
		case <-q.answered:
			if q.err != nil {
				return q.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join returns the question to wait for, or a new one, which is the caller's to ask; nil if what is known will do for who came then.
func (l *locations) join(came time.Time) (q *question, mine bool) {
	l.catching.Lock()
	defer l.catching.Unlock()
	switch {
	case came.Sub(l.caughtUp) < l.age/2:
		return nil, false
	case l.asking != nil:
		return l.asking, false
	}
	l.asking = &question{answered: make(chan struct{})}
	return l.asking, true
}

// ask asks for Changes, and forgets them.
func (l *locations) ask(ctx context.Context, q *question) error {
	q.err = errUnanswered
	defer func() {
		l.catching.Lock()
		l.asking = nil
		l.catching.Unlock()
		close(q.answered)
	}()
	now := time.Now()
	c, err := l.sessions.Changes(ctx, l.position)
	if q.err = err; err != nil {
		return err
	}
	l.forget(c)
	l.catching.Lock()
	l.position, l.caughtUp = c.Position, now
	l.catching.Unlock()
	return nil
}

// forget removes what has changed.
func (l *locations) forget(c storage.Changes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range c.Accounts {
		delete(l.young.found, key)
		delete(l.old.found, key)
	}
	l.recent = append(l.recent, c.Accounts...)
	if c.All {
		l.young, l.old = generation{}, generation{}
	}
	if n := len(l.recent); c.All || n > maxRecent {
		// One more, so that an answer that is under way knows nothing.
		l.recent, l.passed = nil, l.passed+n+1
	}
}

// forgetAll has the store asked again for everybody, once in a second: a gateway that has crashed refuses each push
// until its lease ends.
func (l *locations) forgetAll() {
	now := time.Now()
	l.mu.Lock()
	again := now.Sub(l.forgot) >= time.Second
	if again {
		l.forgot = now
	}
	l.mu.Unlock()
	if again {
		l.forget(storage.Changes{All: true})
	}
}

// recall fills in what is known, and returns the indexes of the others, and how many changes that takes into account.
func (l *locations) recall(keys []storage.AccountKey, found [][]storage.Session, now time.Time) (missing []int, changes int) {
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
	return missing, l.passed + len(l.recent)
}

// turn begins a generation if the young one has lasted, and forgets the old one when that began locationsKept ago. mu is held.
func (l *locations) turn(now time.Time) {
	const half = locationsKept / 2
	if now.Sub(l.young.began) >= half {
		l.begin(now)
	}
	if l.old.found != nil && now.Sub(l.old.began) >= locationsKept {
		l.old = generation{}
		l.forgetRosters()
	}
}

// begin makes the young generation the old one. mu is held.
func (l *locations) begin(now time.Time) {
	l.old, l.young = l.young, generation{began: now, found: make(map[storage.AccountKey][]storage.Session, len(l.young.found))}
	l.forgetRosters()
}

// remember keeps what the store said to a question that was asked after so many changes.
func (l *locations) remember(keys []storage.AccountKey, answers [][]storage.Session, changes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if changes < l.passed || l.young.found == nil || len(keys) > maxLocations {
		return // what has changed since is not known, or it is too much
	}
	if len(l.young.found)+len(keys) > maxLocations {
		l.begin(time.Now())
	}
	for i, key := range keys {
		l.young.found[key] = answers[i]
	}
	for _, key := range l.recent[changes-l.passed:] {
		delete(l.young.found, key)
	}
}
