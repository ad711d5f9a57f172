package logic

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// bulkCommands are those of the table, from a client that may ask for them.
var bulkCommands = map[wire.Command]proto.Message{
	wire.CmdOfflineIndex:   &pb.MessageIndexReq{},
	wire.CmdOfflineContent: &pb.MessageContentReq{MessageIds: []int64{1}},
	wire.CmdSync:           &pb.SyncReq{},
	wire.CmdHistory:        &pb.HistoryReq{Conversation: "7"},
	wire.CmdGroupDetail:    &pb.GroupGetReq{GroupId: "7"},
	wire.CmdGroupMembers:   &pb.GroupGetReq{GroupId: "7"},
}

// bulky is a node that has something to answer to all of them.
func bulky(t *testing.T) *fixture {
	f := start(t, nil)
	f.store.entries = []storage.IndexEntry{{Message: storage.Message{ID: 1, Conversation: 7, Seq: 1}}}
	f.store.content = []storage.Message{{ID: 1, Body: "hi"}}
	f.store.members["demo/7"] = []string{"alice"}
	return f
}

// fullLink is a link that takes no bulk answers.
type fullLink struct {
	*fakeAgent
	err error
}

func (l *fullLink) Offer(payload []byte) error {
	if l.err != nil {
		return l.err
	}
	return l.Push(payload)
}

// A client that asked for more than its gateway took had the link cut as a slow consumer: all clients of
// the gateway were disconnected or hinted (I5).
func TestBulkAnswersDoNotFillALink(t *testing.T) {
	f := bulky(t)
	for cmd, req := range bulkCommands {
		for _, test := range []struct {
			err    error
			status wire.Status
		}{
			{im.ErrQueueFull, wire.StatusSystemException},
			{im.ErrFrameTooLarge, wire.StatusInvalidBody},
			{nil, wire.StatusSuccess},
		} {
			f.receive("gateway-1", &fullLink{f.agent, test.err}, &wire.LogicPkt{Header: asClient("alice", cmd), Body: encode(t, req)})
			var got wire.LogicPkt
			f.agent.happened.Until(t, "the answer", func() bool {
				all := f.agent.got()
				if len(all) > 0 {
					got = all[len(all)-1]
				}
				return len(all) > 0 && got.Command == cmd && got.Status == test.status
			})
			require.Equal(t, cmd == wire.CmdOfflineIndex && test.err == nil, len(got.Delivered) > 0, "only what the client gets is delivered")
		}
	}
	f.idle()
	require.EqualValues(t, len(bulkCommands), f.counter("limited_total", "queue_bytes"))
	require.Len(t, f.agent.got(), 3*len(bulkCommands), "one answer each")
}

// One client that asks without waiting takes a few handlers, and leaves the others to everybody else.
func TestBulkRequestsOfOneChannel(t *testing.T) {
	f := build(t, nil)
	var release sync.WaitGroup
	release.Add(1)
	f.route(maxBulk+2, nil,
		Route{Command: "bulk", Bulk: true, Handle: func(c *Context) error { release.Wait(); return answering(c) }},
		Route{Command: "panics", Bulk: true, Handle: recoverer(f.log)(func(*Context) error { panic("x") })},
		Route{Command: "other", Handle: answering},
	)
	f.runRouter()
	for range 2 * maxBulk { // also after those that failed
		f.fails(asClient("alice", "panics"), nil, wire.StatusSystemException)
		f.idle()
		await.Until(t, "none counted", func() bool { return f.router.bulk.none() })
	}
	before := len(f.agent.got())
	for range maxBulk {
		f.give(asClient("alice", "bulk"), nil)
	}
	p := f.ask(asClient("alice", "bulk"), nil)
	require.Equal(t, wire.StatusRateLimited, p.Status)
	var refusal pb.ErrorResp
	require.NoError(t, proto.Unmarshal(p.Body, &refusal))
	require.EqualValues(t, bulkRetry.Milliseconds(), refusal.RetryAfterMs)
	require.EqualValues(t, 1, f.counter("limited_total", "bulk"))
	f.succeeds(asClient("alice", "other"), nil, nil)
	f.give(asClient("bob", "bulk"), nil)
	release.Done()
	f.idle()
	require.Len(t, f.agent.got()[before:], maxBulk+1+1+1)
	await.Until(t, "none counted", func() bool { return f.router.bulk.none() })
	f.succeeds(asClient("alice", "bulk"), nil, nil)
}

// Those that find no room among the waiting ones are not counted for ever.
func TestBulkRequestsOfABusyNode(t *testing.T) {
	f := build(t, nil)
	f.route(1, nil, Route{Command: "bulk", Bulk: true, Handle: answering})
	for i := range taskQueue {
		f.give(asClient(fmt.Sprint(i), "bulk"), nil)
	}
	for range 2 * maxBulk {
		f.fails(asClient("alice", "bulk"), nil, wire.StatusSystemException)
	}
	f.runRouter()
	await.Until(t, "none counted", func() bool { return f.router.bulk.none() })
}

func (b *bulk) none() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.underWay) == 0
}
