package storagetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// lacks syncs as a client does that keeps no read positions.
func lacks(t testing.TB, s MessageStore, account string, cursors map[int64]int64, limit int) storage.News {
	t.Helper()
	q := storage.SyncQuery{Cursors: make(map[int64]storage.Cursor), Limit: limit}
	for id, seq := range cursors {
		q.Cursors[id] = storage.Cursor{Seq: seq, ReadSeq: storage.ReadUnknown}
	}
	news, err := s.Sync(t.Context(), "app", account, q)
	require.NoError(t, err)
	return news
}

func groupNumber(t testing.TB, id string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(id, 10, 64)
	require.NoError(t, err)
	return n
}

func testSync(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	bob, carol := talk(t, s, "alice", "bob", 4), talk(t, s, "carol", "alice", 3)
	id := group(t, s, "alice", "bob")
	said := put(t, s, groupDraft("bob", id, "in the group"))

	require.Equal(t, storage.News{Deltas: []storage.Delta{
		{Conversation: said[0].Conversation, Kind: storage.KindGroup, LastSeq: 1, Unread: 1, Messages: all(said)},
		{Conversation: carol[0].Conversation, Kind: storage.KindUser, Peer: "carol", LastSeq: 3, Unread: 3, Messages: all(carol)},
		{Conversation: bob[0].Conversation, Kind: storage.KindUser, Peer: "bob", LastSeq: 4, Messages: all(bob)},
	}}, lacks(t, s, "alice", nil, 100), "the most recent conversation first")

	cursors := map[int64]int64{bob[0].Conversation: 2, carol[0].Conversation: 3, said[0].Conversation: 1}
	news := lacks(t, s, "alice", cursors, 100)
	require.Equal(t, storage.News{Deltas: []storage.Delta{
		{Conversation: bob[0].Conversation, Kind: storage.KindUser, Peer: "bob", LastSeq: 4, Messages: all(bob[2:])},
	}}, news)

	// Another's conversation in the cursors gives nothing but that it is not one's own.
	cursors[12345] = 1
	news = lacks(t, s, "mallory", cursors, 100)
	require.Empty(t, news.Deltas)
	require.False(t, news.More)
	require.True(t, slices.IsSorted(news.Gone))
	require.ElementsMatch(t, []int64{12345, bob[0].Conversation, carol[0].Conversation, said[0].Conversation}, news.Gone)
	require.Empty(t, lacks(t, s, "alice", nil, 0).Deltas)
	require.True(t, lacks(t, s, "alice", nil, 0).More)
}

// A group in which nothing was said is news to a client that does not know it. A conversation of
// two in which nothing was said is not: nobody has begun it.
func testSyncEmptyGroups(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	var ids []int64
	for range 5 {
		ids = append(ids, groupNumber(t, group(t, s, "bob", "alice")))
	}
	first := lacks(t, s, "alice", nil, 2)
	require.True(t, first.More)
	require.Len(t, first.Deltas, 2, "each counts as one")
	cursors := make(map[int64]int64)
	for _, d := range first.Deltas {
		require.Equal(t, storage.Delta{Conversation: d.Conversation, Kind: storage.KindGroup}, d)
		cursors[d.Conversation] = 0
	}
	second := lacks(t, s, "alice", cursors, 3)
	require.False(t, second.More)
	for _, d := range second.Deltas {
		cursors[d.Conversation] = 0
	}
	for _, id := range ids {
		require.Contains(t, cursors, id)
	}
	require.Len(t, cursors, 5)
	require.Equal(t, storage.News{}, lacks(t, s, "alice", cursors, 1))
}

