package client

import (
	"maps"
	"slices"
	"strconv"
)

// Inbox decides what the application hears, and in which order: of every conversation each message
// once, by seq, whatever order, repetition or loss it came with (I2, I4). It does no I/O and knows
// no time; the caller serialises its calls.
//
// A conversation has a cursor, the seq that was handed on last. The message behind the cursor is
// handed on; one further ahead is held back until a sync has brought what is missing; anything
// else is a repetition. A conversation that was never heard of has the cursor 0.
//
//	Connected, Hint, Push, Sent ─▶ SyncWanted ─▶ Begin, (Request, Page)…, End ─▶ Next ─▶ the application
type Inbox struct {
	// Static after construction.
	limit int
	page  int
	chunk int
	echo  bool
	reads bool
	// few, counts and size divide conversations into buckets: see buckets.
	few    int
	counts []int
	size   int

	// Account is who is logged in.
	Account string

	// modern: the server of this connection knows digests, buckets and read positions.
	modern        bool
	conversations map[string]*conversation
	// known is how many of them are known, unnumbered how many of these have an id that is no number.
	known, unnumbered int
	// held and silent are the numbers of messages held back in all conversations: news and own ones.
	held, silent int
	// gaps is the number of conversations that hold some back.
	gaps int

	queue queue
	// moved are cursors that moved without a message for the application behind which to save them.
	moved map[string]int64

	// talking are the talks under way.
	talking map[key]*talk
	// stale: something may be missing that no gap shows.
	stale bool
	// round is the number of the last sync begun, and plan what is left of it.
	round int
	plan  plan
}

type conversation struct {
	// known: the account belongs to it, as the server has said or a message in turn has shown.
	known       bool
	number      uint64 // the id; 0: it is no number
	peer, group string // empty while nothing has told
	cursor      int64
	early       map[int64]early
	read        reading
	// tail is its last message that waits in the queue, or nil; note its change that waits there.
	tail, note *Delivery
}

// talk is a message of this client that waits for its answer.
type talk struct {
	waiting int
	// stored is the message as a sync or a push brought it, or nil.
	stored *Message
}

// early is a message that came before its turn.
type early struct {
	message *Message
	silent  bool
	round   int
}

// Delivery is the next thing to tell the application: a message, a group event, a change of a
// conversation, or none of them where only a cursor is to be saved.
type Delivery struct {
	Message *Message
	Group   *GroupEvent
	// Change says what has changed of a conversation, whose present state is State.
	Change Change
	State  Conversation
	// Conversation's cursor is Through once this has been handled. After Gone it has none any more.
	Conversation string
	Through      int64

	next *Delivery
}

// Change is what has changed of a conversation, beside its messages.
type Change uint8

// The changes of a conversation.
const (
	// Unchanged: the delivery is about something else.
	Unchanged Change = iota
	// Opened: it is new to this device.
	Opened
	// Read: its read position is known now, or was moved by another device.
	Read
	// Gone: the account does not belong to it any more.
	Gone
)

// Want says whether a sync should begin.
type Want uint8

// The answers of SyncWanted.
const (
	// WantNothing: nothing is known to be missing, or there is no room for it.
	WantNothing Want = iota
	// WantSoon: a message is missing that may still be on its way.
	WantSoon
	// WantNow: something is or may be missing that will not come by itself.
	WantNow
)

// InboxOptions configure an Inbox.
type InboxOptions struct {
	// Limit is the most messages that wait for the application, and the most held back, news and own each.
	Limit int
	// Page is the most messages that one page of a sync brings; at most Limit/2.
	Page int
	// Chunk is the most cursors of one request, where the server knows digests.
	Chunk int
	// Reads keeps read positions.
	Reads bool
	// Echo hands on what this client itself has sent.
	Echo bool
}

// NewInbox makes an empty inbox.
func NewInbox(o InboxOptions) *Inbox {
	return &Inbox{
		limit: o.Limit, page: o.Page, chunk: o.Chunk, echo: o.Echo, reads: o.Reads,
		few: fewConversations, counts: bucketCounts(), size: bucketSize,
		conversations: map[string]*conversation{},
		moved:         map[string]int64{},
		talking:       map[key]*talk{},
	}
}

