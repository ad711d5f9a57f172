package logic

import (
	"context"
	"iter"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// syncer handles what clients with cursors do: chat.sync and chat.history.
type syncer struct {
	messages storage.Messages
}

const (
	// syncPage is the largest number of messages of one chat.sync answer, and its default.
	syncPage = 500
	// maxCursors bounds the cursors of one chat.sync.
	maxCursors = 10_000
	// maxBuckets bounds SyncReq.buckets.
	maxBuckets = 1024
	// historyPage is the default number of messages of one chat.history answer.
	historyPage = 50
	// maxHistoryPage is the largest.
	maxHistoryPage = 200
	// answerBytes bounds the messages of one answer, far below the largest packet of a link: what is
	// too much comes with the next page.
	answerBytes = 4 << 20
)

func (s *syncer) sync(ctx context.Context, c *Context, req *pb.SyncReq) (proto.Message, error) {
	if err := checkBuckets(req); err != nil {
		return nil, err
	}
	if len(req.Digests) > 0 {
		return s.stale(ctx, c, req)
	}
	q, err := syncQuery(req)
	if err != nil {
		return nil, err
	}
	who := c.Account()
	news, err := s.messages.Sync(ctx, who.App, who.Account, q)
	if err != nil {
		return nil, err
	}
	resp := &pb.SyncResp{More: news.More}
	for _, id := range news.Gone {
		resp.Gone = append(resp.Gone, conversationID(id))
	}
	for _, d := range news.Deltas {
		resp.Conversations = append(resp.Conversations, deltaOf(d))
	}
	return resp, nil
}

// checkBuckets checks what the request says about buckets.
func checkBuckets(req *pb.SyncReq) error {
	invalid := func(format string, args ...any) error { return wire.Errorf(wire.StatusInvalidBody, format, args...) }
	switch {
	case req.Buckets > maxBuckets:
		return invalid("a sync has at most %d buckets", maxBuckets)
	case len(req.Digests) > 0 && len(req.Digests) != int(req.Buckets):
		return invalid("there are %d digests for %d buckets: send one for each", len(req.Digests), req.Buckets)
	case len(req.Digests) > 0 && len(req.Cursors)+len(req.Only) > 0:
		return invalid("send digests, or cursors and only")
	case len(req.Only) > int(req.Buckets):
		return invalid("only names %d buckets of %d", len(req.Only), req.Buckets)
	}
	for _, b := range req.Only {
		if b >= req.Buckets {
			return invalid("only names bucket %d of %d: the first is 0", b, req.Buckets)
		}
	}
	return nil
}

// stale answers digests.
func (s *syncer) stale(ctx context.Context, c *Context, req *pb.SyncReq) (proto.Message, error) {
	digests := make([]storage.Digest, len(req.Digests))
	for i, d := range req.Digests {
		digests[i] = storage.Digest{
			Conversations: d.GetConversations(),
			IDs:           d.GetIds(),
			Seqs:          d.GetSeqs(),
			Reads:         d.GetReads(),
			NoReads:       d == nil || d.Reads == nil,
		}
	}
	who := c.Account()
	stale, err := s.messages.Stale(ctx, who.App, who.Account, digests)
	if err != nil {
		return nil, err
	}
	return &pb.SyncResp{Stale: stale}, nil
}

func syncQuery(req *pb.SyncReq) (storage.SyncQuery, error) {
	if len(req.Cursors) > maxCursors {
		return storage.SyncQuery{}, wire.Errorf(wire.StatusInvalidBody, "a sync has at most %d cursors", maxCursors)
	}
	q := storage.SyncQuery{
		Cursors: make(map[int64]storage.Cursor, len(req.Cursors)),
		Scope:   storage.Scope{Buckets: req.Buckets, Only: req.Only},
		Limit:   page(req.Limit, syncPage, syncPage),
		Bytes:   answerBytes,
	}
	for _, k := range req.Cursors {
		id, err := parseConversation(k.Conversation)
		if err != nil {
			return q, err
		}
		read := int64(storage.ReadUnknown)
		if k.ReadSeq != nil {
			read = max(0, *k.ReadSeq)
		}
		q.Cursors[id] = storage.Cursor{Seq: k.Seq, ReadSeq: read}
	}
	return q, nil
}

// fitting is how many of the messages fit into what is left of an answer, and takes that off. The
// first message of an answer always fits.
func fitting(messages iter.Seq[storage.Message], left *int) (n int) {
	for m := range messages {
		size := len(m.Body) + len(m.Extra) + messageOverhead
		if size > *left && *left < answerBytes {
			return n
		}
		*left -= size
		n++
	}
	return n
}

// messageOverhead is about what a message has beside body and extra, in bytes.
const messageOverhead = 256

func deltaOf(d storage.Delta) *pb.ConversationDelta {
	out := &pb.ConversationDelta{
		Conversation: conversationID(d.Conversation),
		Peer:         d.Peer,
		LastSeq:      d.LastSeq,
		JoinedSeq:    d.JoinedSeq,
		Messages:     messagesOf(d.Messages),
		ReadSeq:      d.ReadSeq,
		Unread:       d.Unread,
	}
	if d.Kind == storage.KindGroup {
		out.Group = out.Conversation
	}
	return out
}

func messagesOf(list []storage.Message) []*pb.Message {
	out := make([]*pb.Message, len(list))
	for i, m := range list {
		out[i] = &pb.Message{
			MessageId: m.ID,
			Seq:       m.Seq,
			Sender:    m.Sender,
			SendTime:  m.SendTime,
			Type:      m.Type,
			Body:      m.Body,
			Extra:     m.Extra,
			ClientId:  m.ClientID,
		}
	}
	return out
}

func (s *syncer) history(ctx context.Context, c *Context, req *pb.HistoryReq) (proto.Message, error) {
	r := storage.Range{BeforeSeq: req.BeforeSeq, Limit: page(req.Limit, historyPage, maxHistoryPage)}
	switch {
	case req.Conversation != "":
		id, err := parseConversation(req.Conversation)
		if err != nil {
			return nil, err
		}
		r.Conversation = id
	case req.Group != "":
		r.Kind, r.Dest = storage.KindGroup, req.Group
	case req.Peer != "":
		r.Kind, r.Dest = storage.KindUser, req.Peer
	default:
		return nil, wire.Errorf(wire.StatusInvalidBody, "name a conversation, a peer or a group")
	}
	who := c.Account()
	d, err := s.messages.History(ctx, who.App, who.Account, r)
	if err != nil {
		return nil, err
	}
	left := answerBytes
	n := fitting(backwards(d.Messages), &left)
	resp := &pb.HistoryResp{Messages: messagesOf(d.Messages[len(d.Messages)-n:]), LastSeq: d.LastSeq, JoinedSeq: d.JoinedSeq}
	if d.Conversation != 0 {
		resp.Conversation = conversationID(d.Conversation)
	}
	return resp, nil
}

func backwards(list []storage.Message) iter.Seq[storage.Message] {
	return func(yield func(storage.Message) bool) {
		for _, m := range slices.Backward(list) {
			if !yield(m) {
				return
			}
		}
	}
}

// page is what a client asked for, within bounds.
func page(asked int32, otherwise, most int) int {
	if asked <= 0 {
		return otherwise
	}
	return min(int(asked), most)
}

func parseConversation(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id <= 0 {
		return 0, wire.Errorf(wire.StatusInvalidBody, "%q is no conversation", s)
	}
	return id, nil
}
