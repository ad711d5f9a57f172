package logic

import (
	"context"
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
	resp := &pb.SyncResp{Conversations: make([]*pb.ConversationDelta, len(deltas)), More: more}
	for i, d := range deltas {
		resp.Conversations[i] = deltaOf(d)
	}
	return resp, nil
}

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
	resp := &pb.HistoryResp{Messages: messagesOf(d.Messages), LastSeq: d.LastSeq, JoinedSeq: d.JoinedSeq}
	if d.Conversation != 0 {
		resp.Conversation = conversationID(d.Conversation)
	}
	return resp, nil
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