// Restore sets the cursors of an earlier run, before the first Connected.
func (b *Inbox) Restore(cursors map[string]int64) {
	for id, seq := range cursors {
		c := b.conversation(id)
		c.cursor, c.read.through = seq, seq
		b.know(c)
	}
}

// Connected notes that a connection has begun: whatever was sent meanwhile went elsewhere. modern:
// its server knows digests and read positions. One that does not leaves the positions unknown.
func (b *Inbox) Connected(modern bool) {
	b.stale = true
	if b.modern && !modern {
		for _, c := range b.conversations {
			c.read.known = false
		}
	}
	b.modern = modern
}

// Hint notes that the server may have dropped pushes.
func (b *Inbox) Hint() { b.stale = true }

// Push takes a pushed message. One without seq, from a server that has none, goes straight to the
// queue while there is room.
func (b *Inbox) Push(m Message) { b.put(&m) }

// Event takes what was said about a group. It is dropped when there is no room: a group's state is
// asked for, not put together from events.
func (b *Inbox) Event(e GroupEvent) (ok bool) {
	if !b.room(1) {
		return false
	}
	b.queue.push(&Delivery{Group: &e})
	return true
}

// MayTalk reports whether the answer to one more message could be kept. While as many own messages
// are held back as may be, no further one should be sent.
func (b *Inbox) MayTalk() bool { return b.silent < b.limit }

// Talking notes that a message of this client is on its way, so that it is recognised when it comes
// back by a sync before its answer. Each Talking is followed by one Sent or Abandoned.
func (b *Inbox) Talking(k key) {
	t := b.talking[k]
	if t == nil {
		t = &talk{}
		b.talking[k] = t
	}
	t.waiting++
}

// Abandoned notes that nobody waits for the answer any more. If the message has come back already,
// here it is: it counts as sent. If it comes later, it is news to the application.
func (b *Inbox) Abandoned(k key) (Message, bool) {
	t := b.talking[k]
	b.untalk(k)
	if t == nil || t.stored == nil {
		return Message{}, false
	}
	return *t.stored, true
}

// Sent takes the answer to a talk: m is the own message with its seq.
func (b *Inbox) Sent(m Message) {
	b.put(&m)
	b.untalk(keyOfMessage(&m))
}

// keyOfMessage is the key that an own message had on its way.
func keyOfMessage(m *Message) key { return key{dest{m.Peer, m.Group}, m.ClientID} }

func (b *Inbox) untalk(k key) {
	if t := b.talking[k]; t != nil {
		if t.waiting--; t.waiting == 0 {
			delete(b.talking, k)
		}
	}
}

// SyncWanted says whether to sync. While the application is behind there is no room for a page, and
// so no wish for one.
func (b *Inbox) SyncWanted() Want {
	switch {
	case !b.roomForPage():
		return WantNothing
	case b.stale:
		return WantNow
	case b.gaps > 0:
		return WantSoon
	default:
		return WantNothing
	}
}

// End notes that the last page was taken. What was held back since before the sync and still is,
// has nothing before it that this account may read (any more): it goes on as it is.
func (b *Inbox) End() {
	if b.stale || b.gaps == 0 {
		return
	}
	for id, c := range b.conversations {
		var last int64
		for seq, e := range c.early {
			if e.round < b.round {
				last = max(last, seq)
			}
		}
		if last > 0 && !c.known && b.modern {
			b.stale = true // the server did not name it: it will say whether it is one of the account's
		}
		b.skip(id, c, last)
	}
}

// Complete reports whether the sync that has ended brought all there was: nothing was dropped for lack of room, and no
// server has said meanwhile that there is more.
func (b *Inbox) Complete() bool { return !b.stale }

// Fail notes that the sync begun last did not reach its end.
func (b *Inbox) Fail() { b.stale = true }

