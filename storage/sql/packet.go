package sql

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"sync"

	mysqldriver "github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// A batch whose conversations this process wrote last is stored with one round trip: BEGIN, UPDATE, INSERT and
// COMMIT in one packet. Nothing is read: the UPDATE locks only conversations that are still as they are
// known to be, in the order of their ids as lock does, and the INSERT fails unless it found all of them. Then, and after
// every other error of the server's but those of killed, the transaction is rolled back and the batch is appended as if this
// had not been tried.
//
// SQLite, which has no round trips, saves the reading in the same way.
//
// A packet may be executed after its connection was lost, even when nobody waits any more. It does no harm then: what
// was written to one of its conversations meanwhile makes it fail.

// Bounds of what is sent in one packet.
const (
	packetRows    = 1000
	packetTargets = 500
)

// known is what this process knows of a conversation since its last commit there.
type known struct {
	app                      string
	kind                     storage.Kind
	lastSeq, lastID, version int64 // see target
}

// ledger is what is known of conversations, bounded. Safe for concurrent use.
type ledger struct {
	mu   sync.Mutex
	most int
	byID map[int64]known // guarded by mu
}

// note keeps the targets' state, which was committed. Some other conversation makes room.
func (l *ledger) note(targets []*target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range targets {
		if t.found {
			l.byID[t.id] = known{t.app, t.kind, t.lastSeq, t.lastID, t.version}
		}
	}
	for id := range l.byID {
		if len(l.byID) <= l.most {
			break
		}
		delete(l.byID, id)
	}
}

func (l *ledger) forget(targets []*target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range targets {
		delete(l.byID, t.id)
	}
}

// recall sets the targets' state, and reports whether all of it is known.
func (l *ledger) recall(targets []*target) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range targets {
		k, ok := l.byID[t.id]
		if !ok || k.app != t.app || k.kind != t.kind {
			return false
		}
		t.found, t.moved, t.stored = true, false, nil
		t.lastSeq, t.lastID, t.version, t.was = k.lastSeq, k.lastID, k.version, k.lastSeq
	}
	return true
}

// numberKnown fills in the drafts' results from what is known of their conversations, and returns those that are to
// be inserted. nil: there is something to read first, or too much to write.
func (s *Store) numberKnown(b *batch) (fresh []entry, err error) {
	if b.lookUp || len(b.targets) > packetTargets || len(b.entries) > packetRows || !s.ledger.recall(b.targets) {
		return nil, nil
	}
	for _, t := range b.targets {
		if t.kind == storage.KindGroup {
			if m, ok := s.members.GetIfPresent(t.id); ok && m.version == t.version {
				t.members = m
			} else {
				return nil, nil
			}
		}
	}
	for i := range b.entries {
		if e := &b.entries[i]; !e.target.members.has(e.Sender) {
			return nil, nil
		}
	}
	fresh, err = s.number(b)
	if err != nil || fit(fresh) < len(fresh) {
		return nil, err
	}
	return fresh, nil
}

// The ends of a packet. MariaDB, which alone reads what is in these comments, takes it for one compound statement, and answers
// once instead of four times.
const (
	packetBegin  = "BEGIN/*M! NOT ATOMIC START TRANSACTION*/;"
	packetCommit = ";COMMIT/*M!;END*/"
)

// packetOf is the packet that stores the messages.
func packetOf(targets []*target, fresh []entry) string {
	packet := append(make([]byte, 0, packetSize(targets, fresh)), packetBegin...)
	packet, moved := appendMove(packet, targets)
	packet = append(packet, ';')
	packet = appendInsert(packet, fresh, moved)
	return string(append(packet, packetCommit...))
}

// packetSize is about how many bytes a packet has.
func packetSize(targets []*target, fresh []entry) int {
	size := 500 + 110*len(targets)
	for i := range fresh {
		size += 180 + len(fresh[i].Sender) + len(fresh[i].ClientID) + len(fresh[i].Body) + len(fresh[i].Extra)
	}
	return size
}

// appendMove is the UPDATE that locks the conversations which have new messages, and moves them on. It says how many they are.
// Most have one new message. The CASE, whose cost is the conversations times its WHENs, names only the others.
func appendMove(p []byte, targets []*target) (_ []byte, moved int) {
	each := func(format func(t *target)) {
		for _, t := range targets {
			if t.moved {
				format(t)
			}
		}
	}
	p = append(p, "UPDATE conversations SET last_seq = last_seq + "...)
	var lastID int64
	cases := false
	each(func(t *target) {
		moved, lastID = moved+1, t.lastID
		n := t.lastSeq - t.was
		if n == 1 {
			return
		}
		if !cases {
			p, cases = append(p, "CASE id"...), true
		}
		p = strconv.AppendInt(append(p, " WHEN "...), t.id, 10)
		p = strconv.AppendInt(append(p, " THEN "...), n, 10)
	})
	if cases {
		p = append(p, " ELSE 1 END"...)
	} else {
		p = append(p, '1')
	}
	p = strconv.AppendInt(append(p, ", last_message_id = "...), lastID, 10)
	p = append(p, " WHERE id IN ("...)
	each(func(t *target) { p = append(strconv.AppendInt(p, t.id, 10), ',') })
	p = append(p[:len(p)-1], ") AND (id, last_seq, member_version) IN ("...)
	each(func(t *target) {
		p = append(strconv.AppendInt(append(p, '('), t.id, 10), ',')
		p = append(strconv.AppendInt(p, t.was, 10), ',')
		p = append(strconv.AppendInt(p, t.version, 10), "),"...)
	})
	return append(p[:len(p)-1], ')'), moved
}

