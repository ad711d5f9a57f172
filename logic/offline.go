package logic

import (
	"context"
	"maps"
	"slices"

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

// ack acknowledges what the gateway names as delivered up to the message, and nothing else. It tells
// the gateway how far each conversation is acknowledged now.
func (o *offline) ack(ctx context.Context, c *Context, req *pb.MessageAckReq) (proto.Message, error) {
	who := c.Account()
	runs := make([]storage.Run, len(c.Packet.Delivered))
	for i, d := range c.Packet.Delivered {
		runs[i] = storage.Run(d)
	}
	acked, err := o.messages.Ack(ctx, who.App, who.Account, req.MessageId, runs)
	for _, conversation := range slices.Sorted(maps.Keys(acked)) {
		c.Delivered = append(c.Delivered, wire.Delivered{Conversation: conversation, To: acked[conversation]})
	}
	return nil, err
}

// index answers with a page of the index: of what is not acknowledged, from the beginning or, where
// the gateway says that the client goes on reading that; or of everything above an id.
func (o *offline) index(ctx context.Context, c *Context, req *pb.MessageIndexReq) (proto.Message, error) {
	who := c.Account()
	goesOn := len(c.Packet.Delivered) > 0
	entries, err := o.messages.Index(ctx, who.App, who.Account, req.MessageId, req.MessageId > 0 && !goesOn, o.indexPage)
	if err != nil {
		return nil, err
	}
	resp := &pb.MessageIndexResp{Indexes: make([]*pb.MessageIndex, len(entries))}
	for i, e := range entries {
		resp.Indexes[i] = indexOf(e, who.Account)
	}
	c.Delivered = pageRuns(entries)
	return resp, nil
}

// pageRuns are the runs of a page of the index.
func pageRuns(entries []storage.IndexEntry) (runs []wire.Delivered) {
	place := make(map[int64]int) // of a conversation's last run
	for _, e := range entries {
		i, ok := place[e.Conversation]
		if !ok || runs[i].To+1 != e.Seq {
			i = len(runs)
			place[e.Conversation] = i
			runs = append(runs, wire.Delivered{Conversation: e.Conversation, From: e.Seq, MessageID: entries[len(entries)-1].ID})
		}
		runs[i].To = e.Seq
	}
	return runs
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
