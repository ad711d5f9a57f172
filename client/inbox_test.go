package client

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// world is a server's conversations and a client's inbox, with a network between that delays,
// doubles, reorders and loses.
type world struct {
	t     *rapid.T
	inbox *Inbox
	rooms map[string]*room
	// flying are pushes and answers that may arrive in any order.
	flying []flying
	// lost: a push was dropped, and the server owes a hint.
	lost bool
	// answer of a sync under way travels; nil: there is none.
	answer *Answer
	ids    int
}

// room is a conversation: the server's, and what the application heard of it.
type room struct {
	stored []Message // seq n is at n-1
	member bool
	joined int64 // the seq before the first message that may be read, since the last joining
	read   int64
	// readable are the messages that were said while the account was a member, quit that it was not
	// always: then some of them may have been missed.
	readable map[int64]bool
	quit     bool

	heard  []int64
	open   bool // the application was told
	begin  int64
	saved  int64 // -1: no cursor is kept
	marked int64 // the last read position that it was told
}

type flying struct {
	push    *Message
	sent    *Message // the answer to a talk
	read    *ReadPosition
	mine    bool // of read: the answer to this device
	reading string
}

const me, limit, page = "me", 12, 4

var roomIDs = []string{"1", "2", "3", "4", "5", "6"}

func newWorld(t *rapid.T, echo bool) *world {
	w := &world{t: t, rooms: map[string]*room{}}
	cursors := map[string]int64{}
	for _, id := range roomIDs {
		r := &room{readable: map[int64]bool{}, saved: -1}
		w.rooms[id] = r
		// Some conversations have a past: before the account joined, or read in an earlier run.
		r.member = true
		for range rapid.IntRange(0, 3).Draw(t, "past") {
			w.append(id, "other", "")
		}
		n := int64(len(r.stored))
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 1:
			r.joined, r.read, r.begin = n, n, n
			clear(r.readable)
		case 2:
			cursors[id], r.saved, r.open, r.begin = n, n, true, n
			r.read = int64(rapid.IntRange(0, int(n)).Draw(t, "read"))
		case 3:
			r.member, r.quit = false, true
			clear(r.readable)
			if rapid.Bool().Draw(t, "left since") {
				cursors[id], r.saved, r.open, r.begin = n, n, true, n
			}
		}
	}
	w.inbox = NewInbox(InboxOptions{Limit: limit, Page: page, Chunk: 2, Echo: echo, Reads: true})
	w.inbox.few, w.inbox.counts, w.inbox.size = 2, []int{2, 3}, 2
	w.inbox.Restore(cursors)
	w.inbox.Account = me
	w.connect()
	return w
}

// connect begins a connection: some servers know digests, some do not.
func (w *world) connect() { w.connected(rapid.IntRange(0, 3).Draw(w.t, "server") > 0) }

func (w *world) connected(modern bool) {
	if w.answer != nil { // it was for the old connection
		w.answer = nil
		w.inbox.Fail()
	}
	w.inbox.Connected(modern)
}

func (w *world) append(id, sender, clientID string) *Message {
	r := w.rooms[id]
	m := Message{Conversation: id, Group: id, Seq: int64(len(r.stored) + 1), Sender: sender, ClientID: clientID}
	r.stored = append(r.stored, m)
	if r.member {
		r.readable[m.Seq] = true
	}
	return &m
}

// someone is a conversation; one that the account belongs to, if member.
func (w *world) someone(member bool) string {
	list := slices.DeleteFunc(slices.Clone(roomIDs), func(id string) bool { return member && !w.rooms[id].member })
	if len(list) == 0 {
		w.t.Skip("in no conversation")
	}
	return rapid.SampledFrom(list).Draw(w.t, "conversation")
}

// unread counts the messages of others in (from, to].
func (r *room) unread(from, to int64) (n int64) {
	for _, m := range r.stored[:to] {
		if m.Seq > from && m.Sender != me {
			n++
		}
	}
	return n
}

func (r *room) last() int64 { return int64(len(r.stored)) }

// position is where the server says that the account has read to.
func (r *room) position() ReadPosition {
	return ReadPosition{Seq: r.read, Unread: r.unread(max(r.read, r.joined), r.last()), LastSeq: r.last()}
}

