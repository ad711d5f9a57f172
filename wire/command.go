package wire

// Command names what a LogicPkt asks for. docs/protocol.md says what each does.
type Command string

// The commands of clients. The pushes bear the name of the command that caused them.
const (
	CmdSignIn         Command = "login.signin"
	CmdSignOut        Command = "login.signout"
	CmdUserTalk       Command = "chat.user.talk"
	CmdGroupTalk      Command = "chat.group.talk"
	CmdTalkAck        Command = "chat.talk.ack"
	CmdOfflineIndex   Command = "chat.offline.index"
	CmdOfflineContent Command = "chat.offline.content"
	CmdGroupCreate    Command = "chat.group.create"
	CmdGroupJoin      Command = "chat.group.join"
	CmdGroupQuit      Command = "chat.group.quit"
	CmdGroupDetail    Command = "chat.group.detail"
	CmdGroupMembers   Command = "chat.group.members"

	// Our extensions.

	CmdSync     Command = "chat.sync"
	CmdHistory  Command = "chat.history"
	CmdRead     Command = "chat.read"
	CmdSyncHint Command = "sync.hint"
	CmdGoAway   Command = "gateway.goaway"
)

// The commands between services. A gateway refuses them from a client.
const (
	// CmdLinkHello is the handshake of a link: wire/proto/link.proto, LinkHello.
	CmdLinkHello Command = "link.hello"
	// CmdSessionRenew keeps a gateway's lease: LeaseRenewReq.
	CmdSessionRenew Command = "session.renew"
	// CmdSessionRestore stores a gateway's sessions again: SessionRestoreReq.
	CmdSessionRestore Command = "session.restore"
	// CmdSessionEnd removes the sessions of channels that have closed: SessionEndReq.
	CmdSessionEnd Command = "session.end"
	// CmdLeaseEnd ends the lease of a gateway that stops: LeaseRenewReq.
	CmdLeaseEnd Command = "session.lease.end"
	// CmdLinkDrain, from a logic node that stops: forward nothing more to me. The gateway answers
	// when it has stopped, behind everything that it forwarded before. No body.
	CmdLinkDrain Command = "link.drain"
	// CmdLinkPushes, from a logic node: several pushes for the same channels, in order. LinkPushes.
	CmdLinkPushes Command = "link.pushes"
)

// internCommand returns the constant that b spells, so that known commands cost no allocation.
func internCommand(b []byte) (Command, bool) {
	switch Command(b) {
	case CmdSignIn:
		return CmdSignIn, true
	case CmdSignOut:
		return CmdSignOut, true
	case CmdUserTalk:
		return CmdUserTalk, true
	case CmdGroupTalk:
		return CmdGroupTalk, true
	case CmdTalkAck:
		return CmdTalkAck, true
	case CmdOfflineIndex:
		return CmdOfflineIndex, true
	case CmdOfflineContent:
		return CmdOfflineContent, true
	case CmdSync:
		return CmdSync, true
	case CmdHistory:
		return CmdHistory, true
	case CmdRead:
		return CmdRead, true
	default:
		return "", false
	}
}

// Internal reports whether the command is one between services.
func (c Command) Internal() bool {
	switch c {
	case CmdLinkHello, CmdSessionRenew, CmdSessionRestore, CmdSessionEnd, CmdLeaseEnd, CmdLinkDrain, CmdLinkPushes:
		return true
	default:
		return false
	}
}
