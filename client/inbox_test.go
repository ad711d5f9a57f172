package client

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a server's conversations and a client's inbox, with a network between that delays,
// doubles, reorders and loses.
type world struct {
	t     *rapid.T
	inbox *Inbox
	// stored are the messages of each conversation; seq n is at n-1.
	stored map[string][]Message
	joined map[string]int64
	// flying are pushes and answers that may arrive in any order.
	flying []flying
	// lost: a push was dropped, and the server owes a hint.
	lost bool
	sync *syncAnswer
	// heard is what the application got; saved are the cursors it was told to keep.
	heard map[string][]int64
	saved map[string]int64
	// mine are the seqs that this client sent and saw answered.
	silent map[string]map[int64]bool
	ids    int
}

type flying struct {
	m      Message
	answer bool
}

// syncAnswer is a sync under way: its next answer was made and travels.
type syncAnswer struct {
	deltas []Delta
	more   bool
}

const me, limit, page = "me", 12, 4

func newWorld(t *rapid.T, echo bool) *world {
	w := &world{
		t: t, stored: map[string][]Message{}, joined: map[string]int64{}, heard: map[string][]int64{},
		saved: map[string]int64{}, silent: map[string]map[int64]bool{},
	}
	cursors := map[string]int64{}
	for _, id := range []string{"a", "b", "c"} {
		w.silent[id] = map[int64]bool{}
		// Some conversations have a past: before the account joined, or read in an earlier run.
		for range rapid.IntRange(0, 3).Draw(t, "past") {
			w.append(id, "other", "")
		}
		n := int64(len(w.stored[id]))
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 1:
			w.joined[id] = n
		case 2:
			if n > 0 {
				cursors[id] = n
			}
			w.joined[id] = n // the model's word for: nothing up to here is heard
		}
	}
	w.inbox = NewInbox(InboxOptions{Limit: limit, Page: page, Echo: echo})
	w.inbox.Restore(cursors)
	w.inbox.Account = me
	w.inbox.Connected()
	return w
}

func (w *world) append(id, sender, clientID string) Message {
	m := Message{Conversation: id, Seq: int64(len(w.stored[id]) + 1), Sender: sender, ClientID: clientID}
	w.stored[id] = append(w.stored[id], m)
	return m
}

func (w *world) conversation() string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(w.t, "conversation")
}

// answerSync makes the server's answer to the next page: fair, at most page messages.
func (w *world) answerSync() {
	cursors, left, s := w.inbox.Cursors(), page, &syncAnswer{}
	for _, id := range []string{"a", "b", "c"} {
		from := max(cursors[id], w.joined[id])
		all := w.stored[id][min(from, int64(len(w.stored[id]))):]
		if len(all) == 0 {
			continue
		}
		n := min(left, len(all))
		s.more = s.more || n < len(all)
		if n > 0 {
			s.deltas = append(s.deltas, Delta{Conversation: id, JoinedSeq: w.joined[id], Messages: slices.Clone(all[:n])})
		}
		left -= n
	}
	w.sync = s
}

func (w *world) receiveSync() {
	s := w.sync
	w.sync = nil
	w.inbox.Page(s.deltas)
	switch {
	case !s.more:
		w.inbox.End()
	case w.inbox.SyncWanted() == WantNow || !w.inbox.room(page):
		w.inbox.Fail() // as the client does when there is no room for another page
	default:
		w.answerSync()
	}
}

func (w *world) maybeSync() {
	if w.sync == nil && w.inbox.SyncWanted() != WantNothing {
		w.inbox.Begin()
		w.answerSync()
	}
}

func (w *world) arrive(i int) {
	f := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	if f.answer {
		w.silent[f.m.Conversation][f.m.Seq] = true
		w.inbox.Sent(f.m)
		return
	}
	w.inbox.Push(f.m)
}

func (w *world) consume() bool {
	d, ok := w.inbox.Next()
	if !ok {
		return false
	}
	if d.Message != nil {
		w.heard[d.Conversation] = append(w.heard[d.Conversation], d.Message.Seq)
		if d.Through < d.Message.Seq {
			w.t.Fatalf("message %d is saved as %d", d.Message.Seq, d.Through)
		}
	}
	if d.Conversation != "" {
		if d.Through <= w.saved[d.Conversation] {
			w.t.Fatalf("cursor of %s goes from %d to %d", d.Conversation, w.saved[d.Conversation], d.Through)
		}
		w.saved[d.Conversation] = d.Through
	}
	return true
}

