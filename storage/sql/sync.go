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
	readSeq      int64 // only where asked for
	lastSeq      int64
	lastID       int64 // no message of it has a higher id
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
		ReadSeq:      m.readSeq,
	}
}

// memberships returns those of the account's conversations that fulfil a condition on m, the
// member's row, and c, the conversation's. It reads one index and, by primary key, one row a conversation.
func (s *Store) memberships(db *gorm.DB, app, account, ack, where string, args ...any) ([]membership, error) {
	return s.positions(db, app, account, ack+", 0", where, args...)
}

// positions is memberships with any two of the member's seqs, 0 where they are not needed: ack and read.
func (s *Store) positions(db *gorm.DB, app, account, seqs, where string, args ...any) ([]membership, error) {
	var out []membership
	err := s.query(db, func(rows *stdsql.Rows) error {
		var m membership
		err := rows.Scan(&m.conversation, &m.joinedSeq, &m.ackSeq, &m.readSeq, &m.kind, &m.key, &m.lastSeq, &m.lastID)
		out = append(out, m)
		return err
	}, "SELECT m.conversation_id, m.joined_seq, "+seqs+", c.kind, c.ckey, c.last_seq, c.last_message_id"+s.ofAccount()+" AND "+where,
		append([]any{[]byte(app), []byte(account)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	return out, nil
}

// ofAccount is the rows m and c of an account's conversations.
func (s *Store) ofAccount() string {
	return " FROM members m" + s.dialect.index("members_account") + " " + s.dialect.straight +
		" conversations c ON c.id = m.conversation_id WHERE m.app = ? AND m.account = ?"
}

// talkedIn is the condition on what is a conversation to its members: not the row that is made
// before the first message of two.
var talkedIn = fmt.Sprintf("(c.kind <> %d OR c.last_seq > 0)", storage.KindUser)

// span is the messages of a conversation with a seq in (from, to].
type span struct{ conversation, from, to int64 }

func (s span) size() int64 { return s.to - s.from }

// whereSpans is the condition on messages for the spans.
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
	for part := range chunks(&s.dialect, spans, s.dialect.keys) {
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

// lack is what a client does not have of one conversation.
type lack struct {
	membership
	from int64 // the messages beyond; none if it is lastSeq or more
	take int64 // how much of size is answered
}

// size is how much the lack counts toward the limit of an answer.
func (l *lack) size() int64 { return max(1, l.lastSeq-l.from) }

// span is the messages that are answered, maybe none.
func (l *lack) span() span {
	return span{l.conversation, l.from, min(l.from+l.take, max(l.from, l.lastSeq))}
}

// complete reports whether the answer brings the conversation's last message, or the client has it.
func (l *lack) complete() bool { return l.from+l.take >= l.lastSeq }

// Sync implements storage.Messages. All of the answer is as of its first statement: that says how
// far each conversation goes, and what is stored up to there does not change. Conversations without
// news cost one row each, of that statement.
func (s *Store) Sync(ctx context.Context, app, account string, q storage.SyncQuery) (storage.News, error) {
	db := s.reader.WithContext(ctx)
	where, args := talkedIn, []any(nil)
	if len(q.Scope.Only) > 0 {
		where += " AND m.conversation_id % ? IN (" + marks(len(q.Scope.Only)) + ")"
		args = append(args, q.Scope.Buckets)
		for _, b := range q.Scope.Only {
			args = append(args, b)
		}
	}
	all, err := s.positions(db, app, account, "0, m.read_seq", where, args...)
	if err != nil {
		return storage.News{}, fmt.Errorf("sync: %w", err)
	}
	lacks, gone := compare(all, q)
	news := storage.News{Gone: gone, More: share(lacks, int64(q.Limit))}
	lacks = slices.DeleteFunc(lacks, func(l lack) bool { return l.take == 0 })
	slices.SortFunc(lacks, func(a, b lack) int {
		return cmp.Or(cmp.Compare(b.lastID, a.lastID), cmp.Compare(b.conversation, a.conversation))
	})
	var cut bool
	if news.Deltas, cut, err = s.deltas(db, account, lacks, q.Bytes); err != nil {
		return storage.News{}, fmt.Errorf("sync: %w", err)
	}
	news.More = news.More || cut
	return news, nil
}

// compare returns what the client lacks, and which conversations it has that the account has not.
func compare(all []membership, q storage.SyncQuery) (lacks []lack, gone []int64) {
	known := 0
	for _, m := range all {
		has, ok := q.Cursors[m.conversation]
		if ok {
			known++
		}
		if !ok || has.Seq != m.lastSeq || has.ReadSeq >= 0 && has.ReadSeq != m.readSeq {
			lacks = append(lacks, lack{membership: m, from: min(max(has.Seq, m.joinedSeq), m.lastSeq)})
		}
	}
	if known == len(q.Cursors) {
		return lacks, nil
	}
	belongs := make(map[int64]bool, len(all))
	for _, m := range all {
		belongs[m.conversation] = true
	}
	for id := range q.Cursors {
		if !belongs[id] && q.Scope.Has(id) {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	return lacks, gone
}

// share divides the limit among the lacks, to each as much as to the others unless it needs no
// more, and reports whether that was not enough.
func share(lacks []lack, limit int64) (cut bool) {
	bySize := make([]*lack, len(lacks))
	for i := range lacks {
		bySize[i] = &lacks[i]
	}
	slices.SortFunc(bySize, func(a, b *lack) int { return cmp.Compare(a.size(), b.size()) })
	left := max(limit, 0)
	for i, l := range bySize {
		// Rounded up, so that a limit below the number of conversations still serves some.
		others := int64(len(bySize) - i)
		l.take = min(l.size(), (left+others-1)/others)
		cut = cut || l.take < l.size()
		left -= l.take
	}
	return cut
}

// deltas reads what is to be answered, and reports whether the bytes were too few for all of it.
func (s *Store) deltas(db *gorm.DB, account string, lacks []lack, bytes int) (out []storage.Delta, cut bool, err error) {
	if len(lacks) == 0 {
		return nil, false, nil
	}
	out = make([]storage.Delta, len(lacks))
	for i := range lacks {
		out[i] = lacks[i].delta(account)
	}
	if cut, err = s.read(db, lacks, out, bytes); err != nil {
		return nil, false, err
	}
	if err = s.countUnread(db, account, lacks, out); err != nil {
		return nil, false, err
	}
	i := 0
	out = slices.DeleteFunc(out, func(storage.Delta) bool { i++; return lacks[i-1].take == 0 })
	return out, cut, nil
}

// countUnread sets Unread of the deltas that are complete: it counts among their messages, and asks
// for what is unread of those that the client has.
func (s *Store) countUnread(db *gorm.DB, account string, lacks []lack, deltas []storage.Delta) error {
	var asked []span
	var place []int // in deltas, beside asked
	for i := range lacks {
		l, d := &lacks[i], &deltas[i]
		if !l.complete() {
			continue
		}
		from := max(l.readSeq, l.joinedSeq)
		for _, m := range d.Messages {
			if m.Seq > from && m.Sender != account {
				d.Unread++
			}
		}
		if to := min(l.from, l.lastSeq); to > from {
			asked = append(asked, span{l.conversation, from, to})
			place = append(place, i)
		}
	}
	counts, err := s.others(db, account, asked)
	for i, n := range counts {
		deltas[place[i]].Unread += n
	}
	return err
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
	var joined, read stdsql.NullInt64
	err := s.query(db, func(rows *stdsql.Rows) error {
		m = new(membership)
		return rows.Scan(&m.conversation, &m.kind, &m.key, &m.lastSeq, &m.lastID, &joined, &read)
	}, "SELECT c.id, c.kind, c.ckey, c.last_seq, c.last_message_id, m.joined_seq, m.read_seq FROM conversations c"+
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
	m.joinedSeq, m.readSeq = joined.Int64, read.Int64
	return m, nil
}

// Content implements storage.Messages.
func (s *Store) Content(ctx context.Context, app, account string, ids []int64) ([]storage.Message, error) {
	db := s.reader.WithContext(ctx)
	found := make(map[int64]storage.Message, len(ids))
	for part := range chunks(&s.dialect, ids, s.dialect.keys) {
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
