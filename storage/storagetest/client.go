package storagetest

import (
	"context"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	require.TestingT
	Context() context.Context
}

// client keeps what a client keeps, and moves it on as docs/protocol.md says ("chat.sync").
type client struct {
	account string
	has     map[int64]*held
	noReads bool
}

// held is what a client has of one conversation.
type held struct {
	seq, read int64
	// unread is what the server said with the last message; -1 while it has not.
	unread   int64
	messages map[int64]storage.Message
}

func newClient(account string) *client {
	return &client{account: account, has: make(map[int64]*held)}
}

func (c *client) digests(buckets int) []storage.Digest {
	out := make([]storage.Digest, buckets)
	for id, h := range c.has {
		d := &out[id%int64(buckets)]
		d.Conversations++
		d.IDs += uint64(id % storage.DigestModulus)
		d.Seqs += uint64(h.seq)
		d.Reads += uint64(h.read)
	}
	for i := range out {
		if out[i].NoReads = c.noReads; c.noReads {
			out[i].Reads = 0
		}
	}
	return out
}

// query is what the client asks for one page.
func (c *client) query(scope storage.Scope, limit int) storage.SyncQuery {
	q := storage.SyncQuery{Cursors: make(map[int64]storage.Cursor), Scope: scope, Limit: limit}
	for id, h := range c.has {
		if scope.Has(id) {
			q.Cursors[id] = storage.Cursor{Seq: h.seq, ReadSeq: h.read}
			if c.noReads {
				q.Cursors[id] = storage.Cursor{Seq: h.seq, ReadSeq: storage.ReadUnknown}
			}
		}
	}
	return q
}

// page syncs one page and checks what holds of each, whatever else happens at the same time.
func (c *client) page(t tester, s MessageStore, scope storage.Scope, limit int) storage.News {
	news, err := s.Sync(t.Context(), "app", c.account, c.query(scope, limit))
	require.NoError(t, err)
	size := 0
	for _, d := range news.Deltas {
		require.True(t, scope.Has(d.Conversation))
		size += max(1, len(d.Messages))
		c.apply(t, d)
	}
	require.LessOrEqual(t, size, limit)
	if news.More {
		require.Equal(t, limit, size, "a page is full while there is more")
	}
	for _, id := range news.Gone {
		require.Contains(t, c.has, id)
		require.True(t, scope.Has(id))
		delete(c.has, id)
	}
	return news
}

func (c *client) apply(t require.TestingT, d storage.Delta) {
	h := c.has[d.Conversation]
	known := h != nil
	if !known {
		h = &held{messages: make(map[int64]storage.Message)}
		c.has[d.Conversation] = h
	}
	was := *h
	h.seq = max(h.seq, d.JoinedSeq)
	for _, m := range d.Messages {
		require.Equal(t, h.seq+1, m.Seq, "gapless from the cursor")
		require.Equal(t, d.Conversation, m.Conversation)
		h.seq = m.Seq
		h.messages[m.Seq] = m
	}
	require.LessOrEqual(t, h.seq, d.LastSeq, "bounded by what the delta says")
	require.GreaterOrEqual(t, d.ReadSeq, h.read, "a read position never moves back")
	h.read, h.unread = d.ReadSeq, -1
	if h.seq == d.LastSeq {
		h.unread = d.Unread
	} else {
		require.NotEmpty(t, d.Messages)
		require.Zero(t, d.Unread)
	}
	require.True(t, !known || h.seq != was.seq || !c.noReads && h.read != was.read, "a delta that says nothing: %+v", d)
}

// syncFully syncs until there is no more.
func (c *client) syncFully(t tester, s MessageStore) {
	for c.page(t, s, storage.Scope{}, 500).More {
	}
}
