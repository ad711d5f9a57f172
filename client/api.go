package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// CreateGroup creates a group and returns its id. A sync follows, as after JoinGroup and QuitGroup,
// so that Conversations has what changed. It is not sent twice: after an error that is
// Retryable the group may exist.
func (c *Client) CreateGroup(ctx context.Context, g NewGroup) (string, error) {
	var resp pb.GroupCreateResp
	err := c.do(ctx, &request{command: wire.CmdGroupCreate, into: &resp, body: &pb.GroupCreateReq{
		Name: g.Name, Avatar: g.Avatar, Introduction: g.Introduction, Members: g.Members,
	}, answered: c.inbox.Hint})
	return resp.GetGroupId(), err
}

// JoinGroup makes this account a member; it reads from the next message on.
func (c *Client) JoinGroup(ctx context.Context, group string) error {
	return c.do(ctx, &request{command: wire.CmdGroupJoin, body: &pb.GroupJoinReq{Account: c.Account(), GroupId: group}, answered: c.inbox.Hint})
}

// QuitGroup ends this account's membership.
func (c *Client) QuitGroup(ctx context.Context, group string) error {
	return c.do(ctx, &request{command: wire.CmdGroupQuit, body: &pb.GroupQuitReq{Account: c.Account(), GroupId: group}, answered: c.inbox.Hint})
}

// Group returns what a member may know of a group.
func (c *Client) Group(ctx context.Context, group string) (Group, error) {
	return c.group(ctx, wire.CmdGroupDetail, group)
}

// Members returns the members of a group, in the order of joining.
func (c *Client) Members(ctx context.Context, group string) ([]Member, error) {
	g, err := c.group(ctx, wire.CmdGroupMembers, group)
	return g.Members, err
}

func (c *Client) group(ctx context.Context, command wire.Command, group string) (Group, error) {
	var resp pb.GroupGetResp
	if err := c.repeatable(ctx, &request{command: command, body: &pb.GroupGetReq{GroupId: group}, into: &resp}); err != nil {
		return Group{}, err
	}
	return groupOf(&resp), nil
}

// Ack sends chat.talk.ack, which changes nothing for a client that keeps cursors, as this one does: the account's
// offline index begins where its clients without the feature sync have acknowledged. It fails for a message
// that the account may not read.
func (c *Client) Ack(ctx context.Context, messageID int64) error {
	return c.repeatable(ctx, &request{command: wire.CmdTalkAck, body: &pb.MessageAckReq{MessageId: messageID}})
}

// OfflineIndex returns a page of the account's messages with ids above after, in the order of
// delivery; 0 means what clients without the feature sync have not acknowledged. The page after the last is empty.
func (c *Client) OfflineIndex(ctx context.Context, after int64) ([]IndexEntry, error) {
	var resp pb.MessageIndexResp
	if err := c.repeatable(ctx, &request{command: wire.CmdOfflineIndex, body: &pb.MessageIndexReq{MessageId: after}, into: &resp}); err != nil {
		return nil, err
	}
	list := make([]IndexEntry, len(resp.GetIndexes()))
	for i, e := range resp.GetIndexes() {
		list[i] = IndexEntry{
			MessageID: e.GetMessageId(), Mine: e.GetDirection() == 1, SendTime: time.Unix(0, e.GetSendTime()),
			Account: e.GetAccountB(), Group: e.GetGroup(), Seq: e.GetSeq(), Conversation: e.GetConversation(),
		}
	}
	return list, nil
}

// OfflineContent returns the contents of up to 200 messages, in the order asked for; those that the
// account may not read are left out.
func (c *Client) OfflineContent(ctx context.Context, messageIDs ...int64) ([]Content, error) {
	var resp pb.MessageContentResp
	if err := c.repeatable(ctx, &request{command: wire.CmdOfflineContent, body: &pb.MessageContentReq{MessageIds: messageIDs}, into: &resp}); err != nil {
		return nil, err
	}
	list := make([]Content, len(resp.GetContents()))
	for i, m := range resp.GetContents() {
		list[i] = Content{MessageID: m.GetMessageId(), Type: Type(m.GetType()), Body: m.GetBody(), Extra: m.GetExtra()}
	}
	return list, nil
}

// History returns a page of a conversation backwards. It moves no cursor.
func (c *Client) History(ctx context.Context, q HistoryQuery) (HistoryPage, error) {
	var resp pb.HistoryResp
	err := c.repeatable(ctx, &request{command: wire.CmdHistory, into: &resp, body: &pb.HistoryReq{
		Conversation: q.Conversation, Peer: q.Peer, Group: q.Group, BeforeSeq: q.Before, Limit: int32(q.Limit),
	}})
	if err != nil {
		return HistoryPage{}, err
	}
	return HistoryPage{
		Conversation: resp.GetConversation(),
		Messages:     messagesOf(resp.GetMessages(), resp.GetConversation(), q.Peer, q.Group),
		LastSeq:      resp.GetLastSeq(), JoinedSeq: resp.GetJoinedSeq(),
	}, nil
}

// Sync asks for what may be missing, which happens by itself after each login, and returns when all
// of it waits for OnMessage or has been given to it. It waits for a connection, and for room: not to be called from an
// On function, without whose return there may never be any. A server without the feature is errors.ErrUnsupported.
func (c *Client) Sync(ctx context.Context) error {
	if err := c.Online(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	if c.session != nil && !c.session.features.Has(wire.FeatureSync) {
		c.mu.Unlock()
		return fmt.Errorf("sync: %w", errors.ErrUnsupported)
	}
	c.inbox.Hint()
	round := c.inbox.round + 1 // the one that has not begun
	c.arrived()
	c.mu.Unlock()
	return c.wait(ctx, func() bool { return c.synced >= round })
}

// MarkRead tells the server, and through it the account's other devices, that the account has read a
// conversation up to seq. The position never moves back, nor beyond the last message.
func (c *Client) MarkRead(ctx context.Context, conversation string, seq int64) error {
	var resp pb.ReadResp
	return c.repeatable(ctx, &request{
		command: wire.CmdRead, body: &pb.ReadReq{Conversation: conversation, Seq: seq}, into: &resp,
		answered: func() {
			at := ReadPosition{Seq: resp.GetSeq(), Unread: resp.GetUnread(), LastSeq: resp.GetLastSeq()}
			c.inbox.ReadTo(conversation, at, at.Seq <= seq)
		},
	})
}

// Conversations returns the account's conversations as this device knows them, ordered by their ids.
func (c *Client) Conversations() []Conversation {
	c.mu.Lock()
	list := c.inbox.Conversations()
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b Conversation) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Unread returns the number of messages of others that the account has not read in a conversation.
// It is false while that is not known: see Conversation.Counted.
func (c *Client) Unread(conversation string) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, _ := c.inbox.Conversation(conversation)
	return k.Unread, k.Counted
}

// SignOut ends the session on the server and closes the client.
func (c *Client) SignOut(ctx context.Context) error {
	defer c.Close()
	err := c.do(ctx, &request{command: wire.CmdSignOut})
	if errors.Is(err, ErrDisconnected) {
		return nil // closed instead of answered: that is what was asked for
	}
	return err
}

// repeatable makes a request that changes nothing, or nothing twice.
func (c *Client) repeatable(ctx context.Context, r *request) error {
	r.again = true
	return c.do(ctx, r)
}
