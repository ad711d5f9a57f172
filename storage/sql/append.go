package sql

import (
	"cmp"
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// insertBytes bounds the bodies of one INSERT, so that the statement stays below the smallest usual
// max_allowed_packet, 16 MiB, even if all of it is escaped.
const insertBytes = maxBody

// batch is the drafts of one Append that passed validation, and what is known of their conversations.
type batch struct {
	entries []entry
	// targets are the conversations, by ascending id once they are resolved.
	targets []*target
	// lookUp: some draft may be stored already; look before inserting.
	lookUp bool
	// inDoubt: an attempt may have been committed, and nobody was told.
	inDoubt bool
	// pending: an attempt may yet be committed, until another one is. See packet.
	pending bool
}

// entry is one draft and its conversation.
type entry struct {
	*storage.Draft
	target *target
	key    int64 // clientKey, if ClientID is set
	// tried are the message ids of the attempts whose commit may have happened, and triedID and triedSeq those of the one that did, or 0.
	tried             []int64
	triedID, triedSeq int64
}

// target is one conversation that the batch appends to.
type target struct {
	app  string
	pair pair // KindUser
	kind storage.Kind
	id   int64

	// The state below is of one attempt.
	found   bool
	lastSeq int64
	lastID  int64 // no message of it has a higher id
	version int64
	was     int64 // lastSeq before, if nothing was read
	members *members
	stored  map[int64]*storage.Draft // what is stored under a clientKey
	moved   bool
}

func (t *target) store(key int64, d *storage.Draft) {
	if t.stored == nil {
		t.stored = make(map[int64]*storage.Draft)
	}
	t.stored[key] = d
}

// Append implements storage.Messages.
func (s *Store) Append(ctx context.Context, drafts []*storage.Draft) error {
	b := newBatch(drafts)
	if len(b.entries) == 0 {
		return nil
	}
	if err := s.resolveTargets(ctx, b); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	for attempt := range attempts {
		err := s.tryAppend(ctx, b)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errCommit):
			b.lookUp, b.inDoubt = true, true
			b.noteTried()
		case errors.Is(err, gorm.ErrDuplicatedKey):
			b.lookUp = true
		case !s.dialect.transient(err):
			return b.failed(err)
		}
		if attempt == attempts-1 {
			return b.failed(err)
		}
		if err := backOff(ctx, attempt); err != nil {
			return b.failed(err)
		}
	}
	panic("unreachable")
}

// tryAppend stores the batch in one transaction.
func (s *Store) tryAppend(ctx context.Context, b *batch) error {
	if done, err := s.tryKnown(ctx, b); done || err != nil {
		return err
	}
	s.ledger.forget(b.targets)
	err := s.once(ctx, func(tx *gorm.DB) error { return s.appendTo(tx, b) })
	if err == nil {
		s.ledger.note(b.targets)
	}
	return err
}

// failed is the error of Append.
func (b *batch) failed(err error) error {
	if b.inDoubt {
		return fmt.Errorf("append: %w: %w", storage.ErrInDoubt, err)
	}
	return fmt.Errorf("append: %w", err)
}

// noteTried remembers what the attempt may have stored: found again, it is no duplicate, and its
// push is still owed.
func (b *batch) noteTried() {
	for i := range b.entries {
		if e := &b.entries[i]; e.Err == nil && !e.Duplicate && !slices.Contains(e.tried, e.MessageID) {
			e.tried = append(e.tried, e.MessageID)
		}
	}
}

