package sql

import (
	stdsql "database/sql"
	"fmt"
	"slices"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// members are the accounts of a conversation as of one version. Immutable.
type members struct {
	version  int64
	accounts []string // sorted
	// joined is the joined_seq of each, lastJoined the largest; of a conversation of two nil and 0.
	joined     []int64
	lastJoined int64
}

// readers are those who may read the message at seq: a repeated send may be older than a member.
func (m *members) readers(seq int64) []string {
	if m.lastJoined < seq {
		return m.accounts
	}
	var readers []string
	for i, account := range m.accounts {
		if m.joined[i] < seq {
			readers = append(readers, account)
		}
	}
	return readers
}

func (m *members) has(account string) bool {
	_, ok := slices.BinarySearch(m.accounts, account)
	return ok
}

// loadMembers gives the locked groups among the targets their members: from the cache where
// nobody has joined or quit since. Joining and quitting lock the conversation, so what is read
// here holds until the commit.
func (s *Store) loadMembers(tx *gorm.DB, targets []*target) error {
	stale := make(map[int64]*members)
	for _, t := range targets {
		if t.kind != storage.KindGroup || !t.found {
			continue
		}
		if m, ok := s.members.GetIfPresent(t.id); ok && m.version == t.version {
			t.members = m
			continue
		}
		t.members = &members{version: t.version}
		stale[t.id] = t.members
	}
	if len(stale) == 0 {
		return nil
	}
	ids := make([]any, 0, len(stale))
	for id := range stale {
		ids = append(ids, id)
	}
	for part := range chunks(&s.dialect, ids, s.dialect.keys) {
		err := s.query(tx, func(rows *stdsql.Rows) error {
			var id, joined int64
			var account string
			err := rows.Scan(&id, &account, &joined)
			m := stale[id]
			m.accounts, m.joined = append(m.accounts, account), append(m.joined, joined)
			m.lastJoined = max(m.lastJoined, joined)
			return err
		}, "SELECT conversation_id, account, joined_seq FROM members"+s.dialect.index("PRIMARY")+
			" WHERE conversation_id IN ("+marks(len(part))+") ORDER BY conversation_id, account", part...)
		if err != nil {
			return fmt.Errorf("read members: %w", err)
		}
	}
	for id, m := range stale {
		s.members.Set(id, m)
	}
	return nil
}
