package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// State is whether the client is on line.
type State uint8

// The states of a client.
const (
	// StateOffline: not connected; Run tries again after a while.
	StateOffline State = iota
	// StateConnecting: dialling or logging in.
	StateConnecting
	// StateOnline: logged in.
	StateOnline
	// StateClosed: Run has ended.
	StateClosed
)

// String is the state's name.
func (s State) String() string {
	return [...]string{"offline", "connecting", "online", "closed"}[s]
}

// errRefused: the server does not take the token. The second time in a row it is ErrUnauthorized.
var errRefused = errors.New("the token was refused")

// Client is one device of an account. Its methods are safe for concurrent use.
type Client struct {
	// Static after construction.
	opts Options
	log  *slog.Logger
	dial func(gateway string, o *Options) (im.Client, string, error)
	// deliverWake and syncWake wake deliver and synchronise; they hold one wake-up.
	deliverWake, syncWake chan struct{}

	// counter numbers the logins: the Store, if it can.
	counter LoginCounter

	// Owned by Run.
	addresses addresses
	// refusals counts the logins refused in a row for their token.
	refusals int
	// readers are those of all connections.
	readers sync.WaitGroup

	// adding holds one entry while Send adds to the Outbox, or Run loads it.
	adding chan struct{}

	// Guarded by mu.
	mu     sync.Mutex
	inbox  *Inbox
	calls  calls
	outbox outbox
	// session is the connection while logged in, or nil.
	session *session
	// holding: calls are not sent, because another connection is about to take its place.
	holding bool
	account string
	state   State
	// states are those that OnState has not heard of yet.
	states []stateChange
	// changed is closed, and made anew, when state or synced changes.
	changed chan struct{}
	// synced is the last round of the inbox that reached its end.
	synced int
	// page is how many messages the next page of a sync asks for.
	page int
	// cancel ends Run; nil before.
	cancel context.CancelFunc
	// closed: Close was called.
	closed bool
	// ended is why no call can succeed any more, or nil.
	ended error
}

type stateChange struct {
	state State
	err   error
}

// maxStates bounds the state changes that wait for a busy application; older ones are dropped.
const maxStates = 16

// New makes a client; Run connects it. The error names what is wrong with the options.
func New(o Options) (*Client, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	page := min(syncPage, o.InboxMessages/2)
	c := &Client{
		opts:        o,
		log:         o.Logger,
		dial:        newConn,
		deliverWake: make(chan struct{}, 1),
		syncWake:    make(chan struct{}, 1),
		adding:      make(chan struct{}, 1),
		counter:     &runCounter{instance: rand.Text()},
		page:        page,
		changed:     make(chan struct{}),
	}
	if counter, ok := o.Store.(LoginCounter); ok {
		c.counter = counter
	}
	c.inbox = NewInbox(InboxOptions{
		Limit: o.InboxMessages, Page: page, Chunk: max(1, min(syncCursors, o.MaxPacket/cursorBytes)), Echo: o.EchoOwn, Reads: o.OnRead != nil,
	})
	c.calls.pending = map[uint32]*call{}
	c.calls.finished = make(chan struct{}, 1)
	c.outbox.lanes, c.outbox.told = map[dest]*lane{}, map[key]*outgoing{}
	c.addresses.opts = &c.opts
	return c, nil
}

// Run connects, and again whenever the connection breaks, until ctx ends or Close is called (nil)
// or there is no use: ErrDisplaced, ErrConflict, ErrUnauthorized, the refusal of the login as a
// *wire.Error, or the error of loading Store or Outbox. It is called once; calls made before wait for it.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.begin(cancel); err != nil {
		return err
	}
	err := c.load(ctx)
	if err == nil {
		lanes, stopLanes := context.WithCancel(context.WithoutCancel(ctx))
		defer stopLanes()
		var delivering sync.WaitGroup
		delivering.Go(func() { c.deliver(ctx) })
		c.startLanes(lanes)
		err = c.stayConnected(ctx)
		cancel()
		c.end(err)
		stopLanes()
		c.outbox.running.Wait()
		delivering.Wait()
	}
	c.end(err)
	c.saveMoved(ctx)
	c.tellOutcomes(ctx)
	c.opts.OnState(StateClosed, err)
	return err
}

// Close ends Run, and with it all calls: ErrClosed. It does not wait for Run to return, so that the
// On functions may call it.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.cancel != nil {
		c.cancel()
		return
	}
	c.endCalls(nil)
}

// Account is who the last login was for, or "".
func (c *Client) Account() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.account
}

// State is the current state.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Online waits until the client is logged in.
func (c *Client) Online(ctx context.Context) error {
	return c.wait(ctx, func() bool { return c.session != nil })
}

// wait waits until reached, which is called with mu held, is true.
func (c *Client) wait(ctx context.Context, reached func() bool) error {
	for {
		c.mu.Lock()
		ok, err, changed := reached(), c.ended, c.changed
		c.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// begin notes that Run was called.
func (c *Client) begin(cancel context.CancelFunc) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case c.cancel != nil:
		return errors.New("client: Run called twice")
	}
	c.cancel = cancel
	return nil
}

func (c *Client) load(ctx context.Context) error {
	cursors, err := c.opts.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load cursors: %w", err)
	}
	c.mu.Lock()
	c.inbox.Restore(cursors)
	c.mu.Unlock()
	return c.loadOutbox(ctx)
}

// end fails every call, now and later.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endCalls(err)
}

