package client

import (
	"maps"
	"slices"
)

// maxNews bounds what reading.news holds; it is halved then.
const maxNews = 256

// ReadPosition is where the account has read a conversation to, as a server counted it.
type ReadPosition struct {
	// Seq is the last message that was read.
	Seq int64
	// Unread is the number of messages of others beyond Seq, up to LastSeq.
	Unread, LastSeq int64
}

// reading is what is known of an account's reading of one conversation: the server's count up to a
// message, and the messages of others that were handed on behind it.
type reading struct {
	known   bool
	seq     int64
	unread  int64
	through int64
	// news are the seqs beyond through, ascending.
	news []int64
}

// pass notes a message in its turn.
func (r *reading) pass(seq int64, mine bool) {
	if seq == 1 && !r.known && r.seq == 0 && r.through == 0 {
		r.known = true // nothing was told, and all is seen from the beginning
	}
	if mine || seq <= r.through {
		return
	}
	if r.news = append(r.news, seq); len(r.news) > maxNews {
		half := len(r.news) / 2
		r.unread += int64(half)
		r.through = r.news[half-1]
		r.news = slices.Clone(r.news[half:])
	}
}

// update takes a position. One that is older changes nothing. One that moved, but was counted before
// a count that is part of the present one, leaves the number unknown: ok is false.
func (r *reading) update(p ReadPosition) (ok bool) {
	if p.Seq < r.seq || r.known && p.Seq == r.seq && p.LastSeq <= r.through {
		return r.known
	}
	if r.seq = p.Seq; p.LastSeq < r.through {
		r.known = false
		return false
	}
	r.known, r.unread, r.through = true, p.Unread, p.LastSeq
	n, _ := slices.BinarySearch(r.news, p.LastSeq+1)
	r.news = r.news[n:]
	return true
}

// ReadTo takes a position that the server has told. mine: this device has moved it. That of a
// conversation that is not known yet is kept until it is.
func (b *Inbox) ReadTo(id string, p ReadPosition, mine bool) {
	if b.modern {
		b.position(id, b.conversation(id), p, mine)
	}
}

func (b *Inbox) position(id string, c *conversation, p ReadPosition, mine bool) {
	if !b.reads {
		return
	}
	known, seq := c.read.known, c.read.seq
	if !c.read.update(p) {
		// Ask again, once: a server that was set back to a backup has no better answer.
		b.stale = b.stale || known
		return
	}
	if c.known && !mine && (!known || c.read.seq > seq) {
		b.change(id, c, Read)
	}
}

// Conversations returns all that are known, in no order.
func (b *Inbox) Conversations() []Conversation {
	list := make([]Conversation, 0, b.known)
	for id, c := range maps.All(b.conversations) {
		if c.known {
			list = append(list, b.state(id, c))
		}
	}
	return list
}

// Conversation returns one, if it is known.
func (b *Inbox) Conversation(id string) (Conversation, bool) {
	c := b.conversations[id]
	if c == nil || !c.known {
		return Conversation{}, false
	}
	return b.state(id, c), true
}

func (b *Inbox) state(id string, c *conversation) Conversation {
	s := Conversation{ID: id, Peer: c.peer, Group: c.group, Seq: c.cursor, Counted: c.read.known}
	if s.Counted {
		s.ReadSeq, s.Unread = c.read.seq, c.read.unread+int64(len(c.read.news))
	}
	return s
}