// serve makes the server's answer to the next request of a sync.
func (w *world) serve() {
	req := w.inbox.Request()
	if len(req.Digests) > 0 {
		w.answer = &Answer{Stale: w.stale(req)}
		return
	}
	modern := w.inbox.modern
	if !modern && (req.Buckets != 0 || len(req.Only) > 0) {
		w.t.Fatal("an old server is asked about buckets")
	}
	cursors := map[string]Cursor{}
	a := &Answer{}
	for _, k := range req.Cursors {
		cursors[k.Conversation] = k
		if !modern && k.ReadSeq != noRead {
			w.t.Fatal("an old server is told a read position")
		}
		if len(req.Only) > 0 && !slices.Contains(req.Only, bucketOf(k.Conversation, req.Buckets)) {
			w.t.Fatalf("the cursor of %s is in none of the buckets %v of %d", k.Conversation, req.Only, req.Buckets)
		}
		if modern && !w.rooms[k.Conversation].member {
			a.Gone = append(a.Gone, k.Conversation)
		}
	}
	left := page
	for _, id := range roomIDs {
		r := w.rooms[id]
		if !r.member || (len(req.Only) > 0 && !slices.Contains(req.Only, bucketOf(id, req.Buckets))) {
			continue
		}
		k, named := cursors[id]
		all := r.stored[min(max(k.Seq, r.joined), r.last()):]
		moved := named && k.ReadSeq != noRead && k.ReadSeq != r.read
		if len(all) == 0 && (!modern || named && !moved && k.Seq >= r.joined) {
			continue
		}
		n := min(left, len(all))
		if left == 0 {
			a.More = true
			continue
		}
		left -= max(1, n)
		d := Delta{Conversation: id, Group: id, LastSeq: r.last(), JoinedSeq: r.joined, Messages: slices.Clone(all[:n])}
		if modern {
			at := r.position()
			if d.ReadSeq = at.Seq; n == len(all) {
				d.Unread = at.Unread
			}
		}
		a.More = a.More || n < len(all)
		a.Deltas = append(a.Deltas, d)
	}
	w.answer = a
}

func bucketOf(id string, buckets int) int {
	n, _ := strconv.Atoi(id)
	return n % buckets
}

// stale compares digests.
func (w *world) stale(req Request) (stale []int) {
	if len(req.Digests) != req.Buckets || len(req.Cursors)+len(req.Only) > 0 || req.NoReads {
		w.t.Fatalf("asked %+v", req)
	}
	have := make([]Digest, req.Buckets)
	for _, id := range roomIDs {
		if r := w.rooms[id]; r.member {
			n, _ := strconv.Atoi(id)
			d := &have[n%req.Buckets]
			d.Conversations++
			d.IDs += uint64(n)
			d.Seqs += uint64(r.last())
			d.Reads += uint64(r.read)
		}
	}
	for i, d := range req.Digests {
		if d != have[i] {
			stale = append(stale, i)
		}
	}
	return stale
}

// received takes the answer, as the client does.
func (w *world) received() {
	a := w.answer
	w.answer = nil
	progress, more := w.inbox.Page(*a)
	switch {
	case !more:
		w.inbox.End()
	case !w.inbox.roomForPage():
		w.inbox.Fail()
	case !progress:
		w.t.Fatalf("no progress with %+v", *a)
	default:
		w.serve()
	}
}

func (w *world) maybeSync() {
	if w.answer == nil && w.inbox.SyncWanted() != WantNothing {
		w.inbox.Begin()
		w.serve()
	}
}

func (w *world) arrive(i int) {
	f := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	switch {
	case f.sent != nil:
		w.inbox.Sent(*f.sent)
	case f.push != nil:
		w.inbox.Push(*f.push)
	default:
		w.inbox.ReadTo(f.reading, *f.read, f.mine)
	}
}

