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
	// historyPage is the default number of messages of one chat.history answer.
	historyPage = 50
	// maxHistoryPage is the largest.
	maxHistoryPage = 200
	// answerBytes bounds the messages of one answer, far below the largest packet of a link: what is
	// too much comes with the next page.
	answerBytes = 4 << 20
)

func (s *syncer) sync(ctx context.Context, c *Context, req *pb.SyncReq) (proto.Message, error) {
	if len(req.Cursors) > maxCursors {
		return nil, wire.Errorf(wire.StatusInvalidBody, "a sync has at most %d cursors", maxCursors)
	}
	cursors := make(map[int64]int64, len(req.Cursors))
	for _, k := range req.Cursors {
		id, err := parseConversation(k.Conversation)
		if err != nil {
			return nil, err
		}
		cursors[id] = k.Seq
	}
	who := c.Account()
	deltas, more, err := s.messages.Sync(ctx, who.App, who.Account, cursors, page(req.Limit, syncPage, syncPage))
	if err != nil {
		return nil, err
	}
	resp := &pb.SyncResp{More: more}
	left := answerBytes
	for _, d := range deltas {
		n := fitting(slices.Values(d.Messages), &left)
		if n < len(d.Messages) {
			resp.More = true
		}
		if n == 0 && len(d.Messages) > 0 {
			continue
		}
		d.Messages = d.Messages[:n]
		resp.Conversations = append(resp.Conversations, deltaOf(d))
	}
	return resp, nil
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
