package logic

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire/pb"
)

// lease handles what gateways ask for their sessions. Whose they are is who asks: the link's peer.
type lease struct {
	sessions storage.Sessions
}

func (l *lease) renew(ctx context.Context, c *Context, req *pb.LeaseRenewReq) (proto.Message, error) {
	existed, err := l.sessions.RenewLease(ctx, c.Gateway, req.LeaseMs)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRenewResp{Lost: !existed}, nil
}

func (l *lease) restore(ctx context.Context, c *Context, req *pb.SessionRestoreReq) (proto.Message, error) {
	displaced, err := l.sessions.Restore(ctx, sessionsOf(c.Gateway, req.Sessions))
	if err != nil {
		return nil, err
	}
	resp := &pb.SessionRestoreResp{}
	for _, s := range displaced {
		resp.Displaced = append(resp.Displaced, s.Channel)
	}
	return resp, nil
}

func (l *lease) endSessions(ctx context.Context, c *Context, req *pb.SessionEndReq) (proto.Message, error) {
	for _, s := range sessionsOf(c.Gateway, req.Sessions) {
		if _, err := l.sessions.Logout(ctx, s.App, s.Account, s.Device, s.Channel); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (l *lease) end(ctx context.Context, c *Context, _ *pb.LeaseRenewReq) (proto.Message, error) {
	return nil, l.sessions.EndLease(ctx, c.Gateway)
}

func sessionsOf(gateway string, list []*pb.Session) []storage.Session {
	out := make([]storage.Session, len(list))
	for i, s := range list {
		out[i] = storage.Session{
			App:      s.App,
			Account:  s.Account,
			Device:   s.Device,
			Platform: s.Platform,
			Channel:  s.Channel,
			Gateway:  gateway,
			Features: storage.Feature(s.Features),
			LoginAt:  s.LoginAt,
		}
	}
	return out
}
