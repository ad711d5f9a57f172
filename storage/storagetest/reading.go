package storagetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

func testHistory(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	require.Equal(t, storage.Delta{Kind: storage.KindUser, Peer: "bob"},
		history(t, s, "alice", storage.Range{Kind: storage.KindUser, Dest: "bob", Limit: 10}), "nothing said yet")
	said := talk(t, s, "alice", "bob", 25)
	conversation := said[0].Conversation
	var pages []storage.Message
	for before := int64(0); ; {
		d := history(t, s, "bob", storage.Range{Conversation: conversation, BeforeSeq: before, Limit: 10})
		require.EqualValues(t, 25, d.LastSeq)
		if len(d.Messages) == 0 {
			break
		}
		require.LessOrEqual(t, len(d.Messages), 10)
		pages = append(d.Messages, pages...)
		before = d.Messages[0].Seq
	}
	require.Equal(t, all(said), pages)
	for _, c := range []struct {
		account string
		r       storage.Range
		want    error
	}{
		{"mallory", storage.Range{Conversation: conversation, Limit: 1}, storage.ErrNotMember},
		{"alice", storage.Range{Conversation: conversation + 1, Limit: 1}, storage.ErrNoConversation},
		{"alice", storage.Range{Kind: storage.KindGroup, Dest: "5", Limit: 1}, storage.ErrNoConversation},
		{"alice", storage.Range{Kind: storage.KindGroup, Dest: strconv.FormatInt(conversation, 10), Limit: 1}, storage.ErrNoConversation},
		{"alice", storage.Range{Limit: 1}, storage.ErrNoConversation},
		{"mallory", storage.Range{Kind: storage.KindGroup, Dest: group(t, s, "alice"), Limit: 1}, storage.ErrNotMember},
	} {
		_, err := s.History(ctx, "app", c.account, c.r)
		require.ErrorIs(t, err, c.want, "%+v", c)
	}
	require.Len(t, history(t, s, "bob", storage.Range{Conversation: conversation, BeforeSeq: 9999, Limit: 3}).Messages, 3)
}

// Flaw 10: an id is not a right to read.
func testContent(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	mine, others := talk(t, s, "alice", "bob", 5), talk(t, s, "carol", "dave", 2)
	want := []int64{mine[3].MessageID, mine[0].MessageID, mine[4].MessageID}
	content, err := s.Content(ctx, "app", "bob", []int64{want[0], others[0].MessageID, want[1], 12345, -1, want[2]})
	require.NoError(t, err)
	require.Equal(t, all([]*storage.Draft{mine[3], mine[0], mine[4]}), content)
	content, err = s.Content(ctx, "app", "mallory", draftIDs(mine))
	require.NoError(t, err)
	require.Empty(t, content)
	content, err = s.Content(ctx, "app", "bob", nil)
	require.NoError(t, err)
	require.Empty(t, content)
}

func testIndex(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	require.Empty(t, indexIDs(t, s, "alice", 0, 10))
	id := group(t, s, "alice", "bob")
	said := put(t, s, draft("alice", "bob", "1"), groupDraft("bob", id, "2"), draft("bob", "alice", "3"), draft("alice", "carol", "4"))
	entries, err := s.Index(ctx, "app", "alice", 0, false, 10)
	require.NoError(t, err)
	require.Len(t, entries, 4, "one's own messages too")
	for i, e := range entries {
		d := said[i]
		require.Equal(t, storage.Message{
			Conversation: d.Conversation, Seq: d.Seq, ID: d.MessageID, Sender: d.Sender, SendTime: d.SendTime,
		}, e.Message)
		require.Equal(t, d.Kind, e.Kind)
	}
	require.Equal(t, []string{"bob", "", "bob", "carol"}, []string{entries[0].Peer, entries[1].Peer, entries[2].Peer, entries[3].Peer})
	require.Equal(t, draftIDs(said[2:]), indexIDs(t, s, "alice", said[1].MessageID, 10))
	require.Equal(t, draftIDs(said[2:3]), indexIDs(t, s, "alice", said[1].MessageID, 1))
	require.Empty(t, indexIDs(t, s, "alice", said[3].MessageID, 10))
	require.Empty(t, indexIDs(t, s, "alice", 0, 0))

	// Acknowledged messages are not offered again, but can be asked for.
	ack(t, s, "alice", said[2], page(said...)...)
	require.Equal(t, draftIDs(said[3:]), indexIDs(t, s, "alice", 0, 10))
	require.Equal(t, draftIDs(said[1:]), indexIDs(t, s, "alice", said[0].MessageID, 10))
}

// An existing client pages until a page is empty, and misses and repeats nothing.
func testIndexPages(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	id := group(t, s, "alice", "bob")
	var said []*storage.Draft
	for len(said) < 5_000 {
		var batch []*storage.Draft
		for range 250 {
			batch = append(batch, draft("bob", "alice", "x"), groupDraft("bob", id, "x"))
			if rand.IntN(5) == 0 {
				batch = append(batch, draft(fmt.Sprint("peer", rand.IntN(40)), "alice", "x"))
			}
		}
		said = append(said, put(t, s, batch...)...)
	}
	for _, limit := range []int{2_000, 333} {
		var got []int64
		pages := 0
		for after := int64(0); ; pages++ {
			page := indexIDs(t, s, "alice", after, limit)
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			after = page[len(page)-1]
		}
		require.Equal(t, draftIDs(said), got)
		require.Equal(t, (len(said)+limit-1)/limit, pages, "only the last page is short")
	}
}

// The merge reads little of each conversation at first, whatever their messages' order.
func testIndexMerges(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	var said []*storage.Draft
	for round := range 3 {
		for i := range 20 {
			said = append(said, talk(t, s, fmt.Sprint("peer", i), "alice", 1+(i*37+round*11)%90)...)
		}
	}
	require.True(t, slices.IsSortedFunc(said, func(a, b *storage.Draft) int { return cmp.Compare(a.MessageID, b.MessageID) }))
	want := draftIDs(said)
	for _, limit := range []int{1, 50, 600, len(want), len(want) + 1} {
		require.Equal(t, want[:min(limit, len(want))], indexIDs(t, s, "alice", 0, limit))
	}
	for range 20 {
		i := rand.IntN(len(want))
		require.Equal(t, want[i+1:min(i+101, len(want))], indexIDs(t, s, "alice", want[i], 100))
	}
}
