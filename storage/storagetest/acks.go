package storagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// push is a message as it was pushed.
func push(d *storage.Draft) storage.Run {
	return storage.Run{Conversation: d.Conversation, From: d.Seq, To: d.Seq, MessageID: d.MessageID}
}

// page is messages as a page of the index.
func page(said ...*storage.Draft) (runs []storage.Run) {
	place := map[int64]int{}
	for _, d := range said {
		i, ok := place[d.Conversation]
		if !ok {
			i, place[d.Conversation] = len(runs), len(runs)
			runs = append(runs, storage.Run{Conversation: d.Conversation, From: d.Seq, MessageID: said[len(said)-1].MessageID})
		}
		runs[i].To = d.Seq
	}
	return runs
}

// unproven are runs of which no message proves that the client has them.
func unproven(runs []storage.Run) []storage.Run {
	out := slices.Clone(runs)
	for i := range out {
		out[i].MessageID = 0
	}
	return out
}

// ack acknowledges a message of those that were delivered and returns where the acks are now.
func ack(t testing.TB, s MessageStore, account string, d *storage.Draft, delivered ...storage.Run) map[int64]int64 {
	t.Helper()
	acked, err := s.Ack(t.Context(), "app", account, d.MessageID, delivered)
	require.NoError(t, err)
	return acked
}

// unread is the account's index since its acks.
func unread(t testing.TB, s MessageStore, account string) []int64 {
	t.Helper()
	return indexIDs(t, s, account, 0, 10_000)
}

// An ack within a page counts for what is before it in every conversation, and nothing moves one back.
func testAckIndex(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	const peers = 12
	var said []*storage.Draft
	for i := range 600 {
		said = append(said, draft(fmt.Sprint("peer", (i*7)%peers), "alice", "x"))
	}
	put(t, s, said...)
	for _, at := range []int{0, 77, 78, 300, 598, 599} {
		ack(t, s, "alice", said[at], page(said...)...)
		require.Equal(t, draftIDs(said[at+1:]), unread(t, s, "alice"))
		ack(t, s, "alice", said[at/2], page(said...)...)
		require.Equal(t, draftIDs(said[at+1:]), unread(t, s, "alice"), "an older one moves nothing back")
	}
	require.Len(t, unread(t, s, "peer0"), 50, "an ack is the account's own")
	// Flaw 5: what is committed after the ack, though with a smaller id, is not lost. Another node
	// with a clock an hour behind writes to a new conversation.
	late := put(t, open(t, &skewed{IDs: nodeIDs(t, 2), millis: -3_600_000}), draft("late", "alice", "late"))
	require.Less(t, late[0].MessageID, said[599].MessageID)
	require.Equal(t, draftIDs(late), unread(t, s, "alice"))
	ack(t, s, "alice", said[599], page(said...)...)
	require.Equal(t, draftIDs(late), unread(t, s, "alice"))
}

// Flaw 4 and 8: an ack counts for what was sent before it, in whatever order of ids, and for
// nothing else: a message whose push was lost has a smaller id and stays.
func testAckPushes(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	lost := talk(t, s, "bob", "alice", 1)
	first, second := talk(t, s, "carol", "alice", 3), talk(t, s, "dave", "alice", 2)
	delivered := []storage.Run{push(second[0]), push(first[0]), push(second[1]), push(first[1]), push(first[2])}

	require.Empty(t, ack(t, s, "alice", first[0]), "of which nothing is known")
	require.Len(t, unread(t, s, "alice"), 6)
	acked := ack(t, s, "alice", second[1], delivered...)
	require.Equal(t, map[int64]int64{first[0].Conversation: 1, second[0].Conversation: 2}, acked)
	require.Equal(t, draftIDs(slices.Concat(lost, first[1:])), unread(t, s, "alice"))
	acked = ack(t, s, "alice", first[0], delivered...)
	require.Equal(t, map[int64]int64{first[0].Conversation: 1, second[0].Conversation: 2}, acked, "where they are, not what moved")
	ack(t, s, "alice", first[2], delivered...)
	require.Equal(t, draftIDs(lost), unread(t, s, "alice"))
	ack(t, s, "alice", lost[0])
	require.Equal(t, draftIDs(lost), unread(t, s, "alice"), "one of an earlier connection")

	// It comes with the next index, and the ack of the last message is one of it too.
	ack(t, s, "alice", lost[0], page(lost...)...)
	require.Empty(t, unread(t, s, "alice"))
	next := talk(t, s, "bob", "alice", 1)
	require.Equal(t, draftIDs(next), unread(t, s, "alice"))
	for _, id := range []int64{0, 1, next[0].MessageID + 1} {
		_, err := s.Ack(t.Context(), "app", "alice", id, []storage.Run{push(next[0])})
		require.ErrorIs(t, err, storage.ErrNoMessage)
	}
	require.Equal(t, draftIDs(next), unread(t, s, "alice"))
}