// A cursor that is not where it should be although there is no message for it: the client must
// learn that, or its digests differ for ever.
func testSyncCursorsElsewhere(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	id := group(t, s, "bob", "alice")
	n := groupNumber(t, id)
	put(t, s, groupDraft("bob", id, "1"), groupDraft("bob", id, "2"))
	_, err := s.Quit(ctx, "app", id, "alice")
	require.NoError(t, err)
	require.Equal(t, storage.News{Gone: []int64{n}}, lacks(t, s, "alice", map[int64]int64{n: 2}, 9))
	put(t, s, groupDraft("bob", id, "3"))
	_, err = s.Join(ctx, "app", id, "alice", storage.GroupLimits{})
	require.NoError(t, err)

	// The client has not heard of any of that. What was said meanwhile is not its own.
	here := storage.Delta{Conversation: n, Kind: storage.KindGroup, LastSeq: 3, JoinedSeq: 3, ReadSeq: 3}
	require.Equal(t, storage.News{Deltas: []storage.Delta{here}}, lacks(t, s, "alice", map[int64]int64{n: 2}, 9))
	require.Equal(t, storage.News{}, lacks(t, s, "alice", map[int64]int64{n: 3}, 9))
	last := put(t, s, groupDraft("bob", id, "4"))
	here.LastSeq, here.Unread, here.Messages = 4, 1, all(last)
	require.Equal(t, storage.News{Deltas: []storage.Delta{here}}, lacks(t, s, "alice", map[int64]int64{n: 2}, 9))

	// A client that is ahead: the database comes from a backup. Sums with the largest number overflow.
	here.Messages = nil
	for _, ahead := range []int64{99, math.MaxInt64} {
		require.Equal(t, storage.News{Deltas: []storage.Delta{here}}, lacks(t, s, "alice", map[int64]int64{n: ahead}, 9))
	}
}

// syncAll syncs in pages as a client does.
func syncAll(t testing.TB, s MessageStore, account string, limit int) (messages map[int64][]storage.Message, pages int) {
	t.Helper()
	messages = make(map[int64][]storage.Message)
	cursors := make(map[int64]int64)
	for more := true; more; pages++ {
		news := lacks(t, s, account, cursors, limit)
		more = news.More
		n := 0
		for _, d := range news.Deltas {
			require.NotEmpty(t, d.Messages)
			for _, m := range d.Messages {
				require.Equal(t, max(cursors[d.Conversation], d.JoinedSeq)+1, m.Seq, "gapless from the cursor")
				cursors[d.Conversation] = m.Seq
			}
			n += len(d.Messages)
			messages[d.Conversation] = append(messages[d.Conversation], d.Messages...)
		}
		require.LessOrEqual(t, n, limit)
		if more {
			require.Equal(t, limit, n, "a page is full while there is more")
		}
	}
	return messages, pages
}

func testSyncFair(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	busy := talk(t, s, "busy", "alice", 5_000)
	for i := range 30 {
		talk(t, s, fmt.Sprint("quiet", i), "alice", 3)
	}
	news := lacks(t, s, "alice", nil, 200)
	require.True(t, news.More)
	require.Len(t, news.Deltas, 31, "the busy conversation does not starve the others")
	for _, d := range news.Deltas {
		if d.Conversation == busy[0].Conversation {
			require.Len(t, d.Messages, 110)
			require.Zero(t, d.Unread, "only with the last message")
		} else {
			require.Len(t, d.Messages, 3)
			require.EqualValues(t, 3, d.Unread)
		}
	}
	messages, _ := syncAll(t, s, "alice", 500)
	require.Equal(t, all(busy), messages[busy[0].Conversation])
	require.Len(t, messages, 31)
	messages, pages := syncAll(t, s, "alice", 7) // fewer than conversations
	require.Len(t, messages, 31)
	require.Equal(t, (5_000+90+6)/7, pages)
}