// appendInsert is the INSERT of the messages, which fails unless the statement before it has changed that many rows.
func appendInsert(p []byte, fresh []entry, changed int) []byte {
	p = append(p, "INSERT INTO messages ("+insertColumns+") VALUES "...)
	for i := range fresh {
		e := &fresh[i]
		p = append(p, '(')
		for _, n := range [...]int64{e.Conversation, e.Seq, e.MessageID} {
			p = append(strconv.AppendInt(p, n, 10), ',')
		}
		p = append(appendBinary(p, e.Sender), ',')
		if e.ClientID == "" {
			p = append(p, "NULL,NULL,"...)
		} else {
			p = append(strconv.AppendInt(p, e.key, 10), ',')
			p = append(appendBinary(p, clientID(e.ClientID).bytes()), ',')
		}
		p = append(strconv.AppendInt(p, int64(e.Type), 10), ',')
		p = append(appendBinary(p, e.Body), ',')
		if e.Extra == "" {
			p = append(p, "NULL,"...)
		} else {
			p = append(appendBinary(p, e.Extra), ',')
		}
		if i == 0 { // NULL is refused
			p = append(strconv.AppendInt(append(p, "IF(ROW_COUNT()="...), int64(changed), 10), ',')
			p = append(strconv.AppendInt(p, e.SendTime, 10), ",NULL)),"...)
		} else {
			p = append(strconv.AppendInt(p, e.SendTime, 10), "),"...)
		}
	}
	return p[:len(p)-1]
}

// appendBinary quotes bytes. The connections' sql_mode, which is ours, has backslashes escape.
func appendBinary[T string | []byte](p []byte, value T) []byte {
	p = append(p, "_binary'"...)
	for i := range len(value) {
		switch c := value[i]; c {
		case 0:
			p = append(p, '\\', '0')
		case '\'', '\\':
			p = append(p, '\\', c)
		default:
			p = append(p, c)
		}
	}
	return append(p, '\'')
}

// tryKnown stores the batch without reading anything if that can be done. Otherwise, and if the database
// refused that, done is false. errCommit: nobody knows whether it is stored.
func (s *Store) tryKnown(ctx context.Context, b *batch) (done bool, err error) {
	fresh, err := s.numberKnown(b)
	if len(fresh) == 0 || err != nil {
		return false, err
	}
	if s.dialect.packets {
		err = s.translate(s.send(ctx, packetOf(b.targets, fresh)))
		b.pending = errors.Is(err, errCommit)
	} else {
		err = s.once(ctx, func(tx *gorm.DB) error {
			if err := s.moveKnown(tx, b.targets); err != nil {
				return err
			}
			return s.insert(tx, fresh)
		})
	}
	switch {
	case err == nil:
		s.ledger.note(b.targets)
		return true, nil
	case errors.Is(err, errCommit):
		return false, err
	}
	b.lookUp = b.lookUp || errors.Is(err, gorm.ErrDuplicatedKey)
	return false, ctx.Err()
}

// errStale: a conversation is not as it was known to be.
var errStale = errors.New("stale conversation")

// moveKnown moves the conversations on one by one, if they are as they are known to be.
func (s *Store) moveKnown(tx *gorm.DB, targets []*target) error {
	for _, t := range targets {
		if !t.moved {
			continue
		}
		result, err := tx.Statement.ConnPool.ExecContext(tx.Statement.Context,
			"UPDATE conversations SET last_seq = ?, last_message_id = ? WHERE id = ? AND last_seq = ? AND member_version = ?",
			t.lastSeq, t.lastID, t.id, t.was, t.version)
		if err != nil {
			return fmt.Errorf("move conversations: %w", err)
		}
		if n, err := result.RowsAffected(); n != 1 || err != nil {
			return errors.Join(errStale, err)
		}
	}
	return nil
}

// sendPacket runs a packet that begins and ends a transaction, which an error that is not errCommit has undone.
func (s *Store) sendPacket(ctx context.Context, packet string) error {
	conn, err := s.pools[0].Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it goes back to its pool
	_, err = conn.ExecContext(ctx, packet)
	switch {
	case err == nil || errors.Is(err, driver.ErrBadConn): // the driver says so of what was not sent
		return err
	case !s.dialect.refused(err):
		return fmt.Errorf("%w: %w", errCommit, err)
	case killed(err):
		drop(conn)
		return fmt.Errorf("%w: %w", errCommit, err)
	}
	if _, failed := conn.ExecContext(ctx, "ROLLBACK"); failed != nil {
		drop(conn)
	}
	return err
}

// killed reports whether somebody has ended the statement, or the server stops. A compound statement may have come to its COMMIT
// before that.
func killed(err error) bool {
	var e *mysqldriver.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Number {
	case 1053, // server shutdown in progress
		1317, // query execution was interrupted
		1927, // connection was killed (MariaDB)
		1969: // max_statement_time exceeded (MariaDB)
		return true
	}
	return false
}

// drop closes a connection instead of giving it back; the server undoes what it has begun.
func drop(conn *stdsql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}
