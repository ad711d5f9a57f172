package sql

import (
	"context"
	"fmt"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// Read implements storage.Messages. What it returns is as of its first statement.
func (s *Store) Read(ctx context.Context, app, account string, conversation, seq int64) (at storage.Position, moved bool, err error) {
	db := s.reader.WithContext(ctx)
	for {
		m, err := s.membership(db, app, account, storage.Range{Conversation: conversation})
		if err != nil {
			return at, false, err
		}
		if to := min(seq, m.lastSeq); to > m.readSeq {
			if moved, err = s.moveRead(ctx, account, conversation, to); err != nil {
				return at, false, fmt.Errorf("read: %w", err)
			}
			if !moved {
				continue // meanwhile another device has read on, or the account has left
			}
			m.readSeq = to
		}
		unread, err := s.others(db, account, []span{{conversation, max(m.readSeq, m.joinedSeq), m.lastSeq}})
		if err != nil {
			return at, false, fmt.Errorf("read: %w", err)
		}
		return storage.Position{ReadSeq: m.readSeq, Unread: unread[0], LastSeq: m.lastSeq}, moved, nil
	}
}

// moveRead moves the read position if that is forward.
func (s *Store) moveRead(ctx context.Context, account string, conversation, to int64) (moved bool, err error) {
	err = s.transact(ctx, func(tx *gorm.DB) error {
		r := tx.Exec("UPDATE members SET read_seq = ? WHERE conversation_id = ? AND account = ? AND read_seq < ?",
			to, conversation, octets(account), to)
		moved = r.RowsAffected > 0
		return r.Error
	})
	return moved, err
}
