package storagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
)

// MessageStore is what keeps messages and groups.
type MessageStore interface {
	storage.Messages
	storage.Groups
}

// MessagesFactory opens a store with these ids. Within one test every call opens the same database
// again, as another node or after a restart, and the test closes what it opened.
type MessagesFactory func(t testing.TB, ids storage.IDs) MessageStore

// Messages runs the contract suite of storage.Messages and storage.Groups. Each subtest calls
// setup once, for an empty database.
func Messages(t *testing.T, setup func(t *testing.T) MessagesFactory) {
	for name, test := range map[string]func(*testing.T, MessagesFactory){
		"Append":                 testAppend,
		"AppendRefusesOne":       testAppendRefuses,
		"Idempotent":             testIdempotent,
		"IdempotentAfterQuit":    testIdempotentAfterQuit,
		"TwoNodesAppend":         testTwoNodesAppend,
		"TwoNodesRepeat":         testTwoNodesRepeat,
		"IDsGrowOverSkewedNodes": testSkewedNodes,
		"AppendNoLease":          testNoLease,
		"AppendMany":             testAppendMany,
		"AppendLarge":            testAppendLarge,
		"Tenants":                testTenants,
		"NamesAreBytes":          testNames,
		"NoteToOneself":          testNoteToOneself,
		"Groups":                 testGroups,
		"GroupRules":             testGroupRules,
		"GroupLimits":            testGroupLimits,
		"MembersReadFromJoining": testJoinedSeq,
		"MembershipAtCommit":     testMembershipAtCommit,
		"History":                testHistory,
		"Content":                testContent,
		"Sync":                   testSync,
		"SyncIsFair":             testSyncFair,
		"SyncBytes":              testSyncBytes,
		"SyncEmptyGroups":        testSyncEmptyGroups,
		"SyncCursorsElsewhere":   testSyncCursorsElsewhere,
		"SyncReads":              testSyncReads,
		"SyncScope":              testSyncScope,
		"SyncConverges":          testSyncConverges,
		"SyncWhileAllMoves":      testSyncWhileAllMoves,
		"Stale":                  testStale,
		"Read":                   testRead,
		"ReadRace":               testReadRace,
		"UnreadOfMany":           testUnreadOfMany,
		"Index":                  testIndex,
		"IndexPages":             testIndexPages,
		"IndexMerges":            testIndexMerges,
		"IndexOfGaps":            testIndexOfGaps,
		"AckIndex":               testAckIndex,
		"AckPushes":              testAckPushes,
		"AckProves":              testAckProves,
		"AckGaps":                testAckGaps,
		"AckMembers":             testAckMembers,
		"AckRace":                testAckRace,
	} {
		t.Run(name, func(t *testing.T) { test(t, setup(t)) })
	}
}

// nodeIDs are the ids of a node of its own.
func nodeIDs(t testing.TB, number int64) storage.IDs {
	t.Helper()
	ids, err := snowflake.New(snowflake.Fixed(number))
	require.NoError(t, err)
	return ids
}

// sent counts send times, so that every draft has its own.
func draft(sender, dest, body string) *storage.Draft {
	return &storage.Draft{
		App: "app", Sender: sender, Kind: storage.KindUser, Dest: dest,
		Type: 1, Body: body, SendTime: rand.Int64N(1 << 60),
	}
}

func groupDraft(sender, id, body string) *storage.Draft {
	d := draft(sender, id, body)
	d.Kind = storage.KindGroup
	return d
}

func with(d *storage.Draft, clientID string) *storage.Draft {
	d.ClientID = clientID
	return d
}

// again is the same send repeated, as after a lost answer.
func again(d *storage.Draft) *storage.Draft {
	return &storage.Draft{
		App: d.App, Sender: d.Sender, Kind: d.Kind, Dest: d.Dest, ClientID: d.ClientID,
		Type: d.Type, Body: d.Body, Extra: d.Extra, SendTime: d.SendTime + 1,
	}
}

func put(t testing.TB, s MessageStore, drafts ...*storage.Draft) []*storage.Draft {
	t.Helper()
	require.NoError(t, s.Append(t.Context(), drafts))
	for _, d := range drafts {
		require.NoError(t, d.Err)
	}
	return drafts
}

