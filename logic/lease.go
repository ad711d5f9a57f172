package logic

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire/pb"
)

// lease handles what gateways ask for their sessions. Whose they are is who asks: the link's peer.
type lease struct {
	sessions storage.Sessions
	dispatch *dispatcher
	policy   storage.DevicePolicy
	settle   time.Duration // Config.LocationAge
}

func (l *lease) renew(ctx context.Context, c *Context, req *pb.LeaseRenewReq) (proto.Message, error) {
	lost, err := l.sessions.RenewLease(ctx, c.Gateway, req.LeaseMs, req.Stamp)
	if err != nil {
		return nil, err
	}
	missed, err := l.sessions.Missed(ctx, c.Gateway, req.Told)
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseRenewResp{Lost: lost}
	if missed.UpTo > 0 {
		resp.Missed = &pb.Missed{Channels: missed.Channels, Kicked: missed.Kicked, All: missed.All, UpTo: missed.UpTo}
	}
	return resp, nil
}

func (l *lease) restore(ctx context.Context, c *Context, req *pb.SessionRestoreReq) (proto.Message, error) {
	stamp, displaced, err := l.sessions.Restore(ctx, c.Gateway, sessionsOf(c.Gateway, req.Sessions), l.policy)
	if err != nil {
		return nil, err
	}
	resp := &pb.SessionRestoreResp{Stamp: stamp}
	for _, d := range displaced {
		l.dispatch.kick(d)
		if d.Gateway == c.Gateway { // should the kick be lost
			resp.Displaced = append(resp.Displaced, d.Channel)
		}
	}
	select { // the gateway hints its clients upon the answer: see locations
	case <-time.After(l.settle):
	case <-ctx.Done():
		return nil, ctx.Err()
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
			Instance: s.Instance,
			Attempt:  s.Attempt,
			LoginAt:  s.LoginAt,
		}
	}
	return out
}
