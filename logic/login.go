package logic

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// login handles login.signin. The gateway has verified the token and handles login.signout: a
// session ends with its channel (lease.endSessions).
type login struct {
	sessions storage.Sessions
	dispatch *dispatcher
}

// signIn makes the channel the session of its device, and displaces the device's older one.
func (l *login) signIn(ctx context.Context, c *Context, req *pb.LoginReq) (proto.Message, error) {
	features := wire.ParseFeatures(req.Features)
	displaced, err := l.sessions.Login(ctx, storage.Session{
		App:      c.Packet.App,
		Account:  c.Packet.Account,
		Device:   c.Packet.Device,
		Platform: req.Platform,
		Channel:  c.Packet.ChannelID,
		Gateway:  c.Gateway,
		Features: storage.Feature(features),
		LoginAt:  time.Now().UnixNano(),
	})
	if err != nil {
		return nil, err
	}
	if displaced != nil {
		l.dispatch.kick(*displaced)
	}
	return &pb.LoginResp{ChannelId: c.Packet.ChannelID, Account: c.Packet.Account, Features: features.Names()}, nil
}