func (w *world) actions() map[string]func(*rapid.T) {
	pick := func(t *rapid.T) int {
		if len(w.flying) == 0 {
			t.Skip("nothing is under way")
		}
		return rapid.IntRange(0, len(w.flying)-1).Draw(t, "which")
	}
	return map[string]func(*rapid.T){
		"someone talks": func(*rapid.T) {
			w.flying = append(w.flying, flying{m: w.append(w.conversation(), "other", "")})
		},
		"another device of mine talks": func(*rapid.T) {
			w.flying = append(w.flying, flying{m: w.append(w.conversation(), me, fmt.Sprint("other-", w.ids))})
			w.ids++
		},
		"I talk": func(t *rapid.T) {
			id := fmt.Sprint("own-", w.ids)
			w.ids++
			if !w.inbox.Talking(id) {
				return
			}
			w.flying = append(w.flying, flying{m: w.append(w.conversation(), me, id), answer: true})
		},
		"arrives":   func(t *rapid.T) { w.arrive(pick(t)) },
		"arrives 2": func(t *rapid.T) { w.arrive(pick(t)) },
		"is doubled": func(t *rapid.T) {
			if i := pick(t); !w.flying[i].answer {
				w.flying = append(w.flying, w.flying[i])
			}
		},
		"is lost": func(t *rapid.T) {
			if i := pick(t); !w.flying[i].answer {
				w.flying = slices.Delete(w.flying, i, i+1)
				w.lost = true
			}
		},
		"hint": func(*rapid.T) {
			w.lost = false
			w.inbox.Hint()
		},
		"reconnect": func(*rapid.T) {
			// Pushes under way are gone; answers come on the new connection, to the same client id.
			w.flying = slices.DeleteFunc(w.flying, func(f flying) bool { return !f.answer })
			if w.sync != nil {
				w.sync = nil
				w.inbox.Fail()
			}
			w.inbox.Connected()
		},
		"sync begins": func(*rapid.T) { w.maybeSync() },
		"sync answer": func(t *rapid.T) {
			if w.sync == nil {
				t.Skip("no sync")
			}
			w.receiveSync()
		},
		"application": func(t *rapid.T) {
			for range rapid.IntRange(1, 6).Draw(t, "messages") {
				w.consume()
			}
		},
		"": func(t *rapid.T) { w.check(t) },
	}
}

// check: whatever has happened, the application heard an unbroken sequence.
func (w *world) check(t *rapid.T) {
	for id, seqs := range w.heard {
		want := w.expected(id)
		if len(seqs) > len(want) || !slices.Equal(seqs, want[:len(seqs)]) {
			t.Fatalf("conversation %s: heard %v of %v", id, seqs, want)
		}
	}
	if w.inbox.queue.len > limit || w.inbox.held > limit {
		t.Fatalf("%d wait, %d are held, the limit is %d", w.inbox.queue.len, w.inbox.held, limit)
	}
	var counted [2]int
	gaps := 0
	for _, c := range w.inbox.conversations {
		for _, e := range c.early {
			if e.silent {
				counted[1]++
			} else {
				counted[0]++
			}
		}
		if len(c.early) > 0 {
			gaps++
		}
	}
	if counted != [2]int{w.inbox.held, w.inbox.silent} || gaps != w.inbox.gaps {
		t.Fatalf("counts %d and %d held in %d, has %v in %d", w.inbox.held, w.inbox.silent, w.inbox.gaps, counted, gaps)
	}
}

func (w *world) expected(id string) []int64 {
	var want []int64
	for _, m := range w.stored[id][w.joined[id]:] {
		if w.inbox.echo || m.Sender != me || m.ClientID[:4] != "own-" {
			want = append(want, m.Seq)
		}
	}
	return want
}

// settle lets everything arrive: then nothing may be missing.
func (w *world) settle() {
	for len(w.flying) > 0 {
		w.arrive(0)
	}
	if w.lost {
		w.inbox.Hint()
	}
	for range 10_000 {
		for w.consume() {
		}
		if w.sync != nil {
			w.receiveSync()
			continue
		}
		if w.maybeSync(); w.sync == nil {
			return
		}
	}
	w.t.Fatal("the syncs do not end")
}

// TestInbox: any order, repetition and loss; the application hears every message once, in order.
func TestInbox(t *testing.T) {
	for _, echo := range []bool{false, true} {
		t.Run(fmt.Sprintf("echo=%v", echo), rapid.MakeCheck(func(t *rapid.T) {
			w := newWorld(t, echo)
			t.Repeat(w.actions())
			w.settle()
			for id := range w.stored {
				if want := w.expected(id); !slices.Equal(w.heard[id], want) {
					t.Fatalf("conversation %s: heard %v, want %v", id, w.heard[id], want)
				}
				if last := int64(len(w.stored[id])); w.saved[id] != last && w.joined[id] != last {
					t.Fatalf("conversation %s: the saved cursor is %d of %d", id, w.saved[id], last)
				}
			}
			w.check(t)
		}))
	}
}