// A page has at most about Bytes, however large messages are, and a conversation with large ones
// holds no other one up: a page of 500 messages of 60 KiB was larger than the largest packet of a link.
func testSyncBytes(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	const size, limit = 60 << 10, 4 << 20
	small := talk(t, s, "small", "alice", 1)[0]
	quiet := groupNumber(t, group(t, s, "bob", "alice"))
	want := map[int64]int{small.Conversation: 1}
	for _, sender := range []string{"large", "larger"} {
		for range 6 {
			var batch []*storage.Draft
			for range 20 {
				batch = append(batch, draft(sender, "alice", strings.Repeat("x", size)))
			}
			want[put(t, s, batch...)[0].Conversation] = 120
		}
	}
	c := newClient("alice")
	for page := 0; ; page++ {
		q := c.query(storage.Scope{}, 500)
		q.Bytes = limit
		news, err := s.Sync(t.Context(), "app", "alice", q)
		require.NoError(t, err)
		bytes := 0
		for _, d := range news.Deltas {
			for _, m := range d.Messages {
				bytes += len(m.Body)
			}
			if page == 0 {
				require.Less(t, len(d.Messages), 50, "fair")
			}
			c.apply(t, d)
		}
		require.LessOrEqual(t, bytes, limit)
		if page == 0 {
			require.Contains(t, c.has, small.Conversation)
			require.Contains(t, c.has, quiet)
		}
		if !news.More {
			break
		}
		require.Greater(t, bytes, limit-2*size, "as much as fits")
	}
	for id, n := range want {
		require.Len(t, c.has[id].messages, n)
		require.EqualValues(t, n, c.has[id].unread)
	}

	// A message that is larger than all of it is returned alone.
	news, err := s.Sync(t.Context(), "app", "alice", storage.SyncQuery{Limit: 500, Bytes: 1000})
	require.NoError(t, err)
	require.True(t, news.More)
	require.Len(t, news.Deltas, 2)
	require.Len(t, slices.Concat(news.Deltas[0].Messages, news.Deltas[1].Messages), 1)
}

func testSyncReads(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	// bob bob alice bob alice bob
	bob := put(t, s, draft("bob", "alice", "1"), draft("bob", "alice", "2"), draft("alice", "bob", "3"),
		draft("bob", "alice", "4"), draft("alice", "bob", "5"), draft("bob", "alice", "6"))[0].Conversation
	note := put(t, s, draft("alice", "alice", "a note"))[0].Conversation
	ask := func(cursor storage.Cursor) []storage.Delta {
		t.Helper()
		news, err := s.Sync(ctx, "app", "alice", storage.SyncQuery{
			Cursors: map[int64]storage.Cursor{bob: cursor, note: {Seq: 1}}, Limit: 100,
		})
		require.NoError(t, err)
		require.Empty(t, news.Gone)
		return news.Deltas
	}
	require.Empty(t, ask(storage.Cursor{Seq: 6}))
	for read, unread := range []int64{4, 3, 2, 2, 1, 1, 0} {
		_, _, err := s.Read(ctx, "app", "alice", bob, int64(read))
		require.NoError(t, err)
		for seq := range int64(7) {
			d := ask(storage.Cursor{Seq: seq, ReadSeq: 99})
			require.Len(t, d, 1)
			require.EqualValues(t, read, d[0].ReadSeq)
			require.Equal(t, unread, d[0].Unread, "read %d, cursor %d", read, seq)
			require.Len(t, d[0].Messages, int(6-seq))
		}
		require.Empty(t, ask(storage.Cursor{Seq: 6, ReadSeq: storage.ReadUnknown}))
		require.Empty(t, ask(storage.Cursor{Seq: 6, ReadSeq: int64(read)}))
	}
}

func testSyncScope(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	const buckets = 7
	in := make(map[uint32][]int64)
	for i := range 40 {
		id := talk(t, s, "alice", fmt.Sprint("peer", i), 1)[0].Conversation
		in[uint32(id%buckets)] = append(in[uint32(id%buckets)], id)
	}
	ask := func(only ...uint32) (ids []int64, gone []int64) {
		t.Helper()
		news, err := s.Sync(t.Context(), "app", "alice", storage.SyncQuery{
			Cursors: map[int64]storage.Cursor{buckets: {Seq: 1}, buckets + 1: {Seq: 1}},
			Scope:   storage.Scope{Buckets: buckets, Only: only}, Limit: 500,
		})
		require.NoError(t, err)
		for _, d := range news.Deltas {
			ids = append(ids, d.Conversation)
		}
		return ids, news.Gone
	}
	for b := range uint32(buckets) {
		ids, gone := ask(b)
		require.ElementsMatch(t, in[b], ids)
		if b < 2 {
			require.Equal(t, []int64{buckets + int64(b)}, gone)
		} else {
			require.Empty(t, gone, "nothing is said of what is outside")
		}
	}
	ids, gone := ask(3, 0, 3)
	require.ElementsMatch(t, append(slices.Clone(in[0]), in[3]...), ids)
	require.Equal(t, []int64{buckets}, gone)
	ids, gone = ask()
	require.Len(t, ids, 40, "no bucket is all buckets")
	require.Equal(t, []int64{buckets, buckets + 1}, gone)
}