// consume is the application: it handles one delivery.
func (w *world) consume() bool {
	d, ok := w.inbox.Next()
	if !ok {
		return false
	}
	r := w.rooms[d.Conversation]
	switch {
	case d.Change == Opened:
		if r.open {
			w.t.Fatalf("%s is opened again", d.Conversation)
		}
		r.open = true
	case d.Change == Gone:
		if !r.open || !r.quit {
			w.t.Fatalf("%s is gone", d.Conversation)
		}
		r.open, r.saved = false, -1
	case d.Change == Read:
		if !r.open || !d.State.Counted || (d.State.ReadSeq < r.marked && !r.quit) {
			w.t.Fatalf("%s is read to %+v after %d", d.Conversation, d.State, r.marked)
		}
		r.marked = d.State.ReadSeq
	default:
		if d.Message != nil {
			if !r.open {
				w.t.Fatalf("message %d of %s, which is not open", d.Message.Seq, d.Conversation)
			}
			r.heard = append(r.heard, d.Message.Seq)
		}
		if d.Through < r.saved || (d.Message != nil && d.Through < d.Message.Seq) {
			w.t.Fatalf("cursor of %s goes from %d to %d", d.Conversation, r.saved, d.Through)
		}
		r.saved = d.Through
		// What the cursor has passed was heard, or it never will be.
		if want := w.expected(r, d.Through); !r.quit && !slices.Equal(want, r.heard) {
			w.t.Fatalf("cursor of %s is %d: heard %v of %v", d.Conversation, d.Through, r.heard, want)
		}
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
	push := func(id string, m *Message) {
		if w.rooms[id].member {
			w.flying = append(w.flying, flying{push: m})
		}
	}
	return map[string]func(*rapid.T){
		"someone talks": func(*rapid.T) {
			id := w.someone(false)
			push(id, w.append(id, "other", ""))
		},
		"someone talks to me": func(*rapid.T) {
			id := w.someone(true)
			push(id, w.append(id, "other", ""))
		},
		"another device of mine talks": func(*rapid.T) {
			id := w.someone(true)
			push(id, w.append(id, me, fmt.Sprint("other-", w.ids)))
			w.ids++
		},
		"I talk": func(t *rapid.T) {
			id, clientID := w.someone(true), fmt.Sprint("own-", w.ids)
			w.ids++
			if !w.inbox.MayTalk() {
				return
			}
			w.inbox.Talking(key{dest{group: id}, clientID})
			w.flying = append(w.flying, flying{sent: w.append(id, me, clientID)})
		},
		"another device of mine reads": func(t *rapid.T) {
			id := w.someone(true)
			r := w.rooms[id]
			if to := int64(rapid.IntRange(0, len(r.stored)).Draw(t, "to")); to > r.read {
				r.read = to
				at := r.position()
				// It may have been counted before the last messages were stored.
				at.LastSeq = int64(rapid.IntRange(int(max(to, r.joined)), len(r.stored)).Draw(t, "counted at"))
				at.Unread = r.unread(max(to, r.joined), at.LastSeq)
				w.flying = append(w.flying, flying{reading: id, read: &at})
			}
		},
		"I read": func(t *rapid.T) {
			id := w.someone(true)
			r := w.rooms[id]
			to := int64(rapid.IntRange(0, len(r.stored)).Draw(t, "to"))
			r.read = max(r.read, to)
			at := r.position()
			w.flying = append(w.flying, flying{reading: id, read: &at, mine: to >= at.Seq})
		},
		"I am in and out": func(*rapid.T) {
			r := w.rooms[w.someone(false)]
			r.quit = true
			if r.member = !r.member; r.member {
				r.joined, r.read = r.last(), max(r.read, r.last())
			}
		},
		"arrives":   func(t *rapid.T) { w.arrive(pick(t)) },
		"arrives 2": func(t *rapid.T) { w.arrive(pick(t)) },
		"is doubled": func(t *rapid.T) {
			if i := pick(t); w.flying[i].sent == nil {
				w.flying = append(w.flying, w.flying[i])
			}
		},
		"is lost": func(t *rapid.T) {
			if i := pick(t); w.flying[i].sent == nil {
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
			w.flying = slices.DeleteFunc(w.flying, func(f flying) bool { return f.sent == nil && !f.mine })
			w.connect()
		},
		"move": func(*rapid.T) {
			// To another gateway: what the old one pushed may still arrive.
			w.connect()
		},
		"sync begins": func(*rapid.T) { w.maybeSync() },
		"sync answer": func(t *rapid.T) {
			if w.answer == nil {
				t.Skip("no sync")
			}
			w.received()
		},
		"application": func(t *rapid.T) {
			for range rapid.IntRange(1, 6).Draw(t, "deliveries") {
				w.consume()
			}
		},
		"": func(t *rapid.T) { w.check(t) },
	}
}

// check: whatever has happened, the application heard an unbroken sequence, and what is counted unread is exact.
func (w *world) check(t *rapid.T) {
	for id, r := range w.rooms {
		for i, seq := range r.heard {
			if !r.readable[seq] || i > 0 && seq <= r.heard[i-1] {
				t.Fatalf("conversation %s: heard %v", id, r.heard)
			}
		}
		if want := w.expected(r, r.last()); !r.quit && (len(r.heard) > len(want) || !slices.Equal(r.heard, want[:len(r.heard)])) {
			t.Fatalf("conversation %s: heard %v of %v", id, r.heard, want)
		}
		k, ok := w.inbox.Conversation(id)
		if !ok || !k.Counted || r.quit {
			continue
		}
		c := w.inbox.conversations[id]
		if k.ReadSeq > r.read {
			t.Fatalf("conversation %s: read to %d, really %d", id, k.ReadSeq, r.read)
		}
		if want := r.unread(max(k.ReadSeq, r.joined), max(c.read.through, c.cursor)); k.Unread != want {
			t.Fatalf("conversation %s: %d unread behind %d, want %d; %+v", id, k.Unread, k.ReadSeq, want, c.read)
		}
	}
	w.checkCounts(t)
}

func (w *world) checkCounts(t *rapid.T) {
	if w.inbox.queue.len > limit || w.inbox.held > limit {
		t.Fatalf("%d wait, %d are held, the limit is %d", w.inbox.queue.len, w.inbox.held, limit)
	}
	var counted [2]int
	gaps, known := 0, 0
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
		if c.known {
			known++
		}
	}
	if counted != [2]int{w.inbox.held, w.inbox.silent} || gaps != w.inbox.gaps || known != w.inbox.known {
		t.Fatalf("counts %d and %d held in %d of %d, has %v in %d of %d",
			w.inbox.held, w.inbox.silent, w.inbox.gaps, w.inbox.known, counted, gaps, known)
	}
}

// expected is what the application hears of a conversation that the account never quits.
func (w *world) expected(r *room, through int64) []int64 {
	var want []int64
	for _, m := range r.stored[:through] {
		if m.Seq > r.begin && (w.inbox.echo || m.Sender != me || m.ClientID[:4] != "own-") {
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
	w.connected(true)
	for range 10_000 {
		for w.consume() {
		}
		if w.answer != nil {
			w.received()
			continue
		}
		if w.maybeSync(); w.answer == nil {
			return
		}
	}
	w.t.Fatal("the syncs do not end")
}

// settled checks what must be so after everything has arrived.
func (w *world) settled(t *rapid.T) {
	for id, r := range w.rooms {
		if want := w.expected(r, r.last()); !r.quit && !slices.Equal(r.heard, want) {
			t.Fatalf("conversation %s: heard %v, want %v", id, r.heard, want)
		}
		k, known := w.inbox.Conversation(id)
		if known != r.member || r.open != r.member || !r.member && r.saved >= 0 {
			t.Fatalf("conversation %s: member %v, known %v, told %v, cursor %d", id, r.member, known, r.open, r.saved)
		}
		if !r.member {
			continue
		}
		for _, m := range r.stored[r.joined:] {
			if m.Sender == "other" && !slices.Contains(r.heard, m.Seq) && m.Seq > r.begin {
				t.Fatalf("conversation %s: %d is missing in %v", id, m.Seq, r.heard)
			}
		}
		if r.saved != r.last() {
			t.Fatalf("conversation %s: the saved cursor is %d of %d", id, r.saved, r.last())
		}
		if at := r.position(); !k.Counted || k.ReadSeq != at.Seq || k.Unread != at.Unread || k.Seq != r.last() {
			t.Fatalf("conversation %s is %+v, want %+v", id, k, at)
		}
	}
	w.check(t)
	// Nothing has changed: one small question says so.
	w.inbox.Hint()
	w.inbox.Begin()
	w.serve()
	if a := w.answer; a.More || len(a.Deltas)+len(a.Stale)+len(a.Gone) > 0 {
		t.Fatalf("a sync without news brings %+v", a)
	}
}

// TestInbox: any order, repetition and loss; the application hears every message once, in order.
func TestInbox(t *testing.T) {
	for _, echo := range []bool{false, true} {
		t.Run(fmt.Sprintf("echo=%v", echo), rapid.MakeCheck(func(t *rapid.T) {
			w := newWorld(t, echo)
			t.Repeat(w.actions())
			w.settle()
			w.settled(t)
		}))
	}
}

// A service that was restored from a backup is behind the client, whose cursor goes back with it: what is said from then on has
// seqs that the client knows already. One sync finds out, and another one brings what was pushed meanwhile.
func TestServerBehindClient(t *testing.T) {
	b := NewInbox(InboxOptions{Limit: limit, Page: 1, Chunk: 2, Reads: true})
	b.Restore(map[string]int64{"1": 9, "2": 8})
	b.Connected(true)
	b.Push(Message{Conversation: "1", Seq: 11, Sender: "before"}) // held back, and gone with the rest
	last := map[string]int64{"1": 5, "2": 5}
	said := func(id string) {
		last[id]++
		b.Push(Message{Conversation: id, Group: id, Seq: last[id], Sender: "since"})
	}
	for syncs := 0; b.SyncWanted() != WantNothing; syncs++ {
		if syncs == 2 {
			t.Fatal("it syncs for ever")
		}
		b.Begin()
		for more := true; more; {
			a := Answer{}
			for _, k := range b.Request().Cursors {
				d := Delta{Conversation: k.Conversation, Group: k.Conversation, LastSeq: last[k.Conversation], ReadSeq: 5}
				for seq := k.Seq + 1; seq <= d.LastSeq; seq++ {
					d.Messages = append(d.Messages, Message{Conversation: d.Conversation, Seq: seq, Sender: "since"})
				}
				if d.Unread = d.LastSeq - 5; len(d.Messages) == 0 && k.Seq == d.LastSeq {
					continue
				}
				if a.More = len(a.Deltas) == b.page; a.More {
					break
				}
				a.Deltas = append(a.Deltas, d)
			}
			if last["1"] == 5 && a.Deltas[0].Conversation == "1" {
				said("1") // seq 6, which the client has had, while the answer is on its way
			}
			var progress bool
			if progress, more = b.Page(a); more && !progress {
				t.Fatal("a page of conversations that are behind is no progress")
			}
		}
		b.End()
	}
	said("2")
	heard := map[string][]int64{}
	saved := map[string]int64{}
	for d, ok := b.Next(); ok; d, ok = b.Next() {
		if d.Message != nil {
			heard[d.Conversation] = append(heard[d.Conversation], d.Message.Seq)
		}
		if d.Change == Unchanged {
			saved[d.Conversation] = d.Through
		}
	}
	for id, c := range last {
		if k, _ := b.Conversation(id); !slices.Equal(heard[id], []int64{6}) || saved[id] != c || !k.Counted || k.Seq != c || k.Unread != 1 {
			t.Errorf("conversation %s is %+v, heard %v, saved %d", id, k, heard[id], saved[id])
		}
	}
}

// Pushes that fill the inbox while a page is on its way have the page dropped: that sync has not brought everything.
func TestCrowdedSyncIsNotComplete(t *testing.T) {
	b := NewInbox(InboxOptions{Limit: 4, Page: 2, Chunk: 2})
	b.Connected(true)
	sync := func() {
		t.Helper()
		if b.SyncWanted() != WantNow {
			t.Fatal("no sync is wanted")
		}
		b.Begin()
		b.Request()
	}
	page := Answer{Deltas: []Delta{{Conversation: "1", LastSeq: 2, Messages: []Message{{Conversation: "1", Seq: 1}, {Conversation: "1", Seq: 2}}}}}
	sync()
	for seq := range int64(4) {
		b.Push(Message{Conversation: "2", Seq: seq + 1})
	}
	b.Page(page)
	if b.End(); b.Complete() {
		t.Error("it is complete, though the page was dropped")
	}
	for _, ok := b.Next(); ok; _, ok = b.Next() {
	}
	sync()
	b.Page(page)
	if b.End(); !b.Complete() {
		t.Error("the next one is not complete")
	}
}