// talk stores n messages of a conversation in one batch.
func talk(t testing.TB, s MessageStore, sender, dest string, n int) []*storage.Draft {
	t.Helper()
	drafts := make([]*storage.Draft, n)
	for i := range drafts {
		drafts[i] = draft(sender, dest, fmt.Sprint("message ", i))
	}
	return put(t, s, drafts...)
}

// message is what should be read of a draft.
func message(d *storage.Draft) storage.Message {
	return storage.Message{
		Conversation: d.Conversation, Seq: d.Seq, ID: d.MessageID, Sender: d.Sender, ClientID: d.ClientID,
		Type: d.Type, Body: d.Body, Extra: d.Extra, SendTime: d.SendTime,
	}
}

func all(drafts []*storage.Draft) []storage.Message {
	out := make([]storage.Message, len(drafts))
	for i, d := range drafts {
		out[i] = message(d)
	}
	return out
}

func history(t testing.TB, s MessageStore, account string, r storage.Range) storage.Delta {
	t.Helper()
	d, err := s.History(t.Context(), "app", account, r)
	require.NoError(t, err)
	return d
}

func group(t testing.TB, s MessageStore, owner string, members ...string) string {
	t.Helper()
	g := storage.Group{App: "app", Name: "a group", Owner: owner}
	for _, m := range members {
		g.Members = append(g.Members, storage.Member{Account: m})
	}
	id, err := s.CreateGroup(t.Context(), g, storage.GroupLimits{})
	require.NoError(t, err)
	return id
}

func ids(messages []storage.Message) []int64 {
	out := make([]int64, len(messages))
	for i, m := range messages {
		out[i] = m.ID
	}
	return out
}

func indexIDs(t testing.TB, s MessageStore, account string, after int64, limit int) []int64 {
	t.Helper()
	entries, err := s.Index(t.Context(), "app", account, after, after > 0, limit)
	require.NoError(t, err)
	out := make([]int64, len(entries))
	for i, e := range entries {
		out[i] = e.ID
	}
	return out
}

func draftIDs(drafts []*storage.Draft) []int64 { return ids(all(drafts)) }

func testAppend(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	require.NoError(t, s.Ping(t.Context()))
	require.NoError(t, s.Append(t.Context(), nil))
	a := draft("alice", "bob", "hello")
	a.Extra, a.Type, a.ClientID = `{"x":1}`, -7, "c1"
	b := draft("bob", "alice", "")
	c := draft("alice", "carol", "with ' \" \\ \x00 ? 💬\u2028")
	put(t, s, a, b, c)
	require.Equal(t, a.Conversation, b.Conversation, "one conversation, whoever speaks")
	require.NotEqual(t, a.Conversation, c.Conversation)
	require.EqualValues(t, []int64{1, 2, 1}, []int64{a.Seq, b.Seq, c.Seq})
	require.Less(t, a.MessageID, b.MessageID)
	require.Equal(t, []string{"alice", "bob"}, b.Members)
	require.False(t, a.Duplicate)

	d := put(t, s, draft("bob", "alice", "next"))[0]
	require.EqualValues(t, 3, d.Seq)
	require.Greater(t, d.MessageID, b.MessageID)

	page := history(t, s, "bob", storage.Range{Kind: storage.KindUser, Dest: "alice", Limit: 10})
	require.Equal(t, storage.Delta{
		Conversation: a.Conversation, Kind: storage.KindUser, Peer: "alice", LastSeq: 3,
		Messages: all([]*storage.Draft{a, b, d}),
	}, page)
	page = history(t, s, "carol", storage.Range{Conversation: c.Conversation, Limit: 10})
	require.Equal(t, all([]*storage.Draft{c}), page.Messages)
	require.Equal(t, "alice", page.Peer)
}

