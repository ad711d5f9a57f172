package logic

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func TestOfflineIndex(t *testing.T) {
	f := start(t, func(c *Config) { c.IndexPage = 100 })
	f.store.entries = []storage.IndexEntry{
		{Message: storage.Message{ID: 1, Sender: "bob", SendTime: 11, Seq: 1, Conversation: 7}, Kind: storage.KindUser, Peer: "bob"},
		{Message: storage.Message{ID: 2, Sender: "alice", SendTime: 12, Seq: 2, Conversation: 7}, Kind: storage.KindUser, Peer: "bob"},
		{Message: storage.Message{ID: 3, Sender: "carol", SendTime: 13, Seq: 1, Conversation: 9}, Kind: storage.KindGroup},
		{Message: storage.Message{ID: 4, Sender: "alice", SendTime: 14, Seq: 2, Conversation: 9}, Kind: storage.KindGroup},
	}
	var resp pb.MessageIndexResp
	p := f.succeeds(asClient("alice", wire.CmdOfflineIndex), &pb.MessageIndexReq{MessageId: 5}, &resp)
	require.Equal(t, []wire.Delivered{
		{Conversation: 7, From: 1, To: 2, MessageID: 4}, {Conversation: 9, From: 1, To: 2, MessageID: 4},
	}, p.Delivered, "for the gateway: the page's last message")
	h := asClient("alice", wire.CmdOfflineIndex)
	f.succeeds(h, &pb.MessageIndexReq{}, nil)
	h.Delivered = []wire.Delivered{{MessageID: 4}}
	f.succeeds(h, &pb.MessageIndexReq{MessageId: 4}, nil)
	require.Equal(t, []string{
		"index demo alice 5 true 100", "index demo alice 0 false 100", "index demo alice 4 false 100",
	}, f.store.calls(), "above an id, since the acks, and on from there")
	want := &pb.MessageIndexResp{Indexes: []*pb.MessageIndex{
		{MessageId: 1, SendTime: 11, AccountB: "bob", Seq: 1, Conversation: "7"},
		{MessageId: 2, SendTime: 12, AccountB: "bob", Seq: 2, Conversation: "7", Direction: 1},
		{MessageId: 3, SendTime: 13, AccountB: "carol", Group: "9", Seq: 1, Conversation: "9"},
		{MessageId: 4, SendTime: 14, AccountB: "alice", Group: "9", Seq: 2, Conversation: "9", Direction: 1},
	}}
	require.True(t, proto.Equal(want, &resp), "%v", &resp)
}

func TestOfflineContent(t *testing.T) {
	f := start(t, nil)
	f.store.content = []storage.Message{{ID: 2, Type: 1, Body: "two", Extra: "x"}, {ID: 1, Type: 3, Body: "one"}}
	h := asClient("alice", wire.CmdOfflineContent)
	var resp pb.MessageContentResp
	f.succeeds(h, &pb.MessageContentReq{MessageIds: []int64{2, 1}}, &resp)
	want := &pb.MessageContentResp{Contents: []*pb.MessageContent{
		{MessageId: 2, Type: 1, Body: "two", Extra: "x"}, {MessageId: 1, Type: 3, Body: "one"},
	}}
	require.True(t, proto.Equal(want, &resp), "%v", &resp)
	f.succeeds(h, &pb.MessageContentReq{MessageIds: make([]int64, contentPage)}, nil)
	f.fails(h, &pb.MessageContentReq{MessageIds: make([]int64, contentPage+1)}, wire.StatusInvalidBody)
	f.fails(h, &pb.MessageContentReq{}, wire.StatusInvalidBody)
	f.store.content = nil // another's messages are none
	f.fails(h, &pb.MessageContentReq{MessageIds: []int64{3}}, wire.StatusNoDestination)
}

