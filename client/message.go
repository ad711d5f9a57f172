package client

import (
	"time"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// Type is the kind of a message's body. Others than these are passed through.
type Type int32

// The types of messages.
const (
	TypeText  Type = 1
	TypeImage Type = 2
	TypeVoice Type = 3
	TypeVideo Type = 4
)

// Draft is a message to be sent.
type Draft struct {
	// Type defaults to TypeText.
	Type  Type
	Body  string
	Extra string
	// ClientID makes the send idempotent: two drafts with one id are one message. It defaults to a
	// random one; an application that sends a draft again after a restart sets it, up to 64 bytes.
	ClientID string
}

// Text is a draft with this body.
func Text(body string) Draft { return Draft{Type: TypeText, Body: body} }

// Sent is what became of a draft: it is stored.
type Sent struct {
	MessageID    int64
	Conversation string
	// Seq is the message's place in its conversation, gapless from 1.
	Seq      int64
	SendTime time.Time
	ClientID string
}

// Message is a stored message.
type Message struct {
	ID int64
	// Conversation and Seq are empty from a server without the feature "sync".
	Conversation string
	Seq          int64
	// Group is the group's id; Peer the other account of a conversation of two. One of them is set.
	Group, Peer string
	Sender      string
	SendTime    time.Time
	Type        Type
	Body        string
	Extra       string
	ClientID    string
	// Synced: it was asked for; otherwise it was pushed.
	Synced bool
}

// Conversation is what a device knows of one of the account's conversations.
type Conversation struct {
	ID string
	// Peer is the other account of a conversation of two, Group the group's id. After a restart both
	// are empty until something is heard of the conversation.
	Peer, Group string
	// Seq is that of the last message that OnMessage was given, or will be without waiting for the server.
	Seq int64
	// ReadSeq is up to where the account has read, on whichever device, and Unread the exact number
	// of messages of others beyond it that the server has told of. They count if Counted is set: with
	// Options.OnRead, from the first sync on, and a server with the feature "read".
	ReadSeq, Unread int64
	Counted         bool
}

// GroupChange says what happened to a group.
type GroupChange uint8

// The changes of a group.
const (
	GroupCreated GroupChange = iota + 1
	GroupJoined
	GroupQuit
)

// GroupEvent tells a member of a change in a group.
type GroupEvent struct {
	Change GroupChange
	Group  string
	// Accounts are the members of a new group, or the one who joined or quit.
	Accounts []string
}

// Group is a group as its members see it.
type Group struct {
	ID           string
	Name         string
	Avatar       string
	Introduction string
	Owner        string
	CreatedAt    time.Time
	Members      []Member
}

// Member is one member of a group.
type Member struct {
	Account  string
	Alias    string
	Avatar   string
	JoinedAt time.Time
}

// NewGroup describes a group to be created. Its creator owns it and is a member.
type NewGroup struct {
	Name         string
	Avatar       string
	Introduction string
	Members      []string
}

// IndexEntry is a line of the offline index.
type IndexEntry struct {
	MessageID int64
	// Mine: this account sent it.
	Mine     bool
	SendTime time.Time
	// Account is the other one of a conversation of two, the sender in a group.
	Account      string
	Group        string
	Seq          int64
	Conversation string
}

// Content is the content of a message of the offline index.
type Content struct {
	MessageID int64
	Type      Type
	Body      string
	Extra     string
}

// HistoryQuery asks for a page of a conversation: name it, or its peer, or its group.
type HistoryQuery struct {
	Conversation string
	Peer         string
	Group        string
	// Before bounds the page: messages with a smaller seq. 0 means from the newest.
	Before int64
	// Limit is the most messages. Defaults to 50, at most 200.
	Limit int
}

// HistoryPage is a page of a conversation.
type HistoryPage struct {
	// Conversation is empty if nothing was ever said.
	Conversation string
	// Messages are in seq order, the newest last.
	Messages []Message
	// LastSeq is that of the conversation's newest message.
	LastSeq int64
	// JoinedSeq is the seq before the first message that the account may read: Messages[0].Seq is
	// JoinedSeq+1 on the last page.
	JoinedSeq int64
}

func messageOfPush(h *wire.Header, p *pb.MessagePush, account string) Message {
	m := Message{
		ID: p.GetMessageId(), Conversation: p.GetConversation(), Seq: p.GetSeq(), Sender: p.GetSender(),
		SendTime: time.Unix(0, p.GetSendTime()), Type: Type(p.GetType()), Body: p.GetBody(), Extra: p.GetExtra(), ClientID: p.GetClientId(),
	}
	switch {
	case h.Command == wire.CmdGroupTalk:
		m.Group = h.Dest
	case m.Sender == account:
		m.Peer = h.Dest
	default:
		m.Peer = m.Sender
	}
	return m
}

func messagesOf(list []*pb.Message, conversation, peer, group string) []Message {
	out := make([]Message, len(list))
	for i, m := range list {
		out[i] = Message{
			ID: m.GetMessageId(), Conversation: conversation, Seq: m.GetSeq(), Peer: peer, Group: group, Sender: m.GetSender(),
			SendTime: time.Unix(0, m.GetSendTime()), Type: Type(m.GetType()), Body: m.GetBody(), Extra: m.GetExtra(), ClientID: m.GetClientId(),
			Synced: true,
		}
	}
	return out
}

func deltasOf(list []*pb.ConversationDelta) []Delta {
	out := make([]Delta, len(list))
	for i, d := range list {
		out[i] = Delta{
			Conversation: d.GetConversation(), Peer: d.GetPeer(), Group: d.GetGroup(),
			LastSeq: d.GetLastSeq(), JoinedSeq: d.GetJoinedSeq(), ReadSeq: d.GetReadSeq(), Unread: d.GetUnread(),
			Messages: messagesOf(d.GetMessages(), d.GetConversation(), d.GetPeer(), d.GetGroup()),
		}
	}
	return out
}

func groupOf(g *pb.GroupGetResp) Group {
	out := Group{
		ID: g.GetId(), Name: g.GetName(), Avatar: g.GetAvatar(), Introduction: g.GetIntroduction(), Owner: g.GetOwner(),
		CreatedAt: time.Unix(0, g.GetCreatedAt()), Members: make([]Member, len(g.GetMembers())),
	}
	for i, m := range g.GetMembers() {
		out.Members[i] = Member{Account: m.GetAccount(), Alias: m.GetAlias(), Avatar: m.GetAvatar(), JoinedAt: time.Unix(0, m.GetJoinTime())}
	}
	return out
}