// What one draft does wrong is no concern of its batch.
func testAppendRefuses(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	id := group(t, s, "owner", "alice")
	long := strings.Repeat("x", 65)
	good := []*storage.Draft{
		draft("alice", "bob", "1"), groupDraft("alice", id, "2"), draft("alice", "bob", "3"),
		draft(long[:64], strings.Repeat("é", 32), "4"),
	}
	bad := map[*storage.Draft]error{
		groupDraft("mallory", id, ""):                 storage.ErrNotMember,
		groupDraft("alice", "12345", ""):              storage.ErrNoConversation,
		groupDraft("alice", "", ""):                   storage.ErrInvalid,
		groupDraft("alice", "0"+id, ""):               storage.ErrNoConversation,
		groupDraft("alice", "no number", ""):          storage.ErrNoConversation,
		draft("", "bob", ""):                          storage.ErrInvalid,
		draft("alice", "", ""):                        storage.ErrInvalid,
		draft(long, "bob", ""):                        storage.ErrInvalid,
		draft("alice", long, ""):                      storage.ErrInvalid,
		with(draft("alice", "bob", ""), long):         storage.ErrInvalid,
		{App: "app", Sender: "alice", Dest: "bob"}:    storage.ErrInvalid,
		{App: long, Sender: "a", Dest: "b", Kind: 1}:  storage.ErrInvalid,
		{Sender: "alice", Dest: id, Kind: 2}:          storage.ErrNoConversation, // another app
		groupDraft("alice", fmt.Sprint(1<<62), "far"): storage.ErrNoConversation,
	}
	batch := slices.Clone(good)
	for d := range bad {
		batch = slices.Insert(batch, rand.IntN(len(batch)), d)
	}
	require.NoError(t, s.Append(t.Context(), batch))
	for d, want := range bad {
		require.ErrorIs(t, d.Err, want, "%+v", d)
	}
	for _, d := range good {
		require.NoError(t, d.Err)
		require.NotZero(t, d.MessageID)
	}
	// A conversation of two cannot be talked to as if it were a group.
	d := groupDraft("alice", strconv.FormatInt(good[0].Conversation, 10), "")
	require.NoError(t, s.Append(t.Context(), []*storage.Draft{d}))
	require.ErrorIs(t, d.Err, storage.ErrNoConversation)
}

// Flaw 6: a retry is not a second message.
func testIdempotent(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	first := put(t, s, with(draft("alice", "bob", "once"), "id-1"), with(draft("bob", "alice", "mine"), "id-1"))
	require.NotEqual(t, first[0].MessageID, first[1].MessageID, "a client id belongs to its sender")

	same := func(want, got *storage.Draft) {
		t.Helper()
		require.True(t, got.Duplicate)
		require.Equal(t, message(want), message(got), "as stored the first time, its time included")
		require.Equal(t, []string{"alice", "bob"}, got.Members)
	}
	// Repeated beside new ones, and twice in one batch.
	twice := with(draft("alice", "bob", "twice"), "id-2")
	batch := put(t, s, draft("alice", "bob", "new"), again(first[0]), twice, again(twice), draft("bob", "alice", "last"))
	same(first[0], batch[1])
	require.False(t, batch[2].Duplicate)
	same(twice, batch[3])
	require.EqualValues(t, []int64{3, 4, 5}, []int64{batch[0].Seq, twice.Seq, batch[4].Seq}, "no gap")

	// What it says now does not count.
	changed := again(first[0])
	changed.Type, changed.Body, changed.Extra = 7, "something else", "more"
	same(first[0], put(t, s, changed)[0])

	// In another conversation it is another message.
	other := put(t, s, with(draft("alice", "carol", "once"), "id-1"))[0]
	require.False(t, other.Duplicate)

	require.NoError(t, s.Close())
	s = open(t, nodeIDs(t, 2))
	same(first[0], put(t, s, again(first[0]))[0])
	require.Equal(t, all([]*storage.Draft{first[0], first[1], batch[0], twice, batch[4]}),
		history(t, s, "bob", storage.Range{Kind: storage.KindUser, Dest: "alice", Limit: 10}).Messages)
}

