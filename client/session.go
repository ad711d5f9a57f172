package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// session is one connection that has logged in.
type session struct {
	// Static after construction.
	conn    im.Client
	channel string
	account string
	// syncing: the server knows seqs, syncs and hints.
	syncing bool

	// heard counts the frames received.
	heard atomic.Uint64

	mu sync.Mutex
	// cause is why this side ended it, or nil.
	cause error
}

// end closes the connection; the first cause counts.
func (s *session) end(cause error) {
	s.mu.Lock()
	if s.cause == nil {
		s.cause = cause
	}
	s.mu.Unlock()
	s.conn.Close()
}

// why is the cause of the end, given the error of Read.
func (s *session) why(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return closeError(err)
}

// closeError gives the error of Read the meaning of its close code.
func closeError(err error) error {
	var closed *transport.PeerClosedError
	if !errors.As(err, &closed) {
		if errors.Is(err, io.EOF) {
			return errors.New("connection lost")
		}
		return fmt.Errorf("connection lost: %w", err)
	}
	switch closed.Code {
	case im.ReasonUnauthorized.Code():
		return fmt.Errorf("%w: %w", errRefused, closed)
	case im.ReasonDisplaced.Code():
		return ErrDisplaced
	default:
		return closed
	}
}

// refusal is the error that a response with a status tells.
func refusal(p *wire.LogicPkt) *wire.Error {
	var body pb.ErrorResp
	_ = proto.Unmarshal(p.Body, &body) // without a text the status is enough
	return &wire.Error{Status: p.Status, Message: body.GetMessage()}
}

// login sends the first packet and waits for its answer.
func (c *Client) login(conn im.Client, token string) (*session, error) {
	body, err := proto.Marshal(&pb.LoginReq{
		Token: token, Device: c.opts.Device, Platform: c.opts.Platform, Features: wire.FeatureSync.Names(),
	})
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	c.mu.Lock()
	sequence := c.calls.nextSequence()
	c.mu.Unlock()
	packet := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Sequence: sequence}, Body: body}
	if err := conn.Send(packet.Append(nil)); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	late := time.AfterFunc(c.opts.LoginWait, conn.Close)
	answer, err := readAnswer(conn, sequence)
	if !late.Stop() {
		return nil, errors.New("login: no answer in time")
	}
	if err != nil {
		return nil, fmt.Errorf("login: %w", closeError(err))
	}
	return loggedIn(conn, answer)
}

// readAnswer reads up to the answer to this sequence. What is pushed before the answer comes again with the first sync.
func readAnswer(conn im.Client, sequence uint32) (*wire.LogicPkt, error) {
	for {
		frame, err := conn.Read()
		if err != nil {
			return nil, err
		}
		if wire.MagicOf(frame.GetPayload()) == wire.MagicBasicPkt {
			continue
		}
		p := new(wire.LogicPkt)
		if err := p.Unmarshal(frame.GetPayload()); err != nil {
			return nil, err
		}
		if p.Flag == wire.FlagResponse && p.Sequence == sequence {
			return p, nil
		}
	}
}

func loggedIn(conn im.Client, p *wire.LogicPkt) (*session, error) {
	var resp pb.LoginResp
	err := decode(p, &resp)
	var refused *wire.Error
	switch {
	case err == nil:
		return &session{
			conn: conn, channel: resp.GetChannelId(), account: resp.GetAccount(),
			syncing: wire.ParseFeatures(resp.GetFeatures()).Has(wire.FeatureSync),
		}, nil
	case !errors.As(err, &refused):
		return nil, err
	case refused.Status == wire.StatusUnauthorized:
		return nil, fmt.Errorf("login: %w: %w", errRefused, refused)
	case refused.Retryable(), mustLogIn(refused.Status):
		return nil, fmt.Errorf("login: %w", refused)
	default:
		return nil, &loginError{refused}
	}
}

// serve runs a connection until it ends, and says why.
func (c *Client) serve(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.online(s)
	var workers sync.WaitGroup
	workers.Go(func() { c.heartbeat(ctx, s) })
	if s.syncing {
		workers.Go(func() { c.synchronise(ctx, s) })
	}
	err := c.read(s)
	c.offline(s)
	cancel()
	workers.Wait()
	return err
}

// online sends what waits, in order, before anything new can be.
func (c *Client) online(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	c.account = s.account
	c.inbox.Account = s.account
	c.setState(StateOnline, nil)
	for _, call := range c.calls.inOrder() {
		c.send(s, call)
	}
	if s.syncing {
		c.inbox.Connected()
		c.arrived()
	}
	c.log.Info("on line", "account", s.account, "channel", s.channel)
}

func (c *Client) offline(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	c.calls.disconnected(s)
}

// read takes frames until the connection ends, and says why it ended.
func (c *Client) read(s *session) error {
	for {
		frame, err := s.conn.Read()
		if err != nil {
			return s.why(err)
		}
		s.heard.Add(1)
		if err := c.receive(s, frame.GetPayload()); err != nil {
			s.end(err)
			return s.why(err)
		}
	}
}

func (c *Client) receive(s *session, payload []byte) error {
	if wire.MagicOf(payload) == wire.MagicBasicPkt {
		if wire.IsPing(payload) {
			_ = s.conn.Send(wire.Pong) // a closed connection shows when it is read
		}
		return nil
	}
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		return err
	}
	switch p.Flag {
	case wire.FlagResponse:
		c.answer(s, &p)
		return nil
	case wire.FlagPush:
		return c.pushed(s, &p)
	default:
		return fmt.Errorf("a server sent a request: %s", p.Command)
	}
}

