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

// conn is a connection to a gateway.
type conn struct {
	im.Client
	gateway string
	// unhook forgets that the connection closes with Run's context.
	unhook func() bool
}

func (c *conn) close() {
	c.unhook()
	c.Close()
}

// session is one connection that has logged in.
type session struct {
	// Static after construction.
	conn    *conn
	channel string
	account string
	// features are those that the server will use.
	features wire.Features
	// goaway gets the delays of gateway.goaway; it holds one.
	goaway chan time.Duration
	// over is closed when nothing is read any more, after err is set.
	over chan struct{}
	err  error

	// heard counts the frames received.
	heard atomic.Uint64

	mu sync.Mutex
	// cause is why this side ended it, or nil.
	cause error
	// reconnected: this client has a newer connection, the server says.
	reconnected bool
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
	if err = closeError(err); s.reconnected && errors.Is(err, ErrDisplaced) {
		return errors.New("replaced by a newer connection of this client")
	}
	return err
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
	case im.ReasonConflict.Code():
		return ErrConflict
	default:
		return closed
	}
}

// refusal is the error that a response with a status tells.
func refusal(p *wire.LogicPkt) *wire.Error {
	var body pb.ErrorResp
	_ = proto.Unmarshal(p.Body, &body) // without a text the status is enough
	return &wire.Error{
		Status: p.Status, Message: body.GetMessage(),
		RetryAfter: time.Duration(body.GetRetryAfterMs()) * time.Millisecond,
	}
}

// features are what this client understands.
const features = wire.FeatureSync | wire.FeatureRead | wire.FeatureGoAway

// login sends the first packet and waits for its answer.
func (c *Client) login(ctx context.Context, conn *conn, token string) (*session, error) {
	instance, attempt, err := c.counter.NextLogin(ctx)
	if err != nil {
		return nil, fmt.Errorf("number of the login: %w", err)
	}
	body, err := proto.Marshal(&pb.LoginReq{
		Token: token, Device: c.opts.Device, Platform: c.opts.Platform, Features: features.Names(),
		Instance: instance, Attempt: attempt,
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
		if err = closeError(err); errors.Is(err, errRefused) {
			// Without an answer this says as well that the login came too late, which is no refusal of the token.
			err = errors.New("closed without an answer")
		}
		return nil, fmt.Errorf("login: %w", err)
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

func loggedIn(conn *conn, p *wire.LogicPkt) (*session, error) {
	var resp pb.LoginResp
	err := decode(p, &resp)
	var refused *wire.Error
	switch {
	case err == nil:
		return &session{
			conn: conn, channel: resp.GetChannelId(), account: resp.GetAccount(),
			features: wire.ParseFeatures(resp.GetFeatures()),
			goaway:   make(chan time.Duration, 1), over: make(chan struct{}),
		}, nil
	case !errors.As(err, &refused):
		return nil, err
	case refused.Status == wire.StatusUnauthorized:
		return nil, fmt.Errorf("login: %w: %w", errRefused, refused)
	case refused.Status == wire.StatusConflict:
		return nil, fmt.Errorf("login: %w: %w", ErrConflict, refused)
	case refused.Retryable(), mustLogIn(refused.Status):
		return nil, fmt.Errorf("login: %w", refused)
	default:
		return nil, &loginError{refused}
	}
}

// serve runs a connection until it ends, and says why, or until another one has taken its place.
func (c *Client) serve(ctx context.Context, s *session) (next *session, err error) {
	c.readers.Go(func() {
		s.err = c.read(s)
		close(s.over)
	})
	w := c.work(ctx, s)
	defer func() { w.stop() }()
	var due <-chan time.Time
	for failures := 0; ; {
		select {
		case <-s.over:
			c.offline(s)
			return nil, s.err
		case delay := <-s.goaway:
			if due == nil { // the first one counts
				due = time.After(delay)
			}
		case <-due:
			next, err := c.move(ctx, s, w)
			if err == nil {
				return next, nil
			}
			c.log.Info("not moved to another gateway", "error", err)
			due = time.After(backoff(failures, c.opts.BackoffBase, c.opts.BackoffMax))
			failures++
		}
	}
}

// online begins to use a connection, in the place of another if there is one. It sends what waits,
// in order, before anything new can be.
func (c *Client) online(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		c.calls.disconnected(c.session)
	}
	c.session, c.holding = s, false
	c.account = s.account
	c.inbox.Account = s.account
	c.setState(StateOnline, nil)
	for _, call := range c.calls.inOrder() {
		c.send(s, call)
	}
	if s.features.Has(wire.FeatureSync) {
		c.inbox.Connected(s.features.Has(wire.FeatureRead))
		c.arrived()
	}
	c.log.Info("on line", "account", s.account, "channel", s.channel)
}

func (c *Client) offline(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.holding = nil, false
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
		return s.kicked(&body)
	case wire.CmdGoAway:
		var body pb.GoAway
		if err := proto.Unmarshal(p.Body, &body); err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		select {
		case s.goaway <- time.Duration(body.GetDelayMs()) * time.Millisecond:
		default: // it was told before
		}
	case wire.CmdRead:
		var body pb.ReadNotify
		if err := proto.Unmarshal(p.Body, &body); err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		at := ReadPosition{Seq: body.GetSeq(), Unread: body.GetUnread(), LastSeq: body.GetLastSeq()}
		c.intoInbox(func(b *Inbox) { b.ReadTo(body.GetConversation(), at, false) })
	case wire.CmdGroupCreate, wire.CmdGroupJoin, wire.CmdGroupQuit:
		event, err := groupEvent(p)
		if err != nil {
			return fmt.Errorf("push of %s: %w", p.Command, err)
		}
		c.intoInbox(func(b *Inbox) { b.Event(event) })
	}
	return nil
}

// kicked says whether a KickoutNotify is the end: not if it is about another connection, or if the
// newer login is this client's own. The server closes the connection then.
func (s *session) kicked(k *pb.KickoutNotify) error {
	if id := k.GetChannelId(); id != "" && id != s.channel {
		return nil
	}
	switch k.GetReason() {
	case "":
		return ErrDisplaced
	case "reconnected":
		s.mu.Lock()
		s.reconnected = true
		s.mu.Unlock()
		return nil
	default:
		return &DisplacedError{Reason: k.GetReason(), Device: k.GetDevice(), Platform: k.GetPlatform()}
	}
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
