package sql

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// between has something happen before the store's statement (or BEGIN) with this number, the next one being 0.
func between(s *Store, number int, do func()) {
	log, n := record(s), 0
	log.before = func() {
		if n++; n == number+1 {
			do()
		}
	}
}

// What happens between two statements of one answer is in the next one: no gap, no message that the
// counts do not know of.
func TestAnswersAreAsOfTheirFirstStatement(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		other := newStore(t, o)
		ctx := t.Context()
		say := func(sender, dest string, n int) (id int64) {
			for range n {
				d := &storage.Draft{App: "app", Kind: storage.KindUser, Sender: sender, Dest: dest, Body: "x"}
				require.NoError(t, other.Append(ctx, []*storage.Draft{d}))
				id = d.Conversation
			}
			return id
		}
		seqs := func(messages []storage.Message) (out []int64) {
			for _, m := range messages {
				out = append(out, m.Seq)
			}
			return out
		}
		id := say("bob", "alice", 3)
		between(s, 1, func() {
			say("bob", "alice", 2)
			say("carol", "alice", 1)
			_, _, err := other.Read(ctx, "app", "alice", id, 5)
			require.NoError(t, err)
		})
		news, err := s.Sync(ctx, "app", "alice", storage.SyncQuery{Limit: 10})
		require.NoError(t, err)
		require.Len(t, news.Deltas, 1)
		d := news.Deltas[0]
		require.Equal(t, []int64{3, 0, 3}, []int64{d.LastSeq, d.ReadSeq, d.Unread})
		require.Equal(t, []int64{1, 2, 3}, seqs(d.Messages))

		// The unread ones that the client has are counted by the last statement.
		id = say("dave", "eve", 3)
		between(s, 2, func() { say("dave", "eve", 4) })
		news, err = s.Sync(ctx, "app", "eve", storage.SyncQuery{Cursors: map[int64]storage.Cursor{id: {Seq: 2}}, Limit: 10})
		require.NoError(t, err)
		require.EqualValues(t, 3, news.Deltas[0].Unread)
		require.Equal(t, []int64{3}, seqs(news.Deltas[0].Messages))
		between(s, 1, func() { say("dave", "eve", 1) })
		at, _, err := s.Read(ctx, "app", "eve", id, 0)
		require.NoError(t, err)
		require.Equal(t, storage.Position{Unread: 7, LastSeq: 7}, at)

		between(s, 1, func() { say("dave", "eve", 1) })
		page, err := s.History(ctx, "app", "eve", storage.Range{Conversation: id, Limit: 3})
		require.NoError(t, err)
		require.EqualValues(t, 8, page.LastSeq)
		require.Equal(t, []int64{6, 7, 8}, seqs(page.Messages))

		between(s, 1, func() { say("dave", "eve", 1) })
		entries, err := s.Index(ctx, "app", "eve", 0, false, 100)
		require.NoError(t, err)
		require.Len(t, entries, 9)
	})
}

// Two devices read at the same moment: the one that comes second answers where the position is now.
func TestReadThatIsOvertaken(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s, other := newStore(t, o), newStore(t, o)
		ctx := t.Context()
		var id int64
		for i := range 9 {
			d := &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "bob", Dest: "alice", Body: fmt.Sprint(i)}
			require.NoError(t, s.Append(ctx, []*storage.Draft{d}))
			id = d.Conversation
		}
		between(s, 1, func() {
			_, moved, err := other.Read(ctx, "app", "alice", id, 7)
			require.NoError(t, err)
			require.True(t, moved)
		})
		at, moved, err := s.Read(ctx, "app", "alice", id, 5)
		require.NoError(t, err)
		require.False(t, moved)
		require.Equal(t, storage.Position{ReadSeq: 7, Unread: 2, LastSeq: 9}, at)
	})
}

// The row of a conversation of two is made before its first message, in a transaction of its own:
// until then there is none, in digests and syncs alike.
func TestConversationWithoutMessageIsNone(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		ctx := t.Context()
		ids, err := s.resolve(ctx, []pair{pairOf("app", "alice", "bob")})
		require.NoError(t, err)
		id := ids[pairOf("app", "alice", "bob")]
		stale, err := s.Stale(ctx, "app", "alice", make([]storage.Digest, 3))
		require.NoError(t, err)
		require.Empty(t, stale)
		news, err := s.Sync(ctx, "app", "alice", storage.SyncQuery{Limit: 10})
		require.NoError(t, err)
		require.Equal(t, storage.News{}, news)
		news, err = s.Sync(ctx, "app", "alice", storage.SyncQuery{Cursors: map[int64]storage.Cursor{id: {}}, Limit: 10})
		require.NoError(t, err)
		require.Equal(t, storage.News{Gone: []int64{id}}, news)
	})
}
