package logic

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// group handles chat.group.*. The account of a request is who sent it; what its body claims is ignored (I9).
type group struct {
	groups   storage.Groups
	dispatch *dispatcher
	limits   storage.GroupLimits
}

func (g *group) create(ctx context.Context, c *Context, req *pb.GroupCreateReq) (proto.Message, error) {
	who := c.Account()
	others := without(req.Members, who.Account)
	slices.Sort(others)
	others = slices.Compact(others)
	if len(others) >= g.limits.Members { // the creator is one too
		return nil, wire.Errorf(wire.StatusInvalidBody, "a group has at most %d members", g.limits.Members)
	}
	created := storage.Group{
		App:          who.App,
		Name:         req.Name,
		Avatar:       req.Avatar,
		Introduction: req.Introduction,
		Owner:        who.Account,
		Members:      []storage.Member{{Account: who.Account}},
	}
	for _, m := range others {
		created.Members = append(created.Members, storage.Member{Account: m})
	}
	id, err := g.groups.CreateGroup(ctx, created, g.limits)
	if err != nil {
		return nil, g.explain(err)
	}
	notify := &pb.GroupCreateNotify{GroupId: id, Members: append([]string{who.Account}, others...)}
	g.dispatch.notify(who.App, others, wire.Header{Command: wire.CmdGroupCreate, Dest: id}, notify)
	return &pb.GroupCreateResp{GroupId: id}, nil
}

// join is idempotent: joining again succeeds and tells nobody.
func (g *group) join(ctx context.Context, c *Context, req *pb.GroupJoinReq) (proto.Message, error) {
	who := c.Account()
	others, err := g.groups.Join(ctx, who.App, req.GroupId, who.Account, g.limits)
	if errors.Is(err, storage.ErrAlreadyMember) {
		return nil, nil
	}
	if err != nil {
		return nil, g.explain(err)
	}
	notify := &pb.GroupJoinNotify{GroupId: req.GroupId, Account: who.Account}
	g.dispatch.notify(who.App, others, wire.Header{Command: wire.CmdGroupJoin, Dest: req.GroupId}, notify)
	return nil, nil
}

// explain says which limit of the account was reached.
func (g *group) explain(err error) error {
	if errors.Is(err, storage.ErrTooManyGroups) {
		return wire.Errorf(wire.StatusUnauthorized, "you belong to %d groups already: quit one first", g.limits.Groups)
	}
	return err
}

func (g *group) quit(ctx context.Context, c *Context, req *pb.GroupQuitReq) (proto.Message, error) {
	who := c.Account()
	others, err := g.groups.Quit(ctx, who.App, req.GroupId, who.Account)
	if err != nil {
		return nil, err
	}
	notify := &pb.GroupQuitNotify{GroupId: req.GroupId, Account: who.Account}
	g.dispatch.notify(who.App, others, wire.Header{Command: wire.CmdGroupQuit, Dest: req.GroupId}, notify)
	return nil, nil
}

// detail serves chat.group.detail and chat.group.members alike.
func (g *group) detail(ctx context.Context, c *Context, req *pb.GroupGetReq) (proto.Message, error) {
	who := c.Account()
	found, err := g.groups.Group(ctx, who.App, req.GroupId, who.Account)
	if err != nil {
		return nil, err
	}
	resp := &pb.GroupGetResp{
		Id:           found.ID,
		Name:         found.Name,
		Avatar:       found.Avatar,
		Introduction: found.Introduction,
		Owner:        found.Owner,
		CreatedAt:    found.CreatedAt,
	}
	for _, m := range found.Members {
		resp.Members = append(resp.Members, &pb.Member{Account: m.Account, Alias: m.Alias, Avatar: m.Avatar, JoinTime: m.JoinedAt})
	}
	return resp, nil
}
