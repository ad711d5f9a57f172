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
	of      audience
	turn    int // when it was made, see locations.turns
	changes int // what it takes into account, see recall
	// rows are the sessions of members who have some, by account. Never changed: a new roster has new ones.
	rows [][]storage.Session
}

// rosterKey is a group.
type rosterKey struct {
	app          string
	conversation int64
}

// size is what a roster holds, the members included, whose list it keeps alive.
func (r roster) size() int { return r.of.n + len(r.rows) }

// maxRostered bounds the sizes of all rosters: 16 to 24 B each.
const maxRostered = 1_000_000

// maxPatched is for how many of its members a roster is brought up to date, each of which moves the rows behind it.
const maxPatched = 256

// online is find for the members of a group, who are sorted, and returns the sessions of those who have any.
func (l *locations) online(ctx context.Context, group rosterKey, members []string) ([][]storage.Session, error) {
	if l.age > 0 {
		if err := l.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	r, changed, ok := l.rosterOf(group, members)
	if ok && len(changed) == 0 {
		l.metrics.located(len(members), 0)
		return r.rows, nil
	}
	keys := changed
	if !ok {
		keys = keysOf(group.app, members, nil)
	}
	found, err := l.find(ctx, keys)
	if err != nil {
		return nil, err
	}
	if ok {
		l.metrics.located(len(members)-len(changed), 0)
		r.rows = patched(r.rows, keys, found)
	} else {
		r.rows = slices.Clone(slices.DeleteFunc(found, func(s []storage.Session) bool { return len(s) == 0 }))
	}
	l.keep(group, r)
	return r.rows, nil
}

// rosterOf returns a group's roster and those of its members of whom something has changed since; not ok: an empty one that is
// to be made of all members.
func (l *locations) rosterOf(group rosterKey, members []string) (r roster, changed []storage.AccountKey, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(time.Now())
	now := roster{of: audienceOf(members), turn: l.turns, changes: l.passed + len(l.recent)}
	r, ok = l.rosters[group]
	if !ok || r.of != now.of || r.changes < l.passed {
		return now, nil, false
	}
	for _, key := range l.recent[r.changes-l.passed:] {
		if _, member := slices.BinarySearch(members, key.Account); member && key.App == group.app {
			changed = append(changed, key)
		}
	}
	slices.SortFunc(changed, func(a, b storage.AccountKey) int { return strings.Compare(a.Account, b.Account) })
	if changed = slices.Compact(changed); len(changed) > maxPatched { // who comes and goes is one
		return now, nil, false
	}
	r.changes = now.changes
	if len(changed) == 0 {
		l.rosters[group] = r
	}
	return r, changed, true
}

// keep remembers a roster, unless what it was made of is to be forgotten.
func (l *locations) keep(group rosterKey, r roster) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.age <= 0 || r.turn != l.turns {
		return
	}
	if was, ok := l.rosters[group]; ok {
		l.rostered -= was.size()
	}
	l.rostered += r.size()
	if l.rosters == nil || l.rostered > maxRostered {
		l.rosters, l.rostered = make(map[rosterKey]roster), r.size()
	}
	l.rosters[group] = r
}

// forgetRosters forgets all, also those that are being made. mu is held.
func (l *locations) forgetRosters() {
	l.rosters, l.rostered = nil, 0
	l.turns++
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