func testStale(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	c := newClient("alice")
	const buckets = 61
	stale := func() []uint32 {
		t.Helper()
		got, err := s.Stale(ctx, "app", "alice", c.digests(buckets))
		require.NoError(t, err)
		return got
	}
	require.Empty(t, stale(), "nothing, and nothing known")
	for i := range 100 {
		talk(t, s, "alice", fmt.Sprint("peer", i), 1+i%3)
	}
	id := group(t, s, "bob")
	n := groupNumber(t, id)
	put(t, s, groupDraft("bob", id, "1"), groupDraft("bob", id, "2"))
	_, err := s.Join(ctx, "app", id, "alice", storage.GroupLimits{})
	require.NoError(t, err)
	require.NotEmpty(t, stale())
	c.syncFully(t, s)
	require.EqualValues(t, 2, c.has[n].seq)
	require.Empty(t, stale(), "of a group that it joined late a client has the cursor joined_seq")
	got, err := s.Stale(ctx, "app", "alice", nil)
	require.NoError(t, err)
	require.Empty(t, got)
	got, err = s.Stale(ctx, "another app", "alice", c.digests(buckets))
	require.NoError(t, err)
	require.NotEmpty(t, got)

	bucket := []uint32{uint32(n % buckets)}
	mine := c.has[n]
	for name, change := range map[string]func(*held){
		"behind":      func(h *held) { h.seq-- },
		"ahead":       func(h *held) { h.seq++ },
		"read behind": func(h *held) { h.read-- },
		"read ahead":  func(h *held) { h.read++ },
	} {
		was := *mine
		change(mine)
		require.Equal(t, bucket, stale(), name)
		*mine = was
	}
	delete(c.has, n)
	require.Equal(t, bucket, stale(), "one missing")
	c.has[n+buckets] = mine
	require.Equal(t, bucket, stale(), "another one instead")
	delete(c.has, n+buckets)
	c.has[n] = mine

	mine.read = 1
	c.noReads = true
	require.Empty(t, stale(), "a client that keeps no read positions")
	c.noReads, mine.read = false, 2
	c.has[12345], c.has[12346] = &held{}, &held{}
	require.Equal(t, []uint32{12345 % buckets, 12346 % buckets}, stale(), "what nobody has")
}

func testRead(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	said := put(t, s, draft("bob", "alice", "1"), draft("alice", "bob", "2"), draft("bob", "alice", "3"), draft("bob", "alice", "4"))
	conversation := said[0].Conversation
	read := func(account string, seq int64) (storage.Position, bool) {
		t.Helper()
		at, moved, err := s.Read(ctx, "app", account, conversation, seq)
		require.NoError(t, err)
		return at, moved
	}
	for _, step := range []struct {
		seq   int64
		want  storage.Position
		moved bool
	}{
		{-5, storage.Position{ReadSeq: 0, Unread: 3, LastSeq: 4}, false},
		{0, storage.Position{ReadSeq: 0, Unread: 3, LastSeq: 4}, false},
		{1, storage.Position{ReadSeq: 1, Unread: 2, LastSeq: 4}, true},
		{1, storage.Position{ReadSeq: 1, Unread: 2, LastSeq: 4}, false},
		{3, storage.Position{ReadSeq: 3, Unread: 1, LastSeq: 4}, true},
		{2, storage.Position{ReadSeq: 3, Unread: 1, LastSeq: 4}, false}, // never back
		{1 << 60, storage.Position{ReadSeq: 4, Unread: 0, LastSeq: 4}, true},
		{5, storage.Position{ReadSeq: 4, Unread: 0, LastSeq: 4}, false}, // nor beyond the last message
	} {
		at, moved := read("alice", step.seq)
		require.Equal(t, step.want, at, "%+v", step)
		require.Equal(t, step.moved, moved, "%+v", step)
	}
	put(t, s, draft("alice", "bob", "5"), draft("bob", "alice", "6"))
	at, _ := read("alice", 4)
	require.Equal(t, storage.Position{ReadSeq: 4, Unread: 1, LastSeq: 6}, at)
	at, _ = read("bob", 0)
	require.Equal(t, storage.Position{Unread: 2, LastSeq: 6}, at, "a position is the account's own")

	for _, c := range []struct {
		app, account string
		conversation int64
		want         error
	}{
		{"app", "mallory", conversation, storage.ErrNotMember},
		{"app", "alice", conversation + 1, storage.ErrNoConversation},
		{"app", "alice", 0, storage.ErrNoConversation},
		{"other", "alice", conversation, storage.ErrNoConversation},
	} {
		_, _, err := s.Read(ctx, c.app, c.account, c.conversation, 1)
		require.ErrorIs(t, err, c.want)
	}

	// Who joins has read what was before; what is unread is what it may read.
	id := group(t, s, "bob")
	put(t, s, groupDraft("bob", id, "1"), groupDraft("bob", id, "2"))
	_, err := s.Join(ctx, "app", id, "alice", storage.GroupLimits{})
	require.NoError(t, err)
	put(t, s, groupDraft("bob", id, "3"))
	conversation = groupNumber(t, id)
	at, moved := read("alice", 1)
	require.False(t, moved)
	require.Equal(t, storage.Position{ReadSeq: 2, Unread: 1, LastSeq: 3}, at)
	_, err = s.Quit(ctx, "app", id, "alice")
	require.NoError(t, err)
	_, _, err = s.Read(ctx, "app", "alice", conversation, 3)
	require.ErrorIs(t, err, storage.ErrNotMember)
}