func TestAck(t *testing.T) {
	f := start(t, nil)
	h := asClient("alice", wire.CmdTalkAck)
	h.Delivered = []wire.Delivered{{Conversation: 7, From: 1, To: 2, MessageID: 4}, {Conversation: 9, From: 3, To: 3, MessageID: 5}}
	f.store.acked = map[int64]int64{9: 3, 7: 2}
	p := f.succeeds(h, &pb.MessageAckReq{MessageId: 5}, nil)
	require.Equal(t, []string{"ack demo alice 5 [{7 1 2 4} {9 3 3 5}]"}, f.store.calls())
	require.Equal(t, []wire.Delivered{{Conversation: 7, To: 2}, {Conversation: 9, To: 3}}, p.Delivered, "the gateway may forget them")
	f.store.set(func() { f.store.err = storage.ErrNoMessage })
	f.fails(asClient("alice", wire.CmdTalkAck), &pb.MessageAckReq{MessageId: 6}, wire.StatusNoDestination)
}

func TestSync(t *testing.T) {
	f := start(t, nil)
	f.store.news.Deltas = []storage.Delta{
		{Conversation: 7, Kind: storage.KindUser, Peer: "bob", LastSeq: 3, Messages: []storage.Message{
			{Conversation: 7, Seq: 3, ID: 30, Sender: "bob", ClientID: "c", Type: 1, Body: "b", Extra: "e", SendTime: 9},
		}},
		{Conversation: 9, Kind: storage.KindGroup, LastSeq: 8, JoinedSeq: 8, ReadSeq: 8, Unread: 4},
	}
	var resp pb.SyncResp
	f.succeeds(asClient("alice", wire.CmdSync), &pb.SyncReq{Cursors: []*pb.Cursor{{Conversation: "7", Seq: 2}}, Limit: 20}, &resp)
	require.Equal(t, []string{"sync demo alice {Cursors:map[7:{Seq:2 ReadSeq:-1}] Scope:{Buckets:0 Only:[]} Limit:20 Bytes:4194304}"}, f.store.calls())
	want := &pb.SyncResp{Conversations: []*pb.ConversationDelta{
		{Conversation: "7", Peer: "bob", LastSeq: 3, Messages: []*pb.Message{
			{MessageId: 30, Seq: 3, Sender: "bob", SendTime: 9, Type: 1, Body: "b", Extra: "e", ClientId: "c"},
		}},
		{Conversation: "9", Group: "9", LastSeq: 8, JoinedSeq: 8, ReadSeq: 8, Unread: 4},
	}}
	require.True(t, proto.Equal(want, &resp), "%v", &resp)

	h := asClient("alice", wire.CmdSync)
	for _, bad := range []string{"", "x", "-1", "0", "9223372036854775808"} {
		f.fails(h, &pb.SyncReq{Cursors: []*pb.Cursor{{Conversation: bad}}}, wire.StatusInvalidBody)
	}
	f.fails(h, &pb.SyncReq{Cursors: make([]*pb.Cursor, maxCursors+1)}, wire.StatusInvalidBody)
}

