package storagetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hermod-im/hermod/storage"
)

// world is what a client should end up with: the conversations of a few accounts, of which me is the client's.
type world struct {
	*rapid.T
	s     MessageStore
	me    string
	all   []string
	rooms []*room
	byID  map[int64]*room
	client
}

// room is one conversation.
type room struct {
	id           int64
	group        string // its id; "" in a conversation of two
	peer         string
	said         []storage.Message
	joined, read map[string]int64 // of the members
}

func newWorld(t *rapid.T, s MessageStore, number int64) *world {
	w := &world{T: t, s: s, byID: make(map[int64]*room)}
	for i := range 4 {
		w.all = append(w.all, fmt.Sprintf("account %d of %d", i, number))
	}
	w.me = w.all[0]
	w.client = *newClient(w.me)
	w.noReads = rapid.Bool().Draw(t, "keeps no read positions")
	return w
}

func (w *world) room(r *room) *room {
	if known := w.byID[r.id]; known != nil {
		return known
	}
	r.joined, r.read = make(map[string]int64), make(map[string]int64)
	w.rooms = append(w.rooms, r)
	w.byID[r.id] = r
	return r
}

func (w *world) account() string { return rapid.SampledFrom(w.all).Draw(w.T, "account") }

func (w *world) anyRoom() *room {
	if len(w.rooms) == 0 {
		return nil
	}
	return rapid.SampledFrom(w.rooms).Draw(w.T, "room")
}

func (w *world) talk() {
	from, to := w.account(), w.account()
	r := w.room(&room{id: w.say(from, storage.KindUser, to), peer: to})
	for _, a := range []string{from, to} {
		r.joined[a] = 0
		r.read[a] += 0
	}
}

// say stores some messages and returns their conversation.
func (w *world) say(sender string, kind storage.Kind, dest string) int64 {
	drafts := make([]*storage.Draft, rapid.IntRange(1, 5).Draw(w.T, "messages"))
	for i := range drafts {
		drafts[i] = draft(sender, dest, "")
		drafts[i].Kind, drafts[i].SendTime = kind, 1
	}
	require.NoError(w, w.s.Append(w.Context(), drafts))
	id := drafts[0].Conversation
	r := w.room(&room{id: id, peer: dest})
	for _, d := range drafts {
		require.NoError(w, d.Err)
		require.EqualValues(w, len(r.said)+1, d.Seq)
		r.said = append(r.said, message(d))
	}
	return id
}

func (w *world) groups() []*room {
	return slices.DeleteFunc(slices.Clone(w.rooms), func(r *room) bool { return r.group == "" })
}

func (w *world) sayInGroup() {
	groups := w.groups()
	if len(groups) == 0 {
		return
	}
	r := rapid.SampledFrom(groups).Draw(w.T, "group")
	if len(r.joined) > 0 {
		w.say(rapid.SampledFrom(slices.Sorted(maps.Keys(r.joined))).Draw(w.T, "sender"), storage.KindGroup, r.group)
	}
}

func (w *world) createGroup() {
	g := storage.Group{App: "app", Owner: w.account(), Members: []storage.Member{{Account: w.account()}}}
	id, err := w.s.CreateGroup(w.Context(), g, storage.GroupLimits{})
	require.NoError(w, err)
	number, err := strconv.ParseInt(id, 10, 64)
	require.NoError(w, err)
	r := w.room(&room{id: number, group: id})
	for _, a := range []string{g.Owner, g.Members[0].Account} {
		r.joined[a], r.read[a] = 0, 0
	}
}

// joinOrQuit does what the account may.
func (w *world) joinOrQuit() {
	groups := w.groups()
	if len(groups) == 0 {
		return
	}
	r, a := rapid.SampledFrom(groups).Draw(w.T, "group"), w.me
	if rapid.IntRange(0, 3).Draw(w.T, "who") == 0 {
		a = w.account()
	}
	if _, member := r.joined[a]; member {
		_, err := w.s.Quit(w.Context(), "app", r.group, a)
		require.NoError(w, err)
		delete(r.joined, a)
		delete(r.read, a)
		return
	}
	_, err := w.s.Join(w.Context(), "app", r.group, a, storage.GroupLimits{})
	require.NoError(w, err)
	r.joined[a], r.read[a] = int64(len(r.said)), int64(len(r.said))
}

// unread counts as the protocol defines it.
func (r *room) unread(account string) (n int64) {
	for _, m := range r.said[r.read[account]:] {
		if m.Sender != account {
			n++
		}
	}
	return n
}

func (w *world) markRead() {
	r := w.anyRoom()
	if r == nil {
		return
	}
	seq := rapid.Int64Range(-1, int64(len(r.said))+2).Draw(w.T, "read")
	at, moved, err := w.s.Read(w.Context(), "app", w.me, r.id, seq)
	was, member := r.read[w.me]
	if !member {
		require.ErrorIs(w, err, storage.ErrNotMember)
		return
	}
	require.NoError(w, err)
	r.read[w.me] = max(was, min(seq, int64(len(r.said))))
	require.Equal(w, r.read[w.me] > was, moved)
	require.Equal(w, storage.Position{ReadSeq: r.read[w.me], Unread: r.unread(w.me), LastSeq: int64(len(r.said))}, at)
}