// Whatever devices read at once: each learns a position that only grows, and each step is one device's.
func testReadRace(t *testing.T, open MessagesFactory) {
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	const last = 300
	conversation := talk(t, nodes[0], "bob", "alice", last)[0].Conversation
	var mu sync.Mutex
	movedTo := make(map[int64]int)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			before := int64(0)
			for range 20 {
				at, moved, err := nodes[w%2].Read(t.Context(), "app", "alice", conversation, rand.Int64N(last))
				if err != nil || at.ReadSeq < before || at.Unread != last-at.ReadSeq {
					t.Error(at, before, err)
				}
				before = at.ReadSeq
				if moved {
					mu.Lock()
					movedTo[at.ReadSeq]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	highest := int64(0)
	for seq, times := range movedTo {
		require.Equal(t, 1, times)
		highest = max(highest, seq)
	}
	at, moved, err := nodes[0].Read(t.Context(), "app", "alice", conversation, highest)
	require.NoError(t, err)
	require.False(t, moved)
	require.Equal(t, highest, at.ReadSeq)
}

// However much is unread, and in whatever order one asks.
func testUnreadOfMany(t *testing.T, open MessagesFactory) {
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	ctx := t.Context()
	id := group(t, nodes[0], "alice", "bob", "carol")
	n := groupNumber(t, id)
	accounts := []string{"alice", "bob", "carol"}
	var senders []string
	read := make(map[string]int64)
	unread := func(account string) (others int64) {
		for _, sender := range senders[read[account]:] {
			if sender != account {
				others++
			}
		}
		return others
	}
	for range 60 {
		var batch []*storage.Draft
		for range rand.IntN(100) {
			sender := accounts[rand.IntN(3)]
			senders = append(senders, sender)
			batch = append(batch, groupDraft(sender, id, ""))
		}
		put(t, nodes[0], batch...)
		last := int64(len(senders))
		for range 4 {
			account, s := accounts[rand.IntN(3)], nodes[rand.IntN(2)]
			seq := min(last, read[account]+rand.Int64N(100))
			if rand.IntN(4) > 0 {
				seq = 0
			}
			read[account] = max(read[account], seq)
			at, _, err := s.Read(ctx, "app", account, n, seq)
			require.NoError(t, err)
			require.Equal(t, storage.Position{ReadSeq: read[account], Unread: unread(account), LastSeq: last}, at)
			news, err := s.Sync(ctx, "app", account, storage.SyncQuery{
				Cursors: map[int64]storage.Cursor{n: {Seq: rand.Int64N(last + 1), ReadSeq: last + 1}}, Limit: 10_000,
			})
			require.NoError(t, err)
			require.Equal(t, unread(account), news.Deltas[0].Unread)
		}
	}
}