// A message was stored, its answer lost, and its sender quit the group: sent again it was refused, as if it
// had not been stored.
func testIdempotentAfterQuit(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	id := group(t, s, "alice", "bob")
	first := put(t, s, with(groupDraft("bob", id, "once"), "1"))[0]
	_, err := s.Quit(t.Context(), "app", id, "bob")
	require.NoError(t, err)

	repeated, changed := again(first), again(first)
	changed.Body = "something else"
	batch := []*storage.Draft{
		with(groupDraft("alice", id, "new"), "1"), repeated, changed, with(groupDraft("bob", id, "new"), "2"),
		groupDraft("bob", id, "new"), with(groupDraft("mallory", id, "new"), "1"),
	}
	require.NoError(t, s.Append(t.Context(), batch))
	require.NoError(t, batch[0].Err)
	require.False(t, batch[0].Duplicate)
	require.EqualValues(t, 2, batch[0].Seq)
	for _, d := range batch[1:3] {
		require.NoError(t, d.Err)
		require.True(t, d.Duplicate)
		require.Equal(t, []int64{first.Conversation, first.Seq, first.MessageID, first.SendTime}, []int64{d.Conversation, d.Seq, d.MessageID, d.SendTime})
		require.Empty(t, d.Members, "who has quit says nothing more")
	}
	for _, d := range batch[3:] {
		require.ErrorIs(t, d.Err, storage.ErrNotMember)
	}
	require.Len(t, history(t, s, "alice", storage.Range{Kind: storage.KindGroup, Dest: id, Limit: 10}).Messages, 2)
}

// checkConversation reads all of a conversation and checks I2.
func checkConversation(t testing.TB, s MessageStore, account string, r storage.Range, want int) []storage.Message {
	t.Helper()
	r.Limit = want + 10
	messages := history(t, s, account, r).Messages
	require.Len(t, messages, want)
	for i, m := range messages {
		require.EqualValues(t, i+1, m.Seq, "gapless")
		if i > 0 {
			require.Greater(t, m.ID, messages[i-1].ID, "ids grow with seq")
		}
	}
	return messages
}

