package sql

import (
	"cmp"
	"context"
	stdsql "database/sql"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// Ack implements storage.Messages. It reads what it needs without a lock: whatever others do
// meanwhile, acknowledged parts only grow, and so does what may be joined to them.
func (s *Store) Ack(ctx context.Context, app, account string, messageID int64, delivered []storage.Run) (map[int64]int64, error) {
	db := s.reader.WithContext(ctx)
	at, err := s.place(db, app, account, messageID)
	if err != nil {
		return nil, fmt.Errorf("ack: %w", err)
	}
	before, with := upTo(delivered, at)
	with, err = s.notAbove(db, with, messageID)
	if err != nil {
		return nil, fmt.Errorf("ack: %w", err)
	}
	acked, err := s.join(ctx, app, account, slices.Concat(before, with))
	if err != nil {
		return nil, fmt.Errorf("ack: %w", err)
	}
	return acked, nil
}

// place is the conversation and the seq, in to, of a message that the account may read.
func (s *Store) place(db *gorm.DB, app, account string, messageID int64) (at span, err error) {
	err = s.query(db, func(rows *stdsql.Rows) error { return rows.Scan(&at.conversation, &at.to) },
		"SELECT m.conversation_id, m.seq FROM messages m"+s.dialect.index("messages_id")+" "+s.dialect.straight+
			" members r ON r.conversation_id = m.conversation_id AND r.account = ?"+
			" WHERE r.app = ? AND r.joined_seq < m.seq AND m.message_id = ?", []byte(account), []byte(app), messageID)
	if err == nil && at.conversation == 0 {
		return at, storage.ErrNoMessage
	}
	return at, err
}

// upTo finds what an ack of the message at a place proves that the client has: the runs before it,
// and those that were sent together with it, of which the client has no more than up to its id.
//
// What was pushed counts where it was sent first, because the client may have acknowledged it while
// it was on its way again. A page has come, or else its runs have no MessageID: the last that holds the message counts.
func upTo(delivered []storage.Run, at span) (before, with []storage.Run) {
	holds := func(r storage.Run) bool {
		return r.Conversation == at.conversation && r.From <= at.to && at.to <= r.To
	}
	seen := false
	for start, end := 0, 0; start < len(delivered); start = end {
		for end = start + 1; end < len(delivered) && delivered[end].MessageID == delivered[start].MessageID; end++ {
		}
		together := delivered[start:end]
		if !slices.ContainsFunc(together, holds) {
			continue
		}
		pushed := len(together) == 1 && together[0].From == together[0].To
		if together[0].MessageID != 0 && !(pushed && seen) {
			before, with = delivered[:start], together
		}
		seen = true
	}
	return before, with
}

// notAbove cuts the runs off behind the last message whose id is not above this one.
func (s *Store) notAbove(db *gorm.DB, runs []storage.Run, id int64) ([]storage.Run, error) {
	if len(runs) == 0 || runs[0].MessageID == id {
		return runs, nil
	}
	spans := make([]span, len(runs))
	for i, r := range runs {
		spans[i] = span{r.Conversation, r.From - 1, r.To}
	}
	last := make(map[int64]int64, len(runs))
	err := s.entries(db, spans, func(e storage.IndexEntry) {
		if e.ID <= id {
			last[e.Conversation] = max(last[e.Conversation], e.Seq)
		}
	})
	if err != nil {
		return nil, err
	}
	out := slices.Clone(runs)
	for i := range out {
		out[i].To = min(out[i].To, last[out[i].Conversation])
	}
	return slices.DeleteFunc(out, func(r storage.Run) bool { return r.To < r.From }), nil
}

// join moves the acks of the runs' conversations over the runs that they reach, and returns where they are.
func (s *Store) join(ctx context.Context, app, account string, runs []storage.Run) (map[int64]int64, error) {
	if len(runs) == 0 {
		return nil, nil
	}
	slices.SortFunc(runs, func(a, b storage.Run) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.From, b.From))
	})
	acked, last, err := s.acks(s.reader.WithContext(ctx), app, account, runs)
	if err != nil {
		return nil, err
	}
	var moved []span // to: the new ack
	for _, r := range runs {
		have, ok := acked[r.Conversation]
		to := min(r.To, last[r.Conversation])
		if !ok || r.From > have+1 || to <= have {
			continue
		}
		acked[r.Conversation] = to
		if n := len(moved); n > 0 && moved[n-1].conversation == r.Conversation {
			moved[n-1].to = to
		} else {
			moved = append(moved, span{r.Conversation, have, to})
		}
	}
	if len(moved) == 0 {
		return acked, nil
	}
	err = s.transact(ctx, func(tx *gorm.DB) error { return s.moveAcks(tx, account, moved) })
	return acked, err
}

// acks returns where the account's acks of the runs' conversations are, and the conversations' last
// seqs. What was said before it joined needs no ack. The runs are sorted by conversation.
func (s *Store) acks(db *gorm.DB, app, account string, runs []storage.Run) (acked, last map[int64]int64, err error) {
	var ids []any
	for i, r := range runs {
		if i == 0 || runs[i-1].Conversation != r.Conversation {
			ids = append(ids, r.Conversation)
		}
	}
	acked, last = make(map[int64]int64, len(ids)), make(map[int64]int64, len(ids))
	for part := range chunks(&s.dialect, ids, s.dialect.keys) {
		err := s.query(db, func(rows *stdsql.Rows) error {
			var id, joined, ack, end int64
			err := rows.Scan(&id, &joined, &ack, &end)
			acked[id], last[id] = max(joined, ack), end
			return err
		}, "SELECT m.conversation_id, m.joined_seq, m.ack_seq, c.last_seq FROM members m"+s.dialect.index("PRIMARY")+" "+s.dialect.straight+
			" conversations c ON c.id = m.conversation_id WHERE m.app = ? AND m.account = ? AND m.conversation_id IN ("+marks(len(part))+")",
			append([]any{[]byte(app), []byte(account)}, part...)...)
		if err != nil {
			return nil, nil, fmt.Errorf("read acks: %w", err)
		}
	}
	return acked, last, nil
}

// moveAcks never moves one back, whatever another device has acknowledged meanwhile.
func (s *Store) moveAcks(tx *gorm.DB, account string, acks []span) error {
	for part := range chunks(&s.dialect, acks, s.dialect.keys) {
		args := make([]any, 0, 3*len(part)+1)
		for _, a := range part {
			args = append(args, a.conversation, a.to)
		}
		args = append(args, []byte(account))
		for _, a := range part {
			args = append(args, a.conversation)
		}
		err := s.exec(tx, "UPDATE members SET ack_seq = "+s.dialect.greatest+"(ack_seq, CASE conversation_id"+
			strings.Repeat(" WHEN ? THEN ?", len(part))+" END) WHERE account = ? AND conversation_id IN ("+marks(len(part))+")", args...)
		if err != nil {
			return fmt.Errorf("move acks: %w", err)
		}
	}
	return nil
}