// sync is one call of the client: of everything or of what is stale, one page or all of it.
func (w *world) sync() {
	var scope storage.Scope
	if rapid.Bool().Draw(w.T, "by digests") {
		scope.Buckets = rapid.Uint32Range(1, 9).Draw(w.T, "buckets")
		stale, err := w.s.Stale(w.Context(), "app", w.me, w.digests(int(scope.Buckets)))
		require.NoError(w, err)
		require.Equal(w, w.differing(scope.Buckets), stale)
		if len(stale) == 0 {
			return
		}
		// The stale ones that are asked for, in any order.
		scope.Only = rapid.Permutation(stale).Draw(w.T, "only")[:rapid.IntRange(1, len(stale)).Draw(w.T, "some")]
	}
	limit := rapid.IntRange(1, 12).Draw(w.T, "limit")
	for range rapid.IntRange(1, 4).Draw(w.T, "pages") {
		if !w.page(w.T, w.s, scope, limit).More {
			w.check(scope)
			return
		}
	}
}

// differs reports whether the client has the conversation otherwise than the account.
func (w *world) differs(id int64) bool {
	h, r := w.has[id], w.byID[id]
	_, member := r.joined[w.me]
	if h == nil || !member {
		return member || h != nil
	}
	return h.seq != int64(len(r.said)) || !w.noReads && h.read != r.read[w.me]
}

func (w *world) differing(buckets uint32) (out []uint32) {
	for id := range w.byID {
		if w.differs(id) {
			out = append(out, uint32(id%int64(buckets)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// check that the client has what it may read in the scope, and nothing else.
func (w *world) check(scope storage.Scope) {
	for id, r := range w.byID {
		if !scope.Has(id) {
			continue
		}
		require.False(w, w.differs(id), "conversation %d: %+v, %+v", id, w.has[id], r)
		h := w.has[id]
		if h == nil {
			continue
		}
		for _, m := range r.said[r.joined[w.me]:] {
			require.Equal(w, m, h.messages[m.Seq])
		}
		if !w.noReads { // otherwise it may not have heard of the last reading
			require.Equal(w, r.unread(w.me), h.unread)
		}
	}
}

// A client that syncs in any way between anything that may happen has what it may read.
func testSyncConverges(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	var number atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, s, number.Add(1))
		steps := []func(){w.talk, w.createGroup, w.sayInGroup, w.joinOrQuit, w.joinOrQuit, w.markRead, w.sync}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")]()
		}
		w.syncFully(t, s)
		w.check(storage.Scope{})
		require.Empty(t, w.differing(1))
	})
}

// The same while everything happens at the same time, on two nodes.
func testSyncWhileAllMoves(t *testing.T, open MessagesFactory) {
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	const rounds = 60
	var groups []string
	for range 6 {
		groups = append(groups, group(t, nodes[0], "bob", "alice", "carol"))
	}
	var done atomic.Int32
	var wg sync.WaitGroup
	during := func(f func(s MessageStore, group string) error) {
		done.Add(1)
		wg.Go(func() {
			defer done.Add(-1)
			for range rounds {
				if err := f(nodes[rand.IntN(2)], groups[rand.IntN(len(groups))]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, sender := range []string{"bob", "carol"} {
		during(func(s MessageStore, group string) error {
			return s.Append(t.Context(), []*storage.Draft{
				groupDraft(sender, group, "1"), draft(sender, "alice", "2"), groupDraft(sender, group, "3"),
				draft("alice", sender, "4"), draft(sender, fmt.Sprint("nobody", rand.IntN(50)), "5"),
				draft("alice", fmt.Sprint("somebody", rand.IntN(50)), "6"),
			})
		})
	}
	during(func(s MessageStore, group string) error {
		_, _, err := s.Read(t.Context(), "app", "alice", groupNumber(t, group), rand.Int64N(100))
		return unless(err, storage.ErrNotMember)
	})
	during(func(s MessageStore, group string) error {
		if _, err := s.Quit(t.Context(), "app", group, "alice"); err != nil {
			return unless(err, storage.ErrNotMember)
		}
		_, err := s.Join(t.Context(), "app", group, "alice", storage.GroupLimits{})
		return unless(err, storage.ErrAlreadyMember)
	})
	c := newClient("alice")
	for done.Load() > 0 && !t.Failed() {
		var scope storage.Scope
		if rand.IntN(2) == 0 {
			scope.Buckets = 1 + rand.Uint32N(10)
			var err error
			scope.Only, err = nodes[0].Stale(t.Context(), "app", "alice", c.digests(int(scope.Buckets)))
			require.NoError(t, err)
		}
		c.page(t, nodes[rand.IntN(2)], scope, 1+rand.IntN(40))
	}
	wg.Wait()
	c.syncFully(t, nodes[0])
	stale, err := nodes[1].Stale(t.Context(), "app", "alice", c.digests(7))
	require.NoError(t, err)
	require.Empty(t, stale)
	require.GreaterOrEqual(t, len(c.has), 2)
	for id, h := range c.has {
		d := history(t, nodes[1], "alice", storage.Range{Conversation: id, Limit: 1 << 20})
		require.Equal(t, []int64{d.LastSeq, d.ReadSeq}, []int64{h.seq, h.read})
		unread := int64(0)
		for _, m := range d.Messages {
			require.Equal(t, m, h.messages[m.Seq])
			if m.Seq > d.ReadSeq && m.Sender != "alice" {
				unread++
			}
		}
		require.Equal(t, unread, h.unread)
	}
}

func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
