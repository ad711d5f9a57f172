package logic

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/wire"
)

// clocked is a store that takes a millisecond for a batch, and remembers when each began and its size.
type clocked struct {
	storage.Messages
	began   []time.Duration
	sizes   []int
	started time.Time
}

func (s *clocked) Append(_ context.Context, drafts []*storage.Draft) error {
	s.began, s.sizes = append(s.began, time.Since(s.started)), append(s.sizes, len(drafts))
	time.Sleep(time.Millisecond)
	return nil
}

// Under load commits begin CommitInterval apart; a few messages, and a whole batch, do not wait.
func TestCommitsUnderLoadKeepTheirInterval(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name  string
		first int // messages of the first commit
		then  int // that come while it runs
		later int // that come a millisecond after its end
		want  time.Duration
	}{
		{"load", busyBatch, 3, 4, 4 * ms},
		{"a few", busyBatch - 1, 3, 0, ms},
		{"a whole batch waits", busyBatch, 20, 0, ms},
		{"a whole batch comes", busyBatch, 3, 17, 2 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMetrics(prometheus.NewRegistry())
				store := &clocked{started: time.Now()}
				cfg := Config{Shards: 1, CommitInterval: 4 * ms, BatchMax: 20, QueueMax: 100, Timeout: time.Second, Now: time.Now}
				d := newDispatcher(cfg, memory.NewSessions(memory.Options{}), &fakeLinks{}, apart{}, m, quiet())
				committer := newCommitter(cfg, store, d, apart{}, m, quiet())
				node := &Node{metrics: m, log: quiet()}
				add := func(n int) {
					for i := range n {
						c := &Context{agent: new(agent), node: node, log: quiet()}
						_ = committer.add(&utterance{c: c, draft: storage.Draft{App: "a", Sender: "alice", Dest: fmt.Sprint(i), Kind: storage.KindUser}})
					}
				}
				add(test.first)
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { committer.run(ctx) })
				synctest.Wait()
				add(test.then)
				time.Sleep(2 * ms)
				add(test.later)
				time.Sleep(20 * ms)
				stop()
				wg.Wait()
				if !slices.Equal(store.sizes, []int{test.first, test.then + test.later}) || store.began[1] != test.want {
					t.Errorf("batches of %v began at %v, want the second one at %v", store.sizes, store.began, test.want)
				}
			})
		})
	}
}

// A batch whose receivers are known is pushed at once, but not before one that waits for the session store.
func TestPushesKeepTheirOrder(t *testing.T) {
	f := build(t, func(c *Config) { c.Shards, c.LocationAge = 1, time.Hour })
	f.online("gateway-1", "bob", storage.Feature(wire.FeatureSync), "")
	shard := f.committer.shards[0]
	shard.messages = &instant{members: []string{"alice", "bob"}}
	say := func() (batch []*utterance, told bool) {
		c := &Context{agent: deaf{}, log: f.log, node: f.Node}
		c.Packet.Header = talkTo("alice", "bob")
		f.inflight.Add(1)
		batch = []*utterance{{c: c, draft: storage.Draft{App: "demo", Sender: "alice", Dest: "bob", Kind: storage.KindUser}}}
		shard.commit(batch)
		return batch, shard.tell(batch)
	}
	first, told := say()
	require.False(t, told, "nobody knows yet where bob is")
	f.dispatch.messages(first)
	require.Len(t, f.links.pushes(), 1)

	shard.behind.Add(1)
	_, told = say()
	require.False(t, told, "the one before is not pushed yet")
	require.Len(t, f.links.pushes(), 1)
	shard.behind.Add(-1)
	_, told = say()
	require.True(t, told)
	require.Len(t, f.links.pushes(), 2)
}

// While the database stood still, 20,000 messages of 60 KiB waited for one shard: 1.2 GB.
func TestWaitingBytesAreBounded(t *testing.T) {
	f := build(t, func(c *Config) { c.Shards, c.MaxBody, c.BatchMax = 1, maxWaiting, 2 })
	say := func(body, extra int) error {
		c := &Context{agent: deaf{}, log: f.log, node: f.Node}
		return f.committer.add(&utterance{c: c, draft: storage.Draft{Dest: "bob", Body: strings.Repeat("x", body), Extra: strings.Repeat("x", extra)}})
	}
	require.Equal(t, errDeferred, say(maxWaiting/2, 0))
	require.Equal(t, errDeferred, say(0, maxWaiting/2-1))
	require.Equal(t, errDeferred, say(2, 0), "one is above the bound")
	require.Equal(t, errBusy, say(1, 0))
	require.Equal(t, errBusy, say(0, 0))

	shard := f.committer.shards[0]
	require.Len(t, shard.take(), 2)
	require.Equal(t, 2, shard.bytes)
	require.Equal(t, errDeferred, say(1, 0))
	require.Len(t, shard.take(), 2)
	require.Zero(t, shard.bytes)
}
