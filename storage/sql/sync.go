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

// membership is one conversation of an account.
type membership struct {
	conversation int64
	kind         storage.Kind
	key          octets
	joinedSeq    int64
	ackSeq       int64 // only where asked for
	lastSeq      int64
	lastID       int64
}

// peer is the other account of a conversation of two, as storage.Delta wants it.
func (m *membership) peer(account string) string {
	if m.kind != storage.KindUser {
		return ""
	}
	return pair{key: string(m.key)}.peer(account)
}

// delta describes the conversation to the account, without messages.
func (m *membership) delta(account string) storage.Delta {
	return storage.Delta{
		Conversation: m.conversation,
		Kind:         m.kind,
		Peer:         m.peer(account),
		LastSeq:      m.lastSeq,
		JoinedSeq:    m.joinedSeq,
	}
}

// memberships returns those of the account's conversations that fulfil a condition on m, the
// member's row, and c, the conversation's. It reads one index and, by primary key, one row a conversation.
func (s *Store) memberships(db *gorm.DB, app, account, ack, where string, args ...any) ([]membership, error) {
	var out []membership
	err := s.query(db, func(rows *stdsql.Rows) error {
		var m membership
		err := rows.Scan(&m.conversation, &m.joinedSeq, &m.ackSeq, &m.kind, &m.key, &m.lastSeq, &m.lastID)
		out = append(out, m)
		return err
	}, "SELECT m.conversation_id, m.joined_seq, "+ack+", c.kind, c.ckey, c.last_seq, c.last_message_id FROM members m"+
		s.dialect.index("members_account")+" "+s.dialect.straight+" conversations c ON c.id = m.conversation_id"+
		" WHERE m.app = ? AND m.account = ? AND "+where, append([]any{[]byte(app), []byte(account)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	return out, nil
}

// span is the messages of a conversation with a seq in (from, to].
type span struct{ conversation, from, to int64 }

// where is the condition on messages for the spans.
func whereSpans(spans []span) (string, []any) {
	var b strings.Builder
	args := make([]any, 0, 3*len(spans))
	for i, sp := range spans {
		if i > 0 {
			b.WriteString(" OR ")
		}
		b.WriteString("conversation_id = ? AND seq > ? AND seq <= ?")
		args = append(args, sp.conversation, sp.from, sp.to)
	}
	return b.String(), args
}

const messageColumns = "conversation_id, seq, message_id, sender, client_id, type, body, extra, send_time"

func scanMessage(rows *stdsql.Rows) (m storage.Message, err error) {
	err = rows.Scan(&m.Conversation, &m.Seq, &m.ID, (*octets)(&m.Sender), (*clientID)(&m.ClientID),
		&m.Type, (*octets)(&m.Body), (*octets)(&m.Extra), &m.SendTime)
	return m, err
}

// spans calls f with the messages of the spans, in seq order within a conversation.
func (s *Store) spans(db *gorm.DB, spans []span, f func(storage.Message)) error {
	for part := range slices.Chunk(spans, s.dialect.keys) {
		where, args := whereSpans(part)
		err := s.query(db, func(rows *stdsql.Rows) error {
			m, err := scanMessage(rows)
			if err == nil {
				f(m)
			}
			return err
		}, "SELECT "+messageColumns+" FROM messages"+s.dialect.index("PRIMARY")+" WHERE "+where+" ORDER BY conversation_id, seq", args...)
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
	}
	return nil
}

// Sync implements storage.Messages. Conversations without news cost one row each, of one query.
func (s *Store) Sync(ctx context.Context, app, account string, cursors map[int64]int64, limit int) ([]storage.Delta, bool, error) {
	db := s.reader.WithContext(ctx)
	all, err := s.memberships(db, app, account, "0", "c.last_seq > m.joined_seq")
	if err != nil {
		return nil, false, fmt.Errorf("sync: %w", err)
	}
	var news []membership
	var spans []span // beside news
	for _, m := range all {
		if from := max(cursors[m.conversation], m.joinedSeq); from < m.lastSeq {
			news = append(news, m)
			spans = append(spans, span{m.conversation, from, m.lastSeq})
		}
	}
	more := share(spans, int64(limit))
	deltas := make([]storage.Delta, 0, len(news))
	place := make(map[int64]int, len(news)) // in deltas
	wanted := spans[:0]
	slices.SortFunc(news, func(a, b membership) int { return cmp.Compare(b.lastID, a.lastID) })
	for _, sp := range spans {
		if sp.to > sp.from {
			wanted = append(wanted, sp)
			place[sp.conversation] = 0
		}
	}
	for _, m := range news {
		if _, ok := place[m.conversation]; ok {
			place[m.conversation] = len(deltas)
			deltas = append(deltas, m.delta(account))
		}
	}
	err = s.spans(db, wanted, func(m storage.Message) {
		d := &deltas[place[m.Conversation]]
		d.Messages = append(d.Messages, m)
	})
	if err != nil {
		return nil, false, fmt.Errorf("sync: %w", err)
	}
	return deltas, more, nil
}

// share cuts the spans so that they have limit messages together, each as many as the others
// unless it has no more, and reports whether it had to.
func share(spans []span, limit int64) (cut bool) {
	bySize := make([]*span, len(spans))
	for i := range spans {
		bySize[i] = &spans[i]
	}
	slices.SortFunc(bySize, func(a, b *span) int { return cmp.Compare(a.to-a.from, b.to-b.from) })
	left := max(limit, 0)
	for i, sp := range bySize {
		// Rounded up, so that a limit below the number of conversations still serves some.
		others := int64(len(bySize) - i)
		part := (left + others - 1) / others
		if sp.to-sp.from > part {
			sp.to, cut = sp.from+part, true
		}
		left -= sp.to - sp.from
	}
	return cut
}

// History implements storage.Messages.
func (s *Store) History(ctx context.Context, app, account string, r storage.Range) (storage.Delta, error) {
	db := s.reader.WithContext(ctx)
	m, err := s.membership(db, app, account, r)
	if err != nil {
		return storage.Delta{}, err
	}
	if m == nil {
		return storage.Delta{Kind: storage.KindUser, Peer: r.Dest}, nil
	}
	d := m.delta(account)
	to := m.lastSeq
	if r.BeforeSeq > 0 {
		to = min(to, r.BeforeSeq-1)
	}
	from := max(m.joinedSeq, to-int64(max(r.Limit, 0)))
	if from >= to {
		return d, nil
	}
	d.Messages = make([]storage.Message, 0, to-from)
	err = s.spans(db, []span{{m.conversation, from, to}}, func(m storage.Message) { d.Messages = append(d.Messages, m) })
	if err != nil {
		return storage.Delta{}, fmt.Errorf("history: %w", err)
	}
	return d, nil
}

// membership finds the conversation that r means and the account's part in it. nil without an
// error: a conversation of two that has no message yet.
func (s *Store) membership(db *gorm.DB, app, account string, r storage.Range) (*membership, error) {
	where, args := "c.id = ? AND c.app = ?", []any{r.Conversation, []byte(app)}
	none := storage.ErrNoConversation
	if r.Conversation == 0 {
		key := ""
		switch r.Kind {
		case storage.KindUser:
			if err := validAccount(app, r.Dest); err != nil {
				return nil, err
			}
			key, none = pairOf(app, account, r.Dest).key, nil
		case storage.KindGroup:
			id, ok := parseGroupID(r.Dest)
			if !ok {
				return nil, none
			}
			key = groupKey(id)
		default:
			return nil, none
		}
		where, args = "c.app = ? AND c.kind = ? AND c.ckey = ?", []any{[]byte(app), r.Kind, []byte(key)}
	}
	var m *membership
	var joined stdsql.NullInt64
	err := s.query(db, func(rows *stdsql.Rows) error {
		m = new(membership)
		return rows.Scan(&m.conversation, &m.kind, &m.key, &m.lastSeq, &m.lastID, &joined)
	}, "SELECT c.id, c.kind, c.ckey, c.last_seq, c.last_message_id, m.joined_seq FROM conversations c"+
		" LEFT JOIN members m ON m.conversation_id = c.id AND m.account = ? WHERE "+where, append([]any{[]byte(account)}, args...)...)
	switch {
	case err != nil:
		return nil, fmt.Errorf("find conversation: %w", err)
	case m == nil:
		return nil, none
	case !joined.Valid:
		return nil, storage.ErrNotMember
	case m.kind == storage.KindUser && m.lastSeq == 0 && r.Conversation == 0:
		return nil, nil
	}
	m.joinedSeq = joined.Int64
	return m, nil
}

// Content implements storage.Messages.
func (s *Store) Content(ctx context.Context, app, account string, ids []int64) ([]storage.Message, error) {
	db := s.reader.WithContext(ctx)
	found := make(map[int64]storage.Message, len(ids))
	for part := range slices.Chunk(ids, s.dialect.keys) {
		args := make([]any, 0, len(part)+2)
		args = append(args, []byte(account), []byte(app))
		for _, id := range part {
			args = append(args, id)
		}
		err := s.query(db, func(rows *stdsql.Rows) error {
			m, err := scanMessage(rows)
			found[m.ID] = m
			return err
		}, "SELECT m.conversation_id, m.seq, m.message_id, m.sender, m.client_id, m.type, m.body, m.extra, m.send_time FROM messages m"+
			s.dialect.index("messages_id")+" "+s.dialect.straight+" members r ON r.conversation_id = m.conversation_id AND r.account = ?"+
			" WHERE r.app = ? AND r.joined_seq < m.seq AND m.message_id IN ("+marks(len(part))+")", args...)
		if err != nil {
			return nil, fmt.Errorf("content: %w", err)
		}
	}
	out := make([]storage.Message, 0, len(found))
	for _, id := range ids {
		if m, ok := found[id]; ok {
			out = append(out, m)
		}
	}
	return out, nil
}