// Next takes the next delivery out of the queue.
func (b *Inbox) Next() (Delivery, bool) {
	for d := b.queue.pop(); d != nil; d = b.queue.pop() {
		c := b.conversations[d.Conversation]
		switch {
		case c != nil && c.tail == d:
			c.tail = nil
		case c != nil && c.note == d:
			c.note = nil
			d.State = b.state(d.Conversation, c)
		}
		if d.Change == Read && !d.State.Counted {
			continue // it is gone, or unknown again, meanwhile
		}
		return *d, true
	}
	for id, seq := range b.moved {
		delete(b.moved, id)
		return Delivery{Conversation: id, Through: seq}, true
	}
	return Delivery{}, false
}

// Moved takes out of Next what it would deliver when nothing waits: the cursors that are only to be saved.
func (b *Inbox) Moved() map[string]int64 {
	moved := b.moved
	b.moved = map[string]int64{}
	return moved
}

// Passed reports whether an own message waits for nothing: it is not held back, and what comes before it was
// taken by Next or Moved. Once that is handled, no later run hears of it.
func (b *Inbox) Passed(id string, seq int64) bool {
	c := b.conversations[id]
	if c == nil {
		return true // a server without cursors
	}
	_, held := c.early[seq]
	_, moved := b.moved[id]
	return !held && !moved && c.tail == nil
}

func (b *Inbox) conversation(id string) *conversation {
	c := b.conversations[id]
	if c == nil {
		c = &conversation{}
		if n, err := strconv.ParseUint(id, 10, 63); err == nil {
			c.number = n
		}
		b.conversations[id] = c
	}
	return c
}

// know counts a conversation as one of the account's.
func (b *Inbox) know(c *conversation) {
	c.known = true
	b.known++
	if c.number == 0 {
		b.unnumbered++
	}
}

// open makes a conversation known that was not, and tells the application.
func (b *Inbox) open(id string, c *conversation, peer, group string) {
	if peer != "" || group != "" {
		c.peer, c.group = peer, group
	}
	if c.known {
		return
	}
	b.know(c)
	b.change(id, c, Opened)
	if c.tail == nil {
		b.moved[id] = c.cursor // so that it is known to the next run too
	}
}

// change queues a change of a conversation, once.
func (b *Inbox) change(id string, c *conversation, change Change) {
	if c.note == nil {
		c.note = &Delivery{Change: change, Conversation: id, State: Conversation{ID: id, Peer: c.peer, Group: c.group}}
		b.queue.push(c.note)
	}
}

// forget makes a conversation unknown that the account does not belong to any more. Its cursor
// stays while this Inbox lives: a push that is late must not begin it anew.
func (b *Inbox) forget(id string, c *conversation) {
	for seq := range c.early {
		b.release(c, seq)
	}
	c.known, c.tail, c.note, c.read = false, nil, nil, reading{through: c.cursor}
	b.known--
	if c.number == 0 {
		b.unnumbered--
	}
	delete(b.moved, id)
	b.queue.push(&Delivery{Change: Gone, Conversation: id, State: Conversation{ID: id, Peer: c.peer, Group: c.group}})
}

func (b *Inbox) room(n int) bool { return b.queue.len+n <= b.limit }

// roomForPage reports whether a page of a sync fits. Changes of conversations are bounded by their
// number; while too many wait, no page makes it more.
func (b *Inbox) roomForPage() bool { return b.room(b.page) && b.queue.changes <= b.limit }

// own reports whether m is what a talk under way has sent: the application does not hear of it
// then, unless it wants the echo.
func (b *Inbox) own(m *Message) bool {
	if m.ClientID == "" || m.Sender != b.Account {
		return false
	}
	t := b.talking[keyOfMessage(m)]
	if t == nil {
		return false
	}
	t.stored = m
	return !b.echo
}

func (b *Inbox) put(m *Message) {
	silent := b.own(m)
	if m.Seq <= 0 || m.Conversation == "" {
		if !silent && b.room(1) {
			b.queue.push(&Delivery{Message: m})
		}
		return
	}
	c := b.conversation(m.Conversation)
	switch {
	case m.Seq <= c.cursor:
	case m.Seq == c.cursor+1:
		if b.pass(m.Conversation, c, early{message: m, silent: silent}) {
			b.drain(m.Conversation, c)
		}
	default:
		b.hold(c, early{message: m, silent: silent, round: b.round})
	}
}

