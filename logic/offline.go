package logic

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// offline handles what clients without cursors do: the offline index, contents and acks.
type offline struct {
	messages  storage.Messages
	indexPage int
}

// contentPage is the largest number of messages that one request may ask for (protocol.md).
const contentPage = 200

func (o *offline) ack(ctx context.Context, c *Context, req *pb.MessageAckReq) (proto.Message, error) {
	who := c.Account()
	return nil, o.messages.Ack(ctx, who.App, who.Account, req.MessageId)
}

func (o *offline) index(ctx context.Context, c *Context, req *pb.MessageIndexReq) (proto.Message, error) {
	who := c.Account()
	entries, err := o.messages.Index(ctx, who.App, who.Account, req.MessageId, o.indexPage)
	if err != nil {
		return nil, err
	}
	resp := &pb.MessageIndexResp{Indexes: make([]*pb.MessageIndex, len(entries))}
	for i, e := range entries {
		resp.Indexes[i] = indexOf(e, who.Account)
	}
	return resp, nil
}

func indexOf(e storage.IndexEntry, account string) *pb.MessageIndex {
	m := &pb.MessageIndex{
		MessageId:    e.ID,
		SendTime:     e.SendTime,
		AccountB:     e.Peer,
		Seq:          e.Seq,
		Conversation: conversationID(e.Conversation),
	}
	if e.Sender == account {
		m.Direction = 1
	}
	if e.Kind == storage.KindGroup {
		m.AccountB, m.Group = e.Sender, conversationID(e.Conversation)
	}
	return m
}

func (o *offline) content(ctx context.Context, c *Context, req *pb.MessageContentReq) (proto.Message, error) {
	if len(req.MessageIds) == 0 || len(req.MessageIds) > contentPage {
		return nil, wire.Errorf(wire.StatusInvalidBody, "ask for 1 to %d messages at once", contentPage)
	}
	who := c.Account()
	messages, err := o.messages.Content(ctx, who.App, who.Account, req.MessageIds)
	if err != nil {
		return nil, err
	}
	if len(messages) == 0 {
		return nil, storage.ErrNoMessage
	}
	resp := &pb.MessageContentResp{Contents: make([]*pb.MessageContent, len(messages))}
	for i, m := range messages {
		resp.Contents[i] = &pb.MessageContent{MessageId: m.ID, Type: m.Type, Body: m.Body, Extra: m.Extra}
	}
	return resp, nil
}