func TestSyncOfBuckets(t *testing.T) {
	f := start(t, nil)
	f.store.news = storage.News{Gone: []int64{5, 12}}
	h := asClient("alice", wire.CmdSync)
	var resp pb.SyncResp
	f.succeeds(h, &pb.SyncReq{
		Buckets: 7, Only: []uint32{6, 5}, Cursors: []*pb.Cursor{{Conversation: "5", Seq: 1, ReadSeq: proto.Int64(0)}, {Conversation: "12"}},
	}, &resp)
	require.Equal(t, []string{
		"sync demo alice {Cursors:map[5:{Seq:1 ReadSeq:0} 12:{Seq:0 ReadSeq:-1}] Scope:{Buckets:7 Only:[6 5]} Limit:500 Bytes:4194304}",
	}, f.store.calls())
	require.True(t, proto.Equal(&pb.SyncResp{Gone: []string{"5", "12"}}, &resp), "%v", &resp)

	f.store.stale = []uint32{1}
	f.succeeds(h, &pb.SyncReq{Buckets: 2, Digests: []*pb.Digest{
		{Conversations: 1, Ids: 2, Seqs: 3, Reads: proto.Uint64(0)}, {Conversations: 4, Ids: 5, Seqs: 6},
	}}, &resp)
	require.True(t, proto.Equal(&pb.SyncResp{Stale: []uint32{1}}, &resp), "%v", &resp)
	require.Equal(t, "stale demo alice [{Conversations:1 IDs:2 Seqs:3 Reads:0 NoReads:false} {Conversations:4 IDs:5 Seqs:6 Reads:0 NoReads:true}]",
		f.store.calls()[1])

	f.succeeds(h, &pb.SyncReq{Buckets: maxBuckets, Digests: make([]*pb.Digest, maxBuckets)}, nil)
	asked := len(f.store.calls())
	for _, test := range []struct {
		req  *pb.SyncReq
		text string
	}{
		{&pb.SyncReq{Buckets: maxBuckets + 1}, "a sync has at most 1024 buckets"},
		{&pb.SyncReq{Buckets: 2, Digests: make([]*pb.Digest, 3)}, "there are 3 digests for 2 buckets: send one for each"},
		{&pb.SyncReq{Digests: make([]*pb.Digest, 1)}, "there are 1 digests for 0 buckets: send one for each"},
		{&pb.SyncReq{Buckets: 1, Digests: make([]*pb.Digest, 1), Only: []uint32{0}}, "send digests, or cursors and only"},
		{&pb.SyncReq{Buckets: 3, Only: []uint32{1, 3}}, "only names bucket 3 of 3: the first is 0"},
		{&pb.SyncReq{Buckets: 2, Only: []uint32{1, 1, 1}}, "only names 3 buckets of 2"},
		{&pb.SyncReq{Only: []uint32{0}}, "only names 1 buckets of 0"},
	} {
		require.Equal(t, test.text, f.fails(h, test.req, wire.StatusInvalidBody))
	}
	require.Len(t, f.store.calls(), asked)
}

// The account's other devices that understand it hear of a position that has moved; nobody else.
func TestRead(t *testing.T) {
	f := start(t, nil)
	reads := storage.Feature(wire.FeatureRead | wire.FeatureSync)
	f.online("gateway-1", "alice", reads, "", "laptop")
	f.online("gateway-2", "alice", reads, "tablet")
	f.online("gateway-2", "alice", storage.Feature(wire.FeatureSync), "phone")
	f.online("gateway-1", "bob", reads, "")
	h := asClient("alice", wire.CmdRead) // of gateway-1.alice
	f.store.position, f.store.moved = storage.Position{ReadSeq: 8, Unread: 2, LastSeq: 12}, true
	var resp pb.ReadResp
	f.succeeds(h, &pb.ReadReq{Conversation: "7", Seq: 9}, &resp)
	require.Equal(t, []string{"read demo alice 7 9"}, f.store.calls())
	require.True(t, proto.Equal(&pb.ReadResp{Seq: 8, Unread: 2, LastSeq: 12}, &resp), "%v", &resp)
	require.Equal(t, []string{"gateway-1.alice.laptop", "gateway-2.alice.tablet"}, f.links.reached())
	for _, p := range f.links.pushes() {
		require.Equal(t, wire.CmdRead, p.Command)
		var m pb.ReadNotify
		require.NoError(t, proto.Unmarshal(p.Body, &m))
		require.True(t, proto.Equal(&pb.ReadNotify{Conversation: "7", Seq: 8, Unread: 2, LastSeq: 12}, &m), "%v", &m)
	}
	pushes := len(f.links.pushes())

	f.store.set(func() { f.store.moved = false })
	f.succeeds(h, &pb.ReadReq{Conversation: "7", Seq: 3}, nil)
	f.fails(h, &pb.ReadReq{Conversation: "x", Seq: 3}, wire.StatusInvalidBody)
	for err, status := range map[error]wire.Status{
		storage.ErrNoConversation: wire.StatusNoDestination,
		storage.ErrNotMember:      wire.StatusUnauthorized,
		errors.New("broken"):      wire.StatusSystemException,
	} {
		f.store.set(func() { f.store.err = err })
		f.fails(h, &pb.ReadReq{Conversation: "7", Seq: 3}, status)
	}
	require.Len(t, f.links.pushes(), pushes)

	// Nobody could be told: all will sync, and learn it by their digests.
	f.store.set(func() { f.store.err, f.store.moved = nil, true })
	f.sessions.setDown(true)
	f.succeeds(h, &pb.ReadReq{Conversation: "7", Seq: 9}, nil)
	f.sessions.setDown(false)
	f.links.happened.Until(t, "a hint", func() bool { return len(f.links.broadcasts()) > 0 })
	f.idle()
}

