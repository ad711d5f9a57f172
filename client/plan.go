package client

import (
	"maps"
	"math"
	"slices"
)

// The sizes of a sync: docs/protocol.md, "chat.sync".
const (
	// fewConversations are synced by their cursors alone; more are compared by digests first.
	fewConversations = 100
	// bucketSize is how many conversations of a bucket are worth more buckets.
	bucketSize = 500
	// idModulus bounds what one id adds to Digest.IDs.
	idModulus = 1<<31 - 1
	// askRead is a read position that none is, so that the server says which it is.
	askRead = math.MaxInt64
	// noRead: the read position does not matter.
	noRead = -1
)

// bucketCounts are numbers of buckets, primes all, the last near the most that a server takes.
func bucketCounts() []int { return []int{61, 251, 1021} }

// plan is what is left of a sync. Without buckets all cursors are one request.
type plan struct {
	buckets int
	// compared: the digests were answered, or are not needed.
	compared bool
	// todo are the buckets to ask for, only those of the last request.
	todo, only []int
	// asked are the cursors of the last request.
	asked map[string]int64
}

// Cursor is what is had of a conversation.
type Cursor struct {
	Conversation string
	Seq          int64
	// ReadSeq is the read position that is known, askRead, or noRead.
	ReadSeq int64
}

// Digest is what is had of the conversations of a bucket: SyncReq's.
type Digest struct {
	Conversations    uint32
	IDs, Seqs, Reads uint64
}

// Request is what to ask the server for next.
type Request struct {
	// Cursors are those of all conversations or, if Only is not empty, of those in its buckets.
	Cursors []Cursor
	Only    []int
	// Buckets is the number of buckets; 0: none.
	Buckets int
	// Digests, if not empty, are asked about instead of cursors, one for each bucket. NoReads: their Reads say nothing.
	Digests []Digest
	NoReads bool
}

// Answer is the server's to a Request.
type Answer struct {
	Deltas []Delta
	More   bool
	Stale  []int
	Gone   []string
}

// Delta is what a sync says of one conversation.
type Delta struct {
	Conversation string
	Peer, Group  string
	// LastSeq is that of its last message, JoinedSeq the seq before the first one that the account may read.
	LastSeq, JoinedSeq int64
	// Messages are in seq order.
	Messages []Message
	// ReadSeq and Unread are where the account has read to, and how many messages of others are
	// beyond; they count where Messages reach LastSeq.
	ReadSeq, Unread int64
}

// Begin starts a sync. What to ask for is in Request, and Page takes the answer, until there is no
// more and End is called, or until a request fails and Fail is called.
func (b *Inbox) Begin() (round int) {
	gapsOnly := !b.stale
	b.stale = false
	b.round++
	b.plan = plan{buckets: b.buckets()}
	if gapsOnly && b.plan.buckets > 0 {
		b.plan.compared, b.plan.todo = true, b.urgent(b.plan.buckets)
	}
	return b.round
}

// buckets is into how many the conversations are divided now; 0: not at all.
func (b *Inbox) buckets() int {
	if !b.modern || b.unnumbered > 0 || b.known <= b.few {
		return 0
	}
	for _, n := range b.counts {
		if b.known <= n*b.size {
			return n
		}
	}
	return b.counts[len(b.counts)-1]
}

// Request returns what to ask for next. More conversations may have become known since the last
// one: then they may need more buckets.
func (b *Inbox) Request() Request {
	if n := b.buckets(); n != b.plan.buckets {
		b.plan = plan{buckets: n}
	}
	p := &b.plan
	switch {
	case p.buckets == 0:
		return Request{Cursors: b.cursors(nil)}
	case !p.compared:
		p.asked = nil
		return Request{Buckets: p.buckets, Digests: b.digests(), NoReads: !b.reads}
	default:
		b.pick()
		return Request{Buckets: p.buckets, Only: p.only, Cursors: b.cursors(p.only)}
	}
}

// pick chooses the buckets of the next request: those of the last one, if there is more of them, or
// the first ones to do, as many as have chunk conversations together.
func (b *Inbox) pick() {
	p := &b.plan
	p.todo = append(p.only, p.todo...)
	sizes := b.sizes(p.buckets)
	n, sum := 0, 0
	for n < len(p.todo) && (n == 0 || sum+sizes[p.todo[n]] <= b.chunk) {
		sum += sizes[p.todo[n]]
		n++
	}
	p.only, p.todo = slices.Clone(p.todo[:n]), p.todo[n:]
}

