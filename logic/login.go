package logic

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// login handles login.signin. The gateway has verified the token and handles login.signout: a
// session ends with its channel (lease.endSessions).
type login struct {
	sessions storage.Sessions
	dispatch *dispatcher
	policy   storage.DevicePolicy
	metrics  *metrics
	now      func() time.Time
	answers  *answers
}

// handle answers a login when every node knows of it: see locations.
func (l *login) handle(c *Context) error {
	req := new(pb.LoginReq)
	if err := c.Decode(req); err != nil {
		return err
	}
	ctx, cancel := c.withTimeout()
	defer cancel()
	resp, err := l.signIn(ctx, c, req)
	if err != nil {
		return err
	}
	l.answers.add(c, resp)
	return errDeferred
}

// signIn makes the channel the session of its device, and tells those that give way to it.
func (l *login) signIn(ctx context.Context, c *Context, req *pb.LoginReq) (*pb.LoginResp, error) {
	features := wire.ParseFeatures(req.Features)
	admission, err := l.sessions.Login(ctx, storage.Session{
		App:      c.Packet.App,
		Account:  c.Packet.Account,
		Device:   c.Packet.Device,
		Platform: req.Platform,
		Channel:  c.Packet.ChannelID,
		Gateway:  c.Gateway,
		Features: storage.Feature(features),
		Instance: req.Instance,
		Attempt:  req.Attempt,
		LoginAt:  l.now().UnixNano(),
	}, l.policy)
	l.metrics.loggedIn(err)
	if err != nil {
		var conflict *storage.ConflictError
		if errors.As(err, &conflict) {
			l.dispatch.verify(conflict.Sessions)
		}
		return nil, err
	}
	for _, d := range admission.Displaced {
		l.dispatch.kick(d)
	}
	c.Meta = []wire.Meta{
		{Key: container.MetaLoginAt, Value: strconv.FormatInt(admission.LoginAt, 10)},
		{Key: container.MetaStamp, Value: strconv.FormatInt(admission.Stamp, 10)},
	}
	return &pb.LoginResp{ChannelId: c.Packet.ChannelID, Account: c.Packet.Account, Features: features.Names()}, nil
}
