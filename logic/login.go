package logic

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// login handles login.signin. The gateway has verified the token and handles login.signout: a
// session ends with its channel (lease.endSessions).
type login struct {
	sessions   storage.Sessions
	dispatch   *dispatcher
	maxDevices int
	now        func() time.Time
}

// signIn makes the channel the session of its device, and displaces the device's older one.
func (l *login) signIn(ctx context.Context, c *Context, req *pb.LoginReq) (proto.Message, error) {
	features := wire.ParseFeatures(req.Features)
	session := storage.Session{
		App:      c.Packet.App,
		Account:  c.Packet.Account,
		Device:   c.Packet.Device,
		Platform: req.Platform,
		Channel:  c.Packet.ChannelID,
		Gateway:  c.Gateway,
		Features: storage.Feature(features),
		LoginAt:  l.now().UnixNano(),
	}
	displaced, err := l.sessions.Login(ctx, session)
	if err != nil {
		return nil, err
	}
	if displaced != nil {
		l.dispatch.kick(*displaced)
		if displaced.LoginAt >= session.LoginAt {
			// Another node's clock is ahead: the displaced session's gateway must not win the device
			// back when it stores its sessions again (I6).
			session.LoginAt = displaced.LoginAt + 1
			if _, err := l.sessions.Login(ctx, session); err != nil {
				return nil, err
			}
		}
	}
	c.Meta = []wire.Meta{{Key: container.MetaLoginAt, Value: strconv.FormatInt(session.LoginAt, 10)}}
	if err := l.makeRoom(ctx, c); err != nil {
		return nil, err
	}
	return &pb.LoginResp{ChannelId: c.Packet.ChannelID, Account: c.Packet.Account, Features: features.Names()}, nil
}

// makeRoom displaces the devices that logged in first where the account has more than it may have.
func (l *login) makeRoom(ctx context.Context, c *Context) error {
	found, err := l.sessions.Find(ctx, []storage.AccountKey{c.Account()})
	if err != nil {
		return err
	}
	devices := found[0]
	slices.SortFunc(devices, func(a, b storage.Session) int { return cmp.Compare(a.LoginAt, b.LoginAt) })
	for _, s := range devices[:max(0, len(devices)-l.maxDevices)] {
		if s.Channel == c.Packet.ChannelID {
			continue // another node's clock is ahead
		}
		if _, err := l.sessions.Logout(ctx, s.App, s.Account, s.Device, s.Channel); err != nil {
			return err
		}
		l.dispatch.kick(s)
	}
	return nil
}
