package logic

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hermod-im/hermod/storage"
)

// roster is who of a large group is on line, so that a message to it costs nothing for those who are not. It is brought up to
// date by what the session store says has changed, and lasts no longer than the answers that it is made of.
type roster struct {
	began   time.Time // of the generation in which it was made
	changes int       // what it takes into account, see recall
	// rows are the sessions of members who have some, by account. Never changed: a new roster has new ones.
	rows [][]storage.Session
}

// online is find for the members of one conversation, who are sorted, and returns the sessions of those who have any.
func (l *locations) online(ctx context.Context, app string, members []string) ([][]storage.Session, error) {
	if l.age > 0 {
		if err := l.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	r, changed, ok := l.rosterOf(app, members)
	if ok && len(changed) == 0 {
		l.metrics.located(len(members), 0)
		return r.rows, nil
	}
	keys := changed
	if !ok {
		keys = keysOf(app, members, nil)
	}
	found, err := l.find(ctx, keys)
	if err != nil {
		return nil, err
	}
	if ok {
		r.rows = patched(r.rows, keys, found)
	} else {
		r.rows = slices.Clip(slices.DeleteFunc(found, func(s []storage.Session) bool { return len(s) == 0 }))
	}
	l.keep(audienceOf(members), r)
	return r.rows, nil
}

// maxRostered bounds the groups that have rosters, in members: 16 B each, and 24 for who is on line.
const maxRostered = 1_000_000

// maxPatched is for how many of its members a roster is brought up to date, each of which moves the rows behind it.
const maxPatched = 256

// rosterOf returns a group's roster and those of its members of whom something has changed since; not ok: an empty one that is
// to be made of all members.
func (l *locations) rosterOf(app string, members []string) (r roster, changed []storage.AccountKey, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(time.Now())
	now := roster{began: l.young.began, changes: l.passed + len(l.recent)}
	group := audienceOf(members)
	r, ok = l.rosters[group]
	if !ok || r.began != now.began || r.changes < l.passed {
		return now, nil, false
	}
	for _, key := range l.recent[r.changes-l.passed:] {
		if _, member := slices.BinarySearch(members, key.Account); member && key.App == app {
			changed = append(changed, key)
		}
	}
	if len(changed) > maxPatched {
		return now, nil, false
	}
	r.changes = now.changes
	if len(changed) == 0 {
		l.rosters[group] = r
	}
	return r, changed, true
}

// keep remembers a roster, unless what it was made of is to be forgotten.
func (l *locations) keep(group audience, r roster) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.age <= 0 || r.began != l.young.began {
		return
	}
	if _, ok := l.rosters[group]; !ok {
		l.rostered += group.n
	}
	if l.rosters == nil || l.rostered > maxRostered {
		l.rosters, l.rostered = make(map[audience]roster), group.n
	}
	l.rosters[group] = r
}

// patched is the rows with what was found for these accounts.
func patched(rows [][]storage.Session, keys []storage.AccountKey, found [][]storage.Session) [][]storage.Session {
	rows = slices.Clone(rows)
	for i, key := range keys {
		at, was := slices.BinarySearchFunc(rows, key.Account, func(row []storage.Session, account string) int {
			return strings.Compare(row[0].Account, account)
		})
		switch is := len(found[i]) > 0; {
		case was && is:
			rows[at] = found[i]
		case was:
			rows = slices.Delete(rows, at, at+1)
		case is:
			rows = slices.Insert(rows, at, found[i])
		}
	}
	return rows
}
