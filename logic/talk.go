package logic

import (
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// talk handles chat.user.talk and chat.group.talk as far as it can without waiting.
type talk struct {
	committer *committer
	maxBody   int
}

// maxClientID bounds MessageReq.client_id, in bytes.
const maxClientID = 64

// to makes the handler for a kind of conversation. The committer answers.
func (t *talk) to(kind storage.Kind) Handler {
	return func(c *Context) error {
		if c.Packet.Dest == "" {
			return wire.Errorf(wire.StatusNoDestination, "a message needs a destination")
		}
		var req pb.MessageReq
		if err := c.Decode(&req); err != nil {
			return err
		}
		if len(req.Body)+len(req.Extra) > t.maxBody {
			return wire.Errorf(wire.StatusInvalidBody, "a message's body and extra are at most %d bytes long", t.maxBody)
		}
		if len(req.ClientId) > maxClientID {
			return wire.Errorf(wire.StatusInvalidBody, "client_id is at most %d bytes long", maxClientID)
		}
		c.Packet.Body = nil // the link's buffer is used again
		return t.committer.add(&utterance{
			c: c,
			draft: storage.Draft{
				App:      c.Packet.App,
				Sender:   c.Packet.Account,
				Kind:     kind,
				Dest:     c.Packet.Dest,
				ClientID: req.ClientId,
				Type:     req.Type,
				Body:     req.Body,
				Extra:    req.Extra,
			},
		})
	}
}