func newBatch(drafts []*storage.Draft) *batch {
	b := &batch{entries: make([]entry, 0, len(drafts))}
	type group struct {
		app string
		id  int64
	}
	pairs, groups := make(map[pair]*target), make(map[group]*target)
	for _, d := range drafts {
		d.Err, d.Duplicate = validate(d), false
		if d.Err != nil {
			continue
		}
		var t *target
		if d.Kind == storage.KindUser {
			p := pairOf(d.App, d.Sender, d.Dest)
			if t = pairs[p]; t == nil {
				t = &target{app: d.App, kind: d.Kind, pair: p, members: &members{accounts: p.members()}}
				pairs[p], b.targets = t, append(b.targets, t)
			}
		} else {
			id, ok := parseGroupID(d.Dest)
			if !ok {
				d.Err = storage.ErrNoConversation
				continue
			}
			g := group{d.App, id}
			if t = groups[g]; t == nil {
				t = &target{app: d.App, kind: d.Kind, id: id}
				groups[g], b.targets = t, append(b.targets, t)
			}
		}
		e := entry{Draft: d, target: t}
		if d.ClientID != "" {
			e.key = clientKey(d.Sender, d.ClientID)
		}
		b.entries = append(b.entries, e)
	}
	return b
}

func validate(d *storage.Draft) error {
	if d.Kind != storage.KindUser && d.Kind != storage.KindGroup {
		return fmt.Errorf("%w: kind %d", storage.ErrInvalid, d.Kind)
	}
	for _, err := range []error{
		invalid("app", d.App, 0, maxName),
		invalid("sender", d.Sender, 1, maxName),
		invalid("dest", d.Dest, 1, maxName),
		validClientID(d.ClientID),
		invalid("body", d.Body, 0, maxBody),
		invalid("extra", d.Extra, 0, maxExtra),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func validClientID(id string) error {
	if !utf8.ValidString(id) {
		return fmt.Errorf("%w: client_id is not UTF-8", storage.ErrInvalid)
	}
	return invalid("client_id", id, 0, maxClientID)
}

// resolveTargets finds or makes the conversations of two and sorts the targets by id.
func (s *Store) resolveTargets(ctx context.Context, b *batch) error {
	var pairs []pair
	for _, t := range b.targets {
		if t.kind == storage.KindUser {
			pairs = append(pairs, t.pair)
		}
	}
	ids, err := s.resolve(ctx, pairs)
	if err != nil {
		return err
	}
	for _, t := range b.targets {
		if t.kind == storage.KindUser {
			t.id = ids[t.pair]
		}
	}
	slices.SortFunc(b.targets, func(x, y *target) int { return cmp.Compare(x.id, y.id) })
	return nil
}

// appendTo is the transaction of Append.
func (s *Store) appendTo(tx *gorm.DB, b *batch) error {
	if err := s.lock(tx, b.targets); err != nil {
		return err
	}
	if err := s.loadMembers(tx, b.targets); err != nil {
		return err
	}
	if err := s.lookUp(tx, b); err != nil {
		return err
	}
	if b.lookUp {
		if err := s.lookUpTried(tx, b); err != nil {
			return err
		}
	}
	fresh, err := s.number(b)
	if err != nil || len(fresh) == 0 {
		return err
	}
	if err := s.insert(tx, fresh); err != nil {
		return err
	}
	return s.move(tx, b.targets)
}

// lock locks the conversations in the order of their ids and reads their state.
func (s *Store) lock(tx *gorm.DB, targets []*target) error {
	byID := make(map[int64]conversation, len(targets))
	for part := range chunks(&s.dialect, targets, s.dialect.keys) {
		args := make([]any, len(part))
		for i, t := range part {
			args[i] = t.id
		}
		err := s.query(tx, func(rows *stdsql.Rows) error {
			var c conversation
			err := rows.Scan(&c.ID, &c.App, &c.Kind, &c.LastSeq, &c.LastMessageID, &c.MemberVersion)
			byID[c.ID] = c
			return err
		}, "SELECT id, app, kind, last_seq, last_message_id, member_version FROM conversations"+s.dialect.index("PRIMARY")+
			" WHERE id IN ("+marks(len(part))+") ORDER BY id"+s.dialect.forUpdate, args...)
		if err != nil {
			return fmt.Errorf("lock conversations: %w", err)
		}
	}
	for _, t := range targets {
		c, ok := byID[t.id]
		t.found = ok && c.Kind == t.kind && string(c.App) == t.app
		if !t.found && t.kind == storage.KindUser {
			s.conversations.Invalidate(t.pair)
			return fmt.Errorf("conversation %d has gone", t.id)
		}
		t.lastSeq, t.lastID, t.version = c.LastSeq, c.LastMessageID, c.MemberVersion
		t.moved, t.stored = false, nil
	}
	return nil
}

// lookUp finds what the batch's ClientIDs have stored before: those of senders who are no members, who may have
// quit since, and all if b.lookUp. The conversations are locked, so nobody adds to it.
func (s *Store) lookUp(tx *gorm.DB, b *batch) error {
	type wanted struct {
		target *target
		key    int64
	}
	var all []wanted
	for _, e := range b.entries {
		if e.ClientID != "" && e.target.found && (b.lookUp || !e.target.members.has(e.Sender)) {
			all = append(all, wanted{e.target, e.key})
		}
	}
	slices.SortFunc(all, func(x, y wanted) int {
		return cmp.Or(cmp.Compare(x.target.id, y.target.id), cmp.Compare(x.key, y.key))
	})
	for part := range chunks(&s.dialect, all, s.dialect.keys) {
		var where strings.Builder
		var args []any
		byID := make(map[int64]*target)
		for i, w := range part {
			byID[w.target.id] = w.target
			switch {
			case i == 0:
				where.WriteString("conversation_id = ? AND client_key IN (?")
				args = append(args, w.target.id)
			case part[i-1].target != w.target:
				where.WriteString(") OR conversation_id = ? AND client_key IN (?")
				args = append(args, w.target.id)
			default:
				where.WriteString(", ?")
			}
			args = append(args, w.key)
		}
		err := s.query(tx, func(rows *stdsql.Rows) error {
			var id, key int64
			was := new(storage.Draft)
			if err := rows.Scan(&id, &key, &was.Sender, (*clientID)(&was.ClientID), &was.Seq, &was.MessageID, &was.SendTime,
				&was.Type, &was.Body, (*octets)(&was.Extra)); err != nil {
				return err
			}
			byID[id].store(key, was)
			return nil
		}, "SELECT conversation_id, client_key, sender, client_id, seq, message_id, send_time, type, body, extra FROM messages"+s.dialect.index("messages_client")+
			" WHERE "+where.String()+")", args...)
		if err != nil {
			return fmt.Errorf("look up client ids: %w", err)
		}
	}
	return nil
}

// lookUpTried finds out what became of the attempts whose commit may have happened. They are over, for the conversations are
// locked, but for a pending one: that may still come, before this attempt's lock or after it is lost.
func (s *Store) lookUpTried(tx *gorm.DB, b *batch) error {
	var ids []any
	for _, e := range b.entries {
		for _, id := range e.tried {
			ids = append(ids, id)
		}
	}
	seqs := make(map[int64]int64, len(ids))
	for part := range chunks(&s.dialect, ids, s.dialect.keys) {
		err := s.query(tx, func(rows *stdsql.Rows) error {
			var id, seq int64
			err := rows.Scan(&id, &seq)
			seqs[id] = seq
			return err
		}, "SELECT message_id, seq FROM messages"+s.dialect.index("messages_id")+" WHERE message_id IN ("+marks(len(part))+")", part...)
		if err != nil {
			return fmt.Errorf("look up what was tried: %w", err)
		}
	}
	for i := range b.entries {
		e := &b.entries[i]
		e.triedID, e.triedSeq = 0, 0
		for _, id := range e.tried {
			if seq := seqs[id]; seq != 0 {
				e.triedID, e.triedSeq = id, seq
			}
		}
	}
	b.inDoubt = b.pending || len(seqs) > 0
	return nil
}

// number fills in each draft's result, and returns those that are to be inserted. The lastID of all conversations that move is
// the batch's last: the next ids are above it, and one value for all is cheaper to store than one for each.
func (s *Store) number(b *batch) (fresh []entry, err error) {
	fresh = make([]entry, 0, len(b.entries))
	var last int64
	for _, e := range b.entries {
		t := e.target
		e.Err, e.Duplicate, e.Members = nil, false, nil
		if !t.found {
			e.Err = storage.ErrNoConversation
			continue
		}
		if e.triedSeq != 0 {
			e.Conversation, e.Seq, e.MessageID, e.Members = t.id, e.triedSeq, e.triedID, t.members.readers(e.triedSeq)
			continue
		}
		var was *storage.Draft
		if e.ClientID != "" {
			was = t.stored[e.key]
		}
		member := t.members.has(e.Sender)
		switch {
		case was != nil && was.Sender == e.Sender && was.ClientID == e.ClientID:
			e.Conversation, e.Seq, e.MessageID, e.SendTime, e.Duplicate = t.id, was.Seq, was.MessageID, was.SendTime, true
			e.Type, e.Body, e.Extra = was.Type, was.Body, was.Extra
			if member { // who has quit gets its answer (I3), and reaches nobody, whatever it says now (I9)
				e.Members = t.members.readers(was.Seq)
			}
			continue
		case !member:
			e.Err = storage.ErrNotMember
			continue
		case was != nil:
			e.Err = fmt.Errorf("%w: this client_id cannot be told from another one here", storage.ErrInvalid)
			continue
		}
		e.Conversation, e.Members = t.id, t.members.accounts
		if t.lastID, err = s.ids.Next(t.lastID); err != nil {
			return nil, err
		}
		t.lastSeq++
		t.moved = true
		e.Seq, e.MessageID = t.lastSeq, t.lastID
		if e.ClientID != "" {
			t.store(e.key, e.Draft)
		}
		fresh = append(fresh, e)
		last = max(last, e.MessageID)
	}
	for _, t := range b.targets {
		if t.moved {
			t.lastID = last
		}
	}
	return fresh, nil
}

// insert stores the messages with as few statements as the bounds allow.
func (s *Store) insert(tx *gorm.DB, fresh []entry) error {
	for part := range chunks(&s.dialect, fresh, s.dialect.rows) {
		for len(part) > 0 {
			n := fit(part)
			if err := s.exec(tx, s.insertQuery(n), insertArgs(part[:n])...); err != nil {
				return fmt.Errorf("insert messages: %w", err)
			}
			part = part[n:]
		}
	}
	return nil
}

// fit is how many of the messages go into one statement by their size, at least one.
func fit(fresh []entry) int {
	size := 0
	for i, e := range fresh {
		if size += len(e.Body) + len(e.Extra); i > 0 && size > insertBytes {
			return i
		}
	}
	return len(fresh)
}

const insertColumns = "conversation_id, seq, message_id, sender, client_key, client_id, type, body, extra, send_time"

func (s *Store) insertQuery(rows int) string {
	const row = "(?,?,?,?,?,?,?,?,?,?)"
	return s.dialect.insert + "messages (" + insertColumns + ") VALUES " +
		row + strings.Repeat(","+row, rows-1)
}

func insertArgs(fresh []entry) []any {
	args := make([]any, 0, 10*len(fresh))
	for _, e := range fresh {
		var key any
		if e.ClientID != "" {
			key = e.key
		}
		args = append(args, e.Conversation, e.Seq, e.MessageID, []byte(e.Sender), key, clientID(e.ClientID),
			e.Type, []byte(e.Body), orNull(e.Extra), e.SendTime)
	}
	return args
}

// move moves the conversations' last seqs and the bounds of their ids on.
func (s *Store) move(tx *gorm.DB, targets []*target) error {
	moved := slices.DeleteFunc(slices.Clone(targets), func(t *target) bool { return !t.moved })
	for part := range chunks(&s.dialect, moved, s.dialect.moves) {
		cases := strings.Repeat(" WHEN ? THEN ?", len(part))
		args := make([]any, 0, 3*len(part)+1)
		for _, t := range part {
			args = append(args, t.id, t.lastSeq)
		}
		args = append(args, part[0].lastID)
		for _, t := range part {
			args = append(args, t.id)
		}
		err := s.exec(tx, "UPDATE conversations SET last_seq = CASE id"+cases+" END, last_message_id = ?"+
			" WHERE id IN ("+marks(len(part))+")", args...)
		if err != nil {
			return fmt.Errorf("move conversations: %w", err)
		}
	}
	return nil
}