func testTwoNodesAppend(t *testing.T, open MessagesFactory) {
	const workers, rounds, size = 8, 12, 5
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	shared := group(t, nodes[0], "owner", "w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7")
	pairs := [][2]string{{"a", "b"}, {"c", "d"}, {"e", "f"}}
	var mu sync.Mutex
	var done []*storage.Draft
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			me := fmt.Sprint("w", w)
			for i := range rounds {
				var batch []*storage.Draft
				for j := range size {
					p := pairs[rand.IntN(len(pairs))]
					batch = append(batch, draft(p[j%2], p[1-j%2], me), groupDraft(me, shared, fmt.Sprint(me, ":", i*size+j)))
				}
				if err := nodes[w%2].Append(t.Context(), batch); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				done = append(done, batch...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, done, workers*rounds*size*2)

	count := make(map[int64]int)
	byID := make(map[int64]*storage.Draft)
	for _, d := range done {
		require.NoError(t, d.Err)
		count[d.Conversation]++
		byID[d.MessageID] = d
	}
	require.Len(t, byID, len(done), "ids are unique")
	next := make(map[string]int)
	messages := checkConversation(t, nodes[1], "owner", storage.Range{Kind: storage.KindGroup, Dest: shared}, workers*rounds*size)
	for _, m := range messages {
		require.Equal(t, message(byID[m.ID]), m, "stored as it was answered")
		require.Equal(t, fmt.Sprint(m.Sender, ":", next[m.Sender]), m.Body, "a sender's order is kept")
		next[m.Sender]++
	}
	for _, p := range pairs {
		r := storage.Range{Kind: storage.KindUser, Dest: p[1]}
		conversation := history(t, nodes[0], p[0], r).Conversation
		checkConversation(t, nodes[0], p[0], r, count[conversation])
	}
}

// I3 across nodes: the same sends at the same time, first messages of new conversations among them.
func testTwoNodesRepeat(t *testing.T, open MessagesFactory) {
	const sends, workers = 30, 6
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	results := make([][]*storage.Draft, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range sends {
				d := with(draft("alice", fmt.Sprint("peer", i%3), "x"), fmt.Sprint("id", i))
				results[w] = append(results[w], d)
			}
			for part := range slices.Chunk(slices.Clone(results[w]), 1+w) {
				if err := nodes[w%2].Append(t.Context(), part); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range sends {
		originals := 0
		for w := range workers {
			d := results[w][i]
			require.NoError(t, d.Err)
			require.Equal(t, message(results[0][i]), message(d))
			if !d.Duplicate {
				originals++
			}
		}
		require.Equal(t, 1, originals)
	}
	for i := range 3 {
		checkConversation(t, nodes[0], "alice", storage.Range{Kind: storage.KindUser, Dest: fmt.Sprint("peer", i)}, sends/3)
	}
}

// skewed is a node whose clock is wrong by a constant: ids with the time moved.
type skewed struct {
	storage.IDs
	millis int64
	mu     sync.Mutex
	last   int64
}

func (s *skewed) Next(floor int64) (int64, error) {
	id, err := s.IDs.Next(0)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	const oneMilli, step = 1 << 22, 1
	id += s.millis * oneMilli
	for low := max(floor, s.last); id <= low; {
		if low-id > oneMilli {
			id += (low - id) / oneMilli * oneMilli
		}
		id += oneMilli + step
	}
	s.last = id
	return id, nil
}

func testSkewedNodes(t *testing.T, open MessagesFactory) {
	const hour = 3_600_000
	ahead := open(t, &skewed{IDs: nodeIDs(t, 1), millis: hour})
	behind := open(t, nodeIDs(t, 2)) // the real generator, an hour behind the other one
	var want []*storage.Draft
	for range 5 {
		want = append(want, talk(t, ahead, "alice", "bob", 3)...)
		want = append(want, talk(t, behind, "bob", "alice", 3)...)
	}
	got := checkConversation(t, ahead, "bob", storage.Range{Kind: storage.KindUser, Dest: "alice"}, len(want))
	require.Equal(t, all(want), got)
}

// noLease is a node that has lost its number.
type noLease struct{}

func (noLease) Next(int64) (int64, error) { return 0, fmt.Errorf("test: %w", storage.ErrNoLease) }

func testNoLease(t *testing.T, open MessagesFactory) {
	s, lost := open(t, nodeIDs(t, 1)), open(t, noLease{})
	talk(t, s, "alice", "bob", 1)
	for _, d := range []*storage.Draft{draft("alice", "bob", ""), draft("alice", "nobody yet", "")} {
		require.ErrorIs(t, lost.Append(t.Context(), []*storage.Draft{d}), storage.ErrNoLease)
	}
	_, err := lost.CreateGroup(t.Context(), storage.Group{App: "app", Owner: "alice"}, storage.GroupLimits{})
	require.ErrorIs(t, err, storage.ErrNoLease)
	checkConversation(t, s, "alice", storage.Range{Kind: storage.KindUser, Dest: "bob"}, 1)
}

func testAppendMany(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	const n, conversations = 10_000, 1_300
	batch := make([]*storage.Draft, n)
	for i := range batch {
		batch[i] = with(draft("alice", fmt.Sprint("peer", i%conversations), strings.Repeat("x", 64)), fmt.Sprint(i))
	}
	put(t, s, batch...)
	for i, d := range batch {
		require.EqualValues(t, i/conversations+1, d.Seq)
		if i > 0 {
			require.Greater(t, d.MessageID, batch[i-1].MessageID)
		}
	}
	repeat := make([]*storage.Draft, n)
	for i, d := range batch {
		repeat[i] = again(d)
	}
	put(t, s, repeat...)
	for i, d := range repeat {
		require.True(t, d.Duplicate)
		require.Equal(t, batch[i].MessageID, d.MessageID)
	}
	require.Equal(t, draftIDs(batch), indexIDs(t, s, "alice", 0, n+1))
}

func testAppendLarge(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	body := strings.Repeat("'\\", 1<<19) // a megabyte that doubles when escaped
	batch := make([]*storage.Draft, 10)
	for i := range batch {
		batch[i] = draft("alice", "bob", body)
	}
	put(t, s, batch...)
	page := history(t, s, "bob", storage.Range{Kind: storage.KindUser, Dest: "alice", Limit: 20})
	require.Equal(t, all(batch), page.Messages)
	d := draft("alice", "bob", strings.Repeat("x", 4<<20+1))
	require.NoError(t, s.Append(t.Context(), []*storage.Draft{d}))
	require.ErrorIs(t, d.Err, storage.ErrInvalid)
}

// Flaw 26: the same names in two apps are strangers.
func testTenants(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	mine := put(t, s, draft("alice", "bob", "mine"))[0]
	theirs := draft("alice", "bob", "theirs")
	theirs.App = "other"
	put(t, s, theirs)
	require.NotEqual(t, mine.Conversation, theirs.Conversation)
	id := group(t, s, "alice", "bob")
	put(t, s, groupDraft("alice", id, "in the group"))

	_, err := s.History(ctx, "other", "alice", storage.Range{Conversation: mine.Conversation, Limit: 1})
	require.ErrorIs(t, err, storage.ErrNoConversation)
	page, err := s.History(ctx, "other", "alice", storage.Range{Kind: storage.KindUser, Dest: "bob", Limit: 9})
	require.NoError(t, err)
	require.Equal(t, all([]*storage.Draft{theirs}), page.Messages)
	content, err := s.Content(ctx, "other", "alice", []int64{mine.MessageID, theirs.MessageID})
	require.NoError(t, err)
	require.Equal(t, []int64{theirs.MessageID}, ids(content))
	_, err = s.Ack(ctx, "other", "alice", mine.MessageID, []storage.Run{push(mine)})
	require.ErrorIs(t, err, storage.ErrNoMessage)
	entries, err := s.Index(ctx, "other", "bob", 0, false, 9)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	news, err := s.Sync(ctx, "other", "bob", storage.SyncQuery{Limit: 9})
	require.NoError(t, err)
	require.Len(t, news.Deltas, 1)
	_, err = s.Group(ctx, "other", id, "alice")
	require.ErrorIs(t, err, storage.ErrNoConversation)
	_, err = s.Join(ctx, "other", id, "mallory", storage.GroupLimits{})
	require.ErrorIs(t, err, storage.ErrNoConversation)
	_, err = s.Quit(ctx, "other", id, "alice")
	require.ErrorIs(t, err, storage.ErrNoConversation)
}

// Collations fold case, accents and trailing spaces: names are bytes.
func testNames(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	names := []string{"zoe", "zoe ", "Zoe", "zoë", "zoe\x00", "💬", "💭", " zoe", "zo", "e"}
	seen := make(map[int64]bool)
	for i, name := range names {
		d := put(t, s, with(draft(name, "bob", name), "same id"))[0]
		require.False(t, seen[d.Conversation], "%q has a conversation of its own", name)
		require.False(t, d.Duplicate)
		require.EqualValues(t, 1, d.Seq)
		seen[d.Conversation] = true
		require.Len(t, indexIDs(t, s, name, 0, 10), 1)
		require.Len(t, indexIDs(t, s, "bob", 0, 100), i+1)
	}
	require.Empty(t, indexIDs(t, s, "ZOE", 0, 10))
	id := group(t, s, "bob", names...)
	g, err := s.Group(t.Context(), "app", id, "bob")
	require.NoError(t, err)
	require.Len(t, g.Members, len(names)+1)
	d := groupDraft("ZOE", id, "")
	require.NoError(t, s.Append(t.Context(), []*storage.Draft{d}))
	require.ErrorIs(t, d.Err, storage.ErrNotMember)
	for _, clientID := range []string{"x", "X", "x "} {
		require.False(t, put(t, s, with(groupDraft("zoe", id, ""), clientID))[0].Duplicate)
	}
}

func testNoteToOneself(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	d := put(t, s, draft("alice", "alice", "note"), draft("alice", "alice", "another"))
	require.Equal(t, []string{"alice"}, d[0].Members)
	require.EqualValues(t, 2, d[1].Seq)
	page := history(t, s, "alice", storage.Range{Kind: storage.KindUser, Dest: "alice", Limit: 5})
	require.Equal(t, all(d), page.Messages)
	require.Equal(t, "alice", page.Peer)
	require.Equal(t, draftIDs(d), indexIDs(t, s, "alice", 0, 5))
}