func TestPageSizes(t *testing.T) {
	for asked, want := range map[int32]int{0: 50, -1: 50, math.MinInt32: 50, 1: 1, 200: 200, 201: 200, math.MaxInt32: 200} {
		require.Equal(t, want, page(asked, historyPage, maxHistoryPage), asked)
	}
}

// messages of size bytes each, from seq first on.
func messages(conversation, first int64, count, size int) (out []storage.Message) {
	for i := range count {
		out = append(out, storage.Message{
			Conversation: conversation, Seq: first + int64(i), ID: first + int64(i), Body: strings.Repeat("x", size),
		})
	}
	return out
}

func TestHistory(t *testing.T) {
	f := start(t, nil)
	f.store.page = storage.Delta{Conversation: 7, LastSeq: 9, JoinedSeq: 2, Messages: messages(7, 8, 2, 1)}
	h := asClient("alice", wire.CmdHistory)
	for _, test := range []struct {
		req  *pb.HistoryReq
		call string
	}{
		{&pb.HistoryReq{Conversation: "7", BeforeSeq: 10, Limit: 2}, "{Conversation:7 Kind:0 Dest: BeforeSeq:10 Limit:2}"},
		{&pb.HistoryReq{Peer: "bob"}, "{Conversation:0 Kind:1 Dest:bob BeforeSeq:0 Limit:50}"},
		{&pb.HistoryReq{Group: "9", Limit: 5000}, "{Conversation:0 Kind:2 Dest:9 BeforeSeq:0 Limit:200}"},
	} {
		var resp pb.HistoryResp
		f.succeeds(h, test.req, &resp)
		calls := f.store.calls()
		require.Equal(t, "history demo alice "+test.call, calls[len(calls)-1])
		require.Equal(t, "7", resp.Conversation)
		require.Len(t, resp.Messages, 2)
		require.EqualValues(t, 9, resp.LastSeq)
		require.EqualValues(t, 2, resp.JoinedSeq)
	}
	f.fails(h, &pb.HistoryReq{}, wire.StatusInvalidBody)
	f.fails(h, &pb.HistoryReq{Conversation: "x"}, wire.StatusInvalidBody)

	f.store.page = storage.Delta{Conversation: 7, LastSeq: 200, Messages: messages(7, 1, 200, 60<<10)}
	var resp pb.HistoryResp
	f.succeeds(h, &pb.HistoryReq{Peer: "bob", Limit: 200}, &resp)
	require.EqualValues(t, 200, resp.Messages[len(resp.Messages)-1].Seq, "the newest, as many as fit")
	require.Equal(t, 67, len(resp.Messages))

	f.store.page = storage.Delta{Kind: storage.KindUser, Peer: "bob"}
	f.succeeds(h, &pb.HistoryReq{Peer: "bob"}, &resp)
	require.Empty(t, resp.Conversation, "there is none yet")

	f.store.set(func() { f.store.err = storage.ErrNotMember })
	f.fails(h, &pb.HistoryReq{Group: "9"}, wire.StatusUnauthorized)
}