// A message that was left unacknowledged for long does not make the index repeat what came after it,
// on no page.
func testIndexOfGaps(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	lost := talk(t, s, "bob", "alice", 1)
	many := talk(t, s, "carol", "alice", 30)
	behind := talk(t, s, "bob", "alice", 1)
	id := group(t, s, "carol", "dave")
	put(t, s, groupDraft("carol", id, "before alice joined"))
	_, err := s.Join(t.Context(), "app", id, "alice", storage.GroupLimits{})
	require.NoError(t, err)
	after := put(t, s, groupDraft("carol", id, "after"), draft("dave", "alice", "after"))
	ack(t, s, "alice", behind[0], append(page(many...), push(behind[0]))...)

	want := draftIDs(slices.Concat(lost, behind, after))
	require.Equal(t, want, unread(t, s, "alice"))
	for i, last := range want {
		entries, err := s.Index(t.Context(), "app", "alice", last, false, 10)
		require.NoError(t, err)
		got := []int64{}
		for _, e := range entries {
			got = append(got, e.ID)
		}
		require.Equal(t, want[i+1:], got)
	}
	entries, err := s.Index(t.Context(), "app", "alice", 0, true, 100)
	require.NoError(t, err)
	require.Len(t, entries, 34, "all that it may read")
}

// What an ack proves when a message was sent more than once, or may have been known before.
func testAckProves(t *testing.T, open MessagesFactory) {
	for name, test := range map[string]struct {
		delivered func(a, b, c *storage.Draft) []storage.Run // c is acknowledged
		left      func(a, b, c *storage.Draft) []*storage.Draft
	}{
		"a page that may still be on its way": {
			func(a, b, c *storage.Draft) []storage.Run { return unproven(page(a, b, c)) },
			func(a, b, c *storage.Draft) []*storage.Draft { return []*storage.Draft{a, b, c} },
		},
		"a push behind such a page": {
			func(a, b, c *storage.Draft) []storage.Run { return append(unproven(page(a, b)), push(c)) },
			func(a, b, c *storage.Draft) []*storage.Draft { return nil },
		},
		"a push that such a page had brought": {
			func(a, b, c *storage.Draft) []storage.Run {
				return append(unproven(page(c)), push(a), push(c), push(b))
			},
			func(a, b, c *storage.Draft) []*storage.Draft { return []*storage.Draft{a, b, c} },
		},
		"a push that had been pushed before": {
			func(a, b, c *storage.Draft) []storage.Run { return []storage.Run{push(c), push(a), push(c)} },
			func(a, b, c *storage.Draft) []*storage.Draft { return []*storage.Draft{a, b} },
		},
		"a page with what had been pushed before": {
			func(a, b, c *storage.Draft) []storage.Run {
				return append([]storage.Run{push(c)}, page(a, b, c)...)
			},
			func(a, b, c *storage.Draft) []*storage.Draft { return nil },
		},
		"a page and then a push of the same": {
			func(a, b, c *storage.Draft) []storage.Run {
				return append(page(a, c), push(b), push(c))
			},
			func(a, b, c *storage.Draft) []*storage.Draft { return []*storage.Draft{b} },
		},
		"the same page twice": {
			func(a, b, c *storage.Draft) []storage.Run { return append(page(a, b, c), page(a, b, c)...) },
			func(a, b, c *storage.Draft) []*storage.Draft { return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, nodeIDs(t, 1))
			to := "alice " + name
			said := put(t, s, draft("1"+name, to, "a"), draft("2"+name, to, "b"), draft("3"+name, to, "c"))
			a, b, c := said[0], said[1], said[2]
			ack(t, s, to, c, test.delivered(a, b, c)...)
			require.Equal(t, draftIDs(test.left(a, b, c)), unread(t, s, to))
		})
	}
}

