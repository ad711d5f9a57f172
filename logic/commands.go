package logic

import (
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
)

// commands is the table of all commands. A new one needs a row here, a handler and a test.
func (n *Node) commands(d *dispatcher) []Route {
	var (
		login   = &login{sessions: n.deps.Sessions, dispatch: d, policy: n.cfg.Devices, metrics: n.metrics, now: n.cfg.Now, answers: newAnswers(n.cfg.LocationAge, n.deps.Writes)}
		lease   = &lease{sessions: n.deps.Sessions, dispatch: d, policy: n.cfg.Devices, settle: n.cfg.LocationAge}
		talk    = &talk{committer: n.committer, maxBody: n.cfg.MaxBody}
		offline = &offline{messages: n.deps.Messages, indexPage: n.cfg.IndexPage}
		sync    = &syncer{messages: n.deps.Messages}
		reader  = &reader{messages: n.deps.Messages, dispatch: d}
		group   = &group{groups: n.deps.Groups, dispatch: d, limits: storage.GroupLimits{Members: n.cfg.MaxGroupMembers, Groups: n.cfg.MaxGroups}}
	)
	return []Route{
		{Command: wire.CmdSignIn, Handle: login.handle},

		{Command: wire.CmdUserTalk, Inline: true, Handle: talk.to(storage.KindUser)},
		{Command: wire.CmdGroupTalk, Inline: true, Handle: talk.to(storage.KindGroup)},
		{Command: wire.CmdTalkAck, Handle: unary(offline.ack)},
		{Command: wire.CmdOfflineIndex, Bulk: true, Handle: unary(offline.index)},
		{Command: wire.CmdOfflineContent, Bulk: true, Handle: unary(offline.content)},
		{Command: wire.CmdSync, Bulk: true, Handle: unary(sync.sync)},
		{Command: wire.CmdHistory, Bulk: true, Handle: unary(sync.history)},
		{Command: wire.CmdRead, Handle: unary(reader.read)},

		{Command: wire.CmdGroupCreate, Handle: unary(group.create)},
		{Command: wire.CmdGroupJoin, Handle: unary(group.join)},
		{Command: wire.CmdGroupQuit, Handle: unary(group.quit)},
		{Command: wire.CmdGroupDetail, Bulk: true, Handle: unary(group.detail)},
		{Command: wire.CmdGroupMembers, Bulk: true, Handle: unary(group.detail)},

		{Command: wire.CmdSessionRenew, From: FromGateway, Handle: unary(lease.renew)},
		{Command: wire.CmdSessionRestore, From: FromGateway, Handle: unary(lease.restore)},
		{Command: wire.CmdSessionEnd, From: FromGateway, Handle: unary(lease.endSessions)},
		{Command: wire.CmdLeaseEnd, From: FromGateway, Handle: unary(lease.end)},
	}
}