func (b *Inbox) sizes(buckets int) []int {
	sizes := make([]int, buckets)
	for _, c := range b.conversations {
		if c.known {
			sizes[c.bucket(buckets)]++
		}
	}
	return sizes
}

func (c *conversation) bucket(buckets int) int { return int(c.number % uint64(buckets)) }

// cursors of the known conversations in these buckets, or of all.
func (b *Inbox) cursors(only []int) []Cursor {
	wanted := make([]bool, b.plan.buckets)
	for _, n := range only {
		wanted[n] = true
	}
	b.plan.asked = map[string]int64{}
	var list []Cursor
	for id, c := range b.conversations {
		if !c.known || (only != nil && !wanted[c.bucket(b.plan.buckets)]) {
			continue
		}
		b.plan.asked[id] = c.cursor
		k := Cursor{Conversation: id, Seq: c.cursor, ReadSeq: noRead}
		switch {
		case !b.reads || !b.modern:
		case c.read.known:
			k.ReadSeq = c.read.seq
		default:
			k.ReadSeq = askRead
		}
		list = append(list, k)
	}
	return list
}

func (b *Inbox) digests() []Digest {
	list := make([]Digest, b.plan.buckets)
	for _, c := range b.conversations {
		if !c.known {
			continue
		}
		d := &list[c.bucket(b.plan.buckets)]
		d.Conversations++
		d.IDs += c.number % idModulus
		d.Seqs += uint64(c.cursor)
		d.Reads += uint64(c.read.seq)
	}
	return list
}

// urgent are the buckets to ask for whatever their digests say: messages are held back in them, or
// read positions are unknown.
func (b *Inbox) urgent(buckets int) []int {
	found := map[int]bool{}
	for _, c := range b.conversations {
		if len(c.early) > 0 || (b.reads && c.known && !c.read.known) {
			found[c.bucket(buckets)] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Page takes the answer to the last Request. more: ask again; progress: something was new, without
// which asking again is of no use.
func (b *Inbox) Page(a Answer) (progress, more bool) {
	p := &b.plan
	if p.buckets > 0 && !p.compared {
		p.compared = true
		todo := slices.Concat(a.Stale, b.urgent(p.buckets))
		slices.Sort(todo)
		p.todo = slices.DeleteFunc(slices.Compact(todo), func(n int) bool { return n < 0 || n >= p.buckets })
		return true, len(p.todo) > 0
	}
	for i := range a.Deltas {
		progress = b.delta(&a.Deltas[i]) || progress
	}
	for _, id := range a.Gone {
		progress = b.gone(id) || progress
	}
	if a.More {
		return progress, true
	}
	p.only = nil
	return true, len(p.todo) > 0
}

// delta takes what an answer says of one conversation, and reports whether it was new.
func (b *Inbox) delta(d *Delta) bool {
	c := b.conversation(d.Conversation)
	known, cursor, position := c.known, c.cursor, c.read
	b.open(d.Conversation, c, d.Peer, d.Group)
	b.messages(d, c)
	asked := b.plan.asked[d.Conversation]
	if last := max(d.LastSeq, d.JoinedSeq); asked > last && c.cursor == asked {
		b.setBack(d.Conversation, c, last)
	}
	reached := max(asked, d.JoinedSeq)
	if n := len(d.Messages); n > 0 {
		reached = d.Messages[n-1].Seq
	}
	if b.modern && reached >= d.LastSeq {
		b.position(d.Conversation, c, ReadPosition{Seq: d.ReadSeq, Unread: d.Unread, LastSeq: d.LastSeq}, false)
	}
	return !known || c.cursor != cursor || c.read.known != position.known || c.read.seq != position.seq
}

// messages puts the messages of one conversation. The server leaves nothing out that the account
// may read, so a gap before a message is no loss but a time in which the account was no member.
func (b *Inbox) messages(d *Delta, c *conversation) {
	b.skip(d.Conversation, c, d.JoinedSeq)
	for i := range d.Messages {
		m := &d.Messages[i]
		if m.Seq > c.cursor+1 {
			b.skip(d.Conversation, c, m.Seq-1)
		}
		if b.put(m); c.cursor < m.Seq {
			return // no room: the rest comes with another sync
		}
	}
}

// gone forgets a conversation that the account does not belong to any more. If its cursor has moved
// since the server was asked, the account has come back meanwhile.
func (b *Inbox) gone(id string) bool {
	c := b.conversations[id]
	asked, ok := b.plan.asked[id]
	if c == nil || !ok || !c.known || c.cursor != asked {
		return false
	}
	b.forget(id, c)
	return true
}