// A run that is not joined to what is acknowledged is left out, until what is between has come.
func testAckGaps(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	said := talk(t, s, "bob", "alice", 8)
	conversation := said[0].Conversation
	at := func(seq int64) map[int64]int64 { return map[int64]int64{conversation: seq} }
	run := func(from, to int64) storage.Run { return storage.Run{Conversation: conversation, From: from, To: to} }

	require.Equal(t, at(0), ack(t, s, "alice", said[1], push(said[1])), "the first was not sent")
	require.Equal(t, at(2), ack(t, s, "alice", said[0], push(said[1]), push(said[0])), "out of order")
	require.Equal(t, at(2), ack(t, s, "alice", said[4], run(4, 4), push(said[4])))
	require.Equal(t, draftIDs(said[2:]), unread(t, s, "alice"))
	require.Equal(t, at(6), ack(t, s, "alice", said[5], run(5, 5), run(1, 4), push(said[5])), "overlapping")
	beyond := storage.Run{Conversation: conversation, From: 7, To: 100, MessageID: said[7].MessageID}
	require.Equal(t, at(8), ack(t, s, "alice", said[7], beyond), "not beyond the last message")
	next := talk(t, s, "bob", "alice", 1)
	require.Equal(t, draftIDs(next), unread(t, s, "alice"))
}

// Who has joined later or left acknowledges nothing that it may not read.
func testAckMembers(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	id := group(t, s, "alice", "bob")
	before := put(t, s, groupDraft("alice", id, "1"), groupDraft("alice", id, "2"))
	_, err := s.Join(ctx, "app", id, "carol", storage.GroupLimits{})
	require.NoError(t, err)
	after := put(t, s, groupDraft("alice", id, "3"), groupDraft("alice", id, "4"))
	conversation := after[0].Conversation
	require.Equal(t, map[int64]int64{conversation: 3}, ack(t, s, "carol", after[0], push(after[0])), "it reads from there")
	require.Equal(t, map[int64]int64{conversation: 0}, ack(t, s, "bob", after[0], push(after[0])))

	mine := talk(t, s, "dave", "bob", 1)
	_, err = s.Quit(ctx, "app", id, "bob")
	require.NoError(t, err)
	acked := ack(t, s, "bob", mine[0], slices.Concat(page(before...), []storage.Run{push(mine[0])})...)
	require.Equal(t, map[int64]int64{mine[0].Conversation: 1}, acked)
	_, err = s.Ack(ctx, "app", "bob", after[0].MessageID, []storage.Run{push(after[0])})
	require.ErrorIs(t, err, storage.ErrNoMessage)
}

func testAckRace(t *testing.T, open MessagesFactory) {
	nodes := []MessageStore{open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))}
	var said []*storage.Draft
	for i := range 200 {
		said = append(said, draft(fmt.Sprint("peer", i%5), "alice", "x"))
	}
	put(t, nodes[0], said...)
	runs := page(said...)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for range 15 {
				if _, err := nodes[w%2].Ack(t.Context(), "app", "alice", said[rand.IntN(150)].MessageID, runs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		if _, err := nodes[0].Ack(t.Context(), "app", "alice", said[150].MessageID, runs); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	require.Equal(t, draftIDs(said[151:]), indexIDs(t, nodes[1], "alice", 0, 1000))
}
