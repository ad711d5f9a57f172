package logic

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// reader handles read positions, which belong to the account, not to the device.
type reader struct {
	messages storage.Messages
	dispatch *dispatcher
}

// read tells the account's other devices only if the position has moved. Two of these pushes may
// overtake each other: the one with the larger seq is the truth, as the position never moves back.
func (r *reader) read(ctx context.Context, c *Context, req *pb.ReadReq) (proto.Message, error) {
	id, err := parseConversation(req.Conversation)
	if err != nil {
		return nil, err
	}
	who := c.Account()
	at, moved, err := r.messages.Read(ctx, who.App, who.Account, id, req.Seq)
	if err != nil {
		return nil, err
	}
	if moved {
		r.dispatch.toOthers(who, c.Packet.ChannelID, wire.FeatureRead, wire.Header{Command: wire.CmdRead},
			&pb.ReadNotify{Conversation: conversationID(id), Seq: at.ReadSeq, Unread: at.Unread, LastSeq: at.LastSeq})
	}
	return &pb.ReadResp{Seq: at.ReadSeq, Unread: at.Unread, LastSeq: at.LastSeq}, nil
}