func (c *Client) endCalls(err error) {
	if c.ended != nil {
		return
	}
	c.ended = ErrClosed
	if err != nil {
		c.ended = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	c.state = StateClosed
	c.calls.failAll(c.ended)
	c.endLanes()
	c.broadcast()
}

// stayConnected makes one connection after the other, and returns when all are closed.
func (c *Client) stayConnected(ctx context.Context) error {
	defer c.readers.Wait()
	for failures := 0; ; failures++ {
		c.mu.Lock()
		c.setState(StateConnecting, nil)
		c.mu.Unlock()
		lasted, err := c.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err = c.final(err); isFinal(err) {
			return err
		}
		c.log.Info("disconnected", "error", err)
		c.mu.Lock()
		c.setState(StateOffline, err)
		c.mu.Unlock()
		if lasted >= stableAfter {
			failures = 0
		}
		if sleep(ctx, max(retryAfter(err), backoff(failures, c.opts.BackoffBase, c.opts.BackoffMax))) != nil {
			return nil
		}
	}
}

// final counts the refusals of the token: the second in a row is ErrUnauthorized.
func (c *Client) final(err error) error {
	if !errors.Is(err, errRefused) {
		return err
	}
	if c.refusals++; c.refusals < 2 {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnauthorized, err)
}

// isFinal reports whether connecting again is of no use.
func isFinal(err error) bool {
	var login *loginError
	return errors.Is(err, ErrDisplaced) || errors.Is(err, ErrConflict) || errors.Is(err, ErrUnauthorized) || errors.As(err, &login)
}

// loginError is the refusal of a login for another reason than its token.
type loginError struct{ refusal *wire.Error }

func (e *loginError) Error() string { return "login: " + e.refusal.Error() }
func (e *loginError) Unwrap() error { return e.refusal }

// connect makes one connection and serves it, and those that take its place, until the last ends. It
// says why it ended and, if it got as far as a login, how long it lasted.
func (c *Client) connect(ctx context.Context) (time.Duration, error) {
	conn, token, err := c.open(ctx, "")
	if err != nil {
		return 0, err
	}
	s, err := c.login(ctx, conn, token)
	if err != nil {
		conn.close()
		return 0, err
	}
	c.addresses.connected()
	c.refusals = 0
	began := time.Now()
	c.online(s)
	for s != nil {
		served := s
		s, err = c.serve(ctx, served)
		served.conn.close()
	}
	return time.Since(began), err
}

// open connects to a gateway, another one than avoid if there is one. The connection is closed when
// ctx ends.
func (c *Client) open(ctx context.Context, avoid string) (*conn, string, error) {
	token, err := c.opts.Token(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("token: %w", err)
	}
	gateway, err := c.addresses.pick(ctx, token, avoid)
	if err != nil {
		return nil, "", err
	}
	k, address, err := c.dial(gateway, &c.opts)
	if err != nil {
		return nil, "", err
	}
	opened := &conn{Client: k, gateway: gateway, unhook: context.AfterFunc(ctx, k.Close)}
	if err := k.Connect(address); err != nil {
		opened.close()
		return nil, "", err
	}
	return opened, token, nil
}

// setState is called with mu held.
func (c *Client) setState(s State, err error) {
	if c.state == s {
		return
	}
	c.state = s
	if len(c.states) == maxStates {
		c.states = c.states[1:]
	}
	c.states = append(c.states, stateChange{s, err})
	c.broadcast()
	wake(c.deliverWake)
}

func (c *Client) broadcast() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// wake leaves a wake-up if there is none.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// arrived wakes whom a change of the inbox concerns. Called with mu held.
func (c *Client) arrived() {
	wake(c.deliverWake)
	if c.inbox.SyncWanted() != WantNothing {
		wake(c.syncWake)
	}
	if c.outbox.crowded && c.inbox.MayTalk() {
		c.outbox.crowded = false
		c.broadcast()
	}
}

// deliver tells the application what there is to tell, until ctx ends.
func (c *Client) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		c.mu.Lock()
		states := c.states
		c.states = nil
		c.mu.Unlock()
		for _, s := range states {
			c.opts.OnState(s.state, s.err)
		}
		c.tellOutcomes(ctx)
		c.mu.Lock()
		d, ok := c.inbox.Next()
		if ok && c.inbox.SyncWanted() != WantNothing {
			wake(c.syncWake) // there may be room again
		}
		c.mu.Unlock()
		if ok {
			c.handle(ctx, d)
			continue
		}
		select {
		case <-ctx.Done():
		case <-c.deliverWake:
		}
	}
}

func (c *Client) handle(ctx context.Context, d Delivery) {
	// What was handled is saved even when the client is being closed.
	ctx = context.WithoutCancel(ctx)
	var err error
	switch {
	case d.Group != nil:
		c.opts.OnGroup(*d.Group)
	case d.Change == Opened:
		c.opts.OnConversation(d.State, false)
	case d.Change == Read:
		c.opts.OnRead(d.State)
	case d.Change == Gone:
		c.opts.OnConversation(d.State, true)
		err = c.opts.Store.Delete(ctx, d.Conversation)
	default:
		if d.Message != nil {
			c.opts.OnMessage(*d.Message)
		}
		if d.Conversation != "" {
			err = c.opts.Store.Save(ctx, d.Conversation, d.Through)
		}
	}
	if err != nil {
		c.log.Warn("cursor not saved", "conversation", d.Conversation, "error", err)
	}
}

// saveMoved saves the cursors that wait for nothing.
func (c *Client) saveMoved(ctx context.Context) {
	c.mu.Lock()
	moved := c.inbox.Moved()
	c.mu.Unlock()
	for id, seq := range moved {
		c.handle(ctx, Delivery{Conversation: id, Through: seq})
	}
}
