package sql

import (
	stdsql "database/sql"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"
)

// tallyKey names an account in a conversation.
type tallyKey struct {
	conversation int64
	account      string
}

// tally is how many messages of a span are not the account's own. It holds for ever, because
// messages neither change nor go.
type tally struct {
	span
	others int64
}

// minTally is the size, in messages, from which on a count is kept. Fewer are counted as fast as looked up.
const minTally = 64

// part is a span whose count is added to that of another one, or taken off.
type part struct {
	span
	place int
	sign  int64
}

// others returns for each span how many of its messages are not the account's own. It counts only
// what is not in the last count, kept, of the same conversation: however far behind an account is,
// and however often it asks.
func (s *Store) others(db *gorm.DB, account string, spans []span) ([]int64, error) {
	counts := make([]int64, len(spans))
	var parts []part
	for i, sp := range spans {
		known, ok := s.tallies.GetIfPresent(tallyKey{sp.conversation, account})
		if !ok || sp.to-sp.from <= distance(known.to, sp.to)+distance(known.from, sp.from) {
			known = tally{span: span{sp.conversation, sp.from, sp.from}}
		}
		counts[i] = known.others
		parts = append(parts, difference(known.to, sp.to, sp.conversation, i, 1), difference(known.from, sp.from, sp.conversation, i, -1))
	}
	parts = slices.DeleteFunc(parts, func(p part) bool { return p.from == p.to })
	if err := s.count(db, account, parts, counts); err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	for i, sp := range spans {
		if sp.to-sp.from >= minTally {
			s.tallies.Set(tallyKey{sp.conversation, account}, tally{sp, counts[i]})
		}
	}
	return counts, nil
}

func distance(a, b int64) int64 { return max(a, b) - min(a, b) }

// difference is what a count grows by when one end of its span moves.
func difference(was, is, conversation int64, place int, sign int64) part {
	if is < was {
		was, is, sign = is, was, -sign
	}
	return part{span{conversation, was, is}, place, sign}
}

// count adds the counts of the parts to those at their places.
func (s *Store) count(db *gorm.DB, account string, parts []part, counts []int64) error {
	for some := range chunks(&s.dialect, parts, s.dialect.keys) {
		selects := make([]string, len(some))
		args := make([]any, 0, 5*len(some))
		for i, p := range some {
			selects[i] = "SELECT ? AS i, COUNT(*) FROM messages" + s.dialect.index("PRIMARY") +
				" WHERE conversation_id = ? AND seq > ? AND seq <= ? AND sender <> ?"
			args = append(args, i, p.conversation, p.from, p.to, []byte(account))
		}
		err := s.query(db, func(rows *stdsql.Rows) error {
			var i int
			var n int64
			err := rows.Scan(&i, &n)
			counts[some[i].place] += some[i].sign * n
			return err
		}, strings.Join(selects, " UNION ALL "), args...)
		if err != nil {
			return err
		}
	}
	return nil
}