// hold keeps a message that came too early. A full inbox drops it, and wishes for a sync. An own
// message is always kept, for a sync would bring it as news; Talking bounds them.
func (b *Inbox) hold(c *conversation, e early) {
	if _, ok := c.early[e.message.Seq]; ok {
		return
	}
	if b.held >= b.limit && !e.silent {
		b.stale = true
		return
	}
	if c.early == nil {
		c.early = map[int64]early{}
		b.gaps++
	}
	c.early[e.message.Seq] = e
	*b.counter(e)++
}

// pass hands a message on and moves the cursor to it, or reports that there is no room: then the
// message is dropped and must come again.
func (b *Inbox) pass(id string, c *conversation, e early) bool {
	seq := e.message.Seq
	if !e.silent && !b.room(1) {
		b.stale = true
		return false
	}
	b.release(c, seq)
	b.open(id, c, e.message.Peer, e.message.Group)
	if b.reads {
		c.read.pass(seq, e.message.Sender == b.Account)
	}
	if e.silent {
		b.move(id, c, seq)
		return true
	}
	c.cursor = seq
	c.tail = &Delivery{Message: e.message, Conversation: id, Through: seq}
	b.queue.push(c.tail)
	delete(b.moved, id)
	return true
}

// drain hands on what was held back and has its turn now.
func (b *Inbox) drain(id string, c *conversation) {
	for {
		e, ok := c.early[c.cursor+1]
		if !ok || !b.pass(id, c, e) {
			return
		}
	}
}

// skip moves the cursor to seq at least, past what the account may not read, and hands on what was
// held back on the way.
func (b *Inbox) skip(id string, c *conversation, seq int64) {
	if seq <= c.cursor {
		return
	}
	for _, held := range slices.Sorted(maps.Keys(c.early)) {
		if held > seq {
			break
		}
		if !b.pass(id, c, c.early[held]) {
			return
		}
	}
	if seq > c.cursor {
		b.move(id, c, seq)
	}
	b.drain(id, c)
}

// move moves the cursor without telling the application. It is saved behind the conversation's last
// message in the queue, so that a silent message needs no room.
func (b *Inbox) move(id string, c *conversation, seq int64) {
	c.cursor = seq
	if c.tail != nil {
		c.tail.Through = seq
		return
	}
	b.moved[id] = seq
}

// setBack moves the cursor back to seq, the last that there is: the service was restored from a backup. What is held back
// may be of the time before that, and what was pushed since may have been taken for a repetition: another sync brings it.
func (b *Inbox) setBack(id string, c *conversation, seq int64) {
	for held := range c.early {
		b.release(c, held)
	}
	c.read = reading{through: seq}
	b.move(id, c, seq)
	b.stale = true
}

func (b *Inbox) release(c *conversation, seq int64) {
	e, ok := c.early[seq]
	if !ok {
		return
	}
	delete(c.early, seq)
	*b.counter(e)--
	if len(c.early) == 0 {
		c.early = nil
		b.gaps--
	}
}

func (b *Inbox) counter(e early) *int {
	if e.silent {
		return &b.silent
	}
	return &b.held
}

// queue is a linked list of deliveries: tails and notes are pointed to from conversations.
type queue struct {
	head, tail *Delivery
	// len counts the messages and events, changes the changes of conversations.
	len, changes int
}

func (q *queue) counter(d *Delivery) *int {
	if d.Change != Unchanged {
		return &q.changes
	}
	return &q.len
}

func (q *queue) push(d *Delivery) {
	if q.tail == nil {
		q.head = d
	} else {
		q.tail.next = d
	}
	q.tail = d
	*q.counter(d)++
}

func (q *queue) pop() *Delivery {
	d := q.head
	if d == nil {
		return nil
	}
	q.head = d.next
	if q.head == nil {
		q.tail = nil
	}
	d.next = nil
	*q.counter(d)--
	return d
}