// pushed takes a push. Unknown ones are new ones: they are not meant for this client.
func (c *Client) pushed(s *session, p *wire.LogicPkt) error {
	switch p.Command {
	case wire.CmdUserTalk, wire.CmdGroupTalk:
		var body pb.MessagePush
		if err := proto.Unmarshal(p.Body, &body); err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		c.intoInbox(func(b *Inbox) { b.Push(messageOfPush(&p.Header, &body, s.account)) })
	case wire.CmdSyncHint:
		c.intoInbox((*Inbox).Hint)
	case wire.CmdSignIn:
		var body pb.KickoutNotify
		if err := proto.Unmarshal(p.Body, &body); err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		if id := body.GetChannelId(); id == "" || id == s.channel {
			return ErrDisplaced
		}
	case wire.CmdGroupCreate, wire.CmdGroupJoin, wire.CmdGroupQuit:
		event, err := groupEvent(p)
		if err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		c.intoInbox(func(b *Inbox) { b.Event(event) })
	}
	return nil
}

func groupEvent(p *wire.LogicPkt) (GroupEvent, error) {
	switch p.Command {
	case wire.CmdGroupCreate:
		var b pb.GroupCreateNotify
		err := proto.Unmarshal(p.Body, &b)
		return GroupEvent{Change: GroupCreated, Group: b.GetGroupId(), Accounts: b.GetMembers()}, err
	case wire.CmdGroupJoin:
		var b pb.GroupJoinNotify
		err := proto.Unmarshal(p.Body, &b)
		return GroupEvent{Change: GroupJoined, Group: b.GetGroupId(), Accounts: []string{b.GetAccount()}}, err
	default:
		var b pb.GroupQuitNotify
		err := proto.Unmarshal(p.Body, &b)
		return GroupEvent{Change: GroupQuit, Group: b.GetGroupId(), Accounts: []string{b.GetAccount()}}, err
	}
}

func (c *Client) intoInbox(f func(*Inbox)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.inbox)
	c.arrived()
}

// heartbeat pings, and ends a connection that stays silent after a ping.
func (c *Client) heartbeat(ctx context.Context, s *session) {
	pause := c.opts.Heartbeat
	for sleep(ctx, pause) == nil {
		heard := s.heard.Load()
		if err := s.conn.Send(wire.Ping); err != nil {
			s.end(fmt.Errorf("ping: %w", err))
			return
		}
		if sleep(ctx, c.opts.PongWait) != nil {
			return
		}
		if s.heard.Load() == heard {
			s.end(errors.New("no answer to a ping"))
			return
		}
		pause = max(0, c.opts.Heartbeat-c.opts.PongWait)
	}
}

// synchronise asks for what is missing whenever the inbox wants it.
func (c *Client) synchronise(ctx context.Context, s *session) {
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-c.syncWake:
		}
		c.mu.Lock()
		want := c.inbox.SyncWanted()
		c.mu.Unlock()
		if want == WantSoon && sleep(ctx, gapWait) != nil {
			return
		}
		err := c.syncOnce(ctx, s)
		if err == nil {
			failures = 0
			continue
		}
		c.log.Info("sync failed", "error", err)
		if sleep(ctx, backoff(failures, c.opts.BackoffBase, c.opts.BackoffMax)) != nil {
			return
		}
		failures++
		wake(c.syncWake)
	}
}

// syncOnce takes all pages of a sync, if it is still wanted, or as many as there is room for.
func (c *Client) syncOnce(ctx context.Context, s *session) error {
	c.mu.Lock()
	if c.inbox.SyncWanted() == WantNothing {
		c.mu.Unlock()
		return nil
	}
	round := c.inbox.Begin()
	c.mu.Unlock()
	for {
		more, err := c.syncPage(ctx, s, round)
		if err != nil {
			c.mu.Lock()
			c.inbox.Fail()
			c.mu.Unlock()
			return err
		}
		if !more {
			return nil
		}
	}
}

// syncPage takes one page of a sync.
func (c *Client) syncPage(ctx context.Context, s *session, round int) (more bool, err error) {
	c.mu.Lock()
	req := &pb.SyncReq{Limit: int32(c.page)}
	for id, seq := range c.inbox.Cursors() {
		req.Cursors = append(req.Cursors, &pb.Cursor{Conversation: id, Seq: seq})
	}
	c.mu.Unlock()
	var resp pb.SyncResp
	err = c.do(ctx, &request{command: wire.CmdSync, body: req, into: &resp, only: s})

	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		// Perhaps the page was too large: for the server's queue to this client, for the time.
		c.page = max(1, c.page/4)
		return false, err
	}
	progress := c.inbox.Page(deltasOf(resp.GetConversations()))
	defer c.arrived()
	switch {
	case !resp.GetMore():
		c.inbox.End()
		c.page = c.inbox.page
		c.synced = round
		c.broadcast()
		return false, nil
	case !c.inbox.room(c.inbox.page):
		c.inbox.Fail() // the application is behind: it goes on when there is room
		return false, nil
	case !progress:
		return false, errors.New("the server has more but gives nothing")
	default:
		return true, nil
	}
}
