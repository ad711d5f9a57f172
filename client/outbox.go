package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// Outgoing is a message on its way out.
type Outgoing struct {
	// Account or Group is whom it is for: one of them is set.
	Account, Group string
	// Draft has its ClientID, which is unique among the messages to the same one.
	Draft Draft
}

// Outcome is what became of a message of Send.
type Outcome struct {
	Outgoing
	// Err is nil if the message is stored, as Sent says. Otherwise it is final: nothing will be sent
	// again. A refusal is a *wire.Error; ErrOutcomeUnknown says that the message may be stored all the same.
	Err  error
	Sent Sent
}

// Outbox keeps the messages of Send until their outcome was told, over restarts of the application.
// An outcome is told before the message is removed, so a crash in between tells it again, and so
// does a message whose ClientID the server knows: it is stored once. An outbox belongs to one
// account on one device.
type Outbox interface {
	// Load returns what was added and not removed, in the order of adding; Run calls it once, first, not
	// at the same time as Add, and ends with its error.
	Load(ctx context.Context) ([]Outgoing, error)
	// Add keeps a message. Send calls it, one at a time, and fails with its error.
	Add(ctx context.Context, m Outgoing) error
	// Remove forgets a message: Account, Group and ClientID say which. An error is logged, and has the
	// outcome told again in the next run. Add and Remove may be called at the same time.
	Remove(ctx context.Context, m Outgoing) error
}

// MemoryOutbox is an Outbox that ends with the process. The zero value is empty.
type MemoryOutbox struct {
	mu   sync.Mutex
	list []Outgoing
}

var _ Outbox = (*MemoryOutbox)(nil)

// Load returns the messages.
func (o *MemoryOutbox) Load(context.Context) ([]Outgoing, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.list), nil
}

// Add keeps a message.
func (o *MemoryOutbox) Add(_ context.Context, m Outgoing) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, m)
	return nil
}

// Remove forgets a message.
func (o *MemoryOutbox) Remove(_ context.Context, m Outgoing) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = slices.DeleteFunc(o.list, func(k Outgoing) bool { return keyOf(k) == keyOf(m) })
	return nil
}

// dest is whom messages are for: an account or a group.
type dest struct{ account, group string }

// key names a message on its way.
type key struct {
	dest
	clientID string
}

func destOf(m Outgoing) dest { return dest{m.Account, m.Group} }
func keyOf(m Outgoing) key   { return key{destOf(m), m.Draft.ClientID} }

// outgoing is a message between Talk or Send and its outcome.
type outgoing struct {
	Outgoing
	// Static after construction.
	request *request
	resp    pb.MessageResp
	size    int  // of the packet, in bytes
	told    bool // of Send: its outcome goes to OnOutcome
	done    chan struct{}

	// Guarded by Client.mu.
	begun  context.CancelFunc // gives it up; nil while others are before it
	gaveUp error              // why it is not to be sent any more, or nil

	// Owned by the lane, and whoever has seen done closed.
	sent Sent
	err  error
}

// outbox is what is on its way out. The messages to one account or group are a lane: one is sent
// when the one before has its outcome, because only then is their order certain. So a lane has one
// message in flight, and takes a round trip for each; lanes do not wait for each other. Guarded by
// Client.mu.
type outbox struct {
	lanes map[dest]*lane
	// told are the messages of Send until their outcome was told.
	told map[key]*outgoing
	// outcomes are those that OnOutcome has not heard of yet.
	outcomes []*outgoing
	// run is the context of the lanes while Run runs, otherwise nil.
	run     context.Context
	running sync.WaitGroup
	// crowded: a lane waits until the inbox can keep one more answer.
	crowded bool
}

type lane struct {
	list    []*outgoing
	running bool
}

// Talk sends a message to an account and returns its one outcome: without an error it is durably
// stored, once. Messages to one account are stored in the order in which Talk and Send were called. A
// broken connection, or a server that is overloaded, is waited for until ctx ends. Then the message
// is not sent any more; ErrOutcomeUnknown says that it may be stored all the same, in which case
// it comes to OnMessage like one from another device, and the same Draft.ClientID makes it safe
// to send it again. Any other error says that it is not stored.
func (c *Client) Talk(ctx context.Context, account string, d Draft) (Sent, error) {
	return c.talk(ctx, Outgoing{Account: account, Draft: d})
}

// TalkGroup is Talk to all members of a group.
func (c *Client) TalkGroup(ctx context.Context, group string, d Draft) (Sent, error) {
	return c.talk(ctx, Outgoing{Group: group, Draft: d})
}

// Send queues a message to an account, on line or off, and returns its client id: Draft.ClientID, or
// a random one. OnOutcome hears what became of it, once, however long that takes. With
// Options.Outbox it survives a restart of the application. A draft whose ClientID is on its way to
// the same account already is that message. The errors are ErrClosed, ErrQueueFull, ErrTooLarge and
// those of ctx and the Outbox: then the message is not queued.
func (c *Client) Send(ctx context.Context, account string, d Draft) (clientID string, err error) {
	return c.queue(ctx, Outgoing{Account: account, Draft: d})
}

// SendGroup is Send to all members of a group.
func (c *Client) SendGroup(ctx context.Context, group string, d Draft) (clientID string, err error) {
	return c.queue(ctx, Outgoing{Group: group, Draft: d})
}

func (c *Client) talk(ctx context.Context, out Outgoing) (Sent, error) {
	if err := ctx.Err(); err != nil {
		return Sent{}, err
	}
	m, err := c.newOutgoing(out)
	if err != nil {
		return Sent{}, err
	}
	c.mu.Lock()
	if err = c.mayQueue(m); err == nil {
		c.enqueue(m)
	}
	c.mu.Unlock()
	if err != nil {
		return Sent{}, err
	}
	select { // m ends with Run at the latest
	case <-m.done:
	case <-ctx.Done():
		c.giveUp(m, ctx.Err())
		<-m.done
	}
	return m.sent, m.err
}

func (c *Client) queue(ctx context.Context, out Outgoing) (string, error) {
	m, err := c.newOutgoing(out)
	if err != nil {
		return "", err
	}
	m.told = true
	if err := c.beginAdding(ctx); err != nil { // one at a time, so that the order of the Outbox is that of sending
		return "", err
	}
	defer c.endAdding()
	c.mu.Lock()
	err = c.mayQueue(m)
	twice := c.outbox.told[keyOf(m.Outgoing)] != nil
	c.mu.Unlock()
	if err != nil || twice {
		return m.Draft.ClientID, err
	}
	if c.opts.Outbox != nil {
		if err := c.opts.Outbox.Add(ctx, m.Outgoing); err != nil {
			return "", fmt.Errorf("outbox: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended == nil:
		c.enqueue(m)
	case c.opts.Outbox == nil:
		return "", c.ended
	}
	return m.Draft.ClientID, nil
}

// newOutgoing completes the draft and makes its request. ErrTooLarge comes with the message.
func (c *Client) newOutgoing(out Outgoing) (*outgoing, error) {
	if out.Draft.ClientID == "" {
		out.Draft.ClientID = rand.Text()
	}
	if out.Draft.Type == 0 {
		out.Draft.Type = TypeText
	}
	m := &outgoing{Outgoing: out, done: make(chan struct{})}
	m.request = &request{command: wire.CmdUserTalk, dest: out.Account, again: true, counted: true, into: &m.resp}
	if out.Group != "" {
		m.request.command, m.request.dest = wire.CmdGroupTalk, out.Group
	}
	d := out.Draft
	m.request.body = &pb.MessageReq{Type: int32(d.Type), Body: d.Body, Extra: d.Extra, ClientId: d.ClientID}
	m.request.answered = func() { c.inbox.Sent(m.message(c.account)) }
	m.size = proto.Size(m.request.body) + len(m.request.dest) + packetOverhead
	if m.size > c.opts.MaxPacket {
		return m, fmt.Errorf("%s: %w: %d bytes", m.request.command, ErrTooLarge, m.size)
	}
	return m, nil
}

// packetOverhead bounds what a talk's packet has beside body and dest, in bytes.
const packetOverhead = 48

// message is the own message that the answer has completed.
func (m *outgoing) message(account string) Message {
	d := m.Draft
	return Message{
		ID: m.resp.GetMessageId(), Conversation: m.resp.GetConversation(), Seq: m.resp.GetSeq(), Peer: m.Account, Group: m.Group,
		Sender: account, SendTime: time.Unix(0, m.resp.GetSendTime()), Type: d.Type, Body: d.Body, Extra: d.Extra, ClientID: d.ClientID,
	}
}

func sentOf(m Message) Sent {
	return Sent{MessageID: m.ID, Conversation: m.Conversation, Seq: m.Seq, SendTime: m.SendTime, ClientID: m.ClientID}
}

// mayQueue is called with mu held.
func (c *Client) mayQueue(m *outgoing) error {
	switch {
	case c.ended != nil:
		return c.ended
	case c.calls.bytes+m.size > c.opts.OutboxBytes:
		return ErrQueueFull
	default:
		return nil
	}
}

// enqueue puts a message at the end of its lane. Called with mu held.
func (c *Client) enqueue(m *outgoing) {
	o := &c.outbox
	l := o.lanes[destOf(m.Outgoing)]
	if l == nil {
		l = &lane{}
		o.lanes[destOf(m.Outgoing)] = l
	}
	l.list = append(l.list, m)
	c.calls.bytes += m.size
	c.inbox.Talking(keyOf(m.Outgoing))
	if m.told {
		o.told[keyOf(m.Outgoing)] = m
	}
	c.startLane(destOf(m.Outgoing), l)
}

// startLane is called with mu held.
func (c *Client) startLane(d dest, l *lane) {
	if run := c.outbox.run; run != nil && !l.running {
		l.running = true
		c.outbox.running.Go(func() { c.runLane(run, d, l) })
	}
}

// beginAdding waits until no message is between the Outbox and its lane, and keeps others from it.
func (c *Client) beginAdding(ctx context.Context) error {
	select {
	case c.adding <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) endAdding() { <-c.adding }

// loadOutbox queues what earlier runs have left. A message that a Send has added and not queued yet
// would be queued twice.
func (c *Client) loadOutbox(ctx context.Context) error {
	if c.opts.Outbox == nil {
		return nil
	}
	if c.beginAdding(ctx) != nil {
		return nil // closed: nothing is sent
	}
	defer c.endAdding()
	list, err := c.opts.Outbox.Load(ctx)
	if err != nil {
		return fmt.Errorf("load outbox: %w", err)
	}
	c.restore(list)
	return nil
}

// restore puts what the Outbox has before what was queued since.
func (c *Client) restore(list []Outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.outbox.lanes
	c.outbox.lanes = map[dest]*lane{}
	for _, out := range list {
		m, err := c.newOutgoing(out)
		m.told = true
		if c.outbox.told[keyOf(m.Outgoing)] != nil {
			continue // queued since, and so in the Outbox
		}
		m.gaveUp = err // it is too large
		c.enqueue(m)
	}
	for d, l := range before {
		if first := c.outbox.lanes[d]; first != nil {
			l.list = append(first.list, l.list...)
		}
		c.outbox.lanes[d] = l
	}
}

// startLanes lets the messages go, until stopLanes.
func (c *Client) startLanes(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outbox.run = ctx
	for d, l := range c.outbox.lanes {
		c.startLane(d, l)
	}
}

// runLane sends the messages of a lane, one after the other, until there is none.
func (c *Client) runLane(ctx context.Context, d dest, l *lane) {
	for {
		m, attempt := c.nextOf(ctx, d, l)
		if m == nil {
			return
		}
		err := c.mayTalk(attempt, m)
		if err == nil {
			err = c.do(attempt, m.request)
		}
		m.begun()
		c.finish(m, err)
	}
}

// nextOf takes the first message of a lane and gives it a context.
func (c *Client) nextOf(ctx context.Context, d dest, l *lane) (*outgoing, context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(l.list) == 0 {
		l.running = false
		delete(c.outbox.lanes, d)
		return nil, nil
	}
	m := l.list[0]
	l.list = l.list[1:]
	attempt, cancel := context.WithCancel(ctx)
	if m.begun = cancel; m.gaveUp != nil {
		cancel()
	}
	return m, attempt
}

// mayTalk waits until the inbox can keep the answer. A Talk does not wait: it may have been called by
// OnMessage, without whose return there may never be room.
func (c *Client) mayTalk(ctx context.Context, m *outgoing) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	full := false
	err := c.wait(ctx, func() bool {
		ok := c.inbox.MayTalk()
		full = !ok && !m.told
		c.outbox.crowded = c.outbox.crowded || !ok
		return ok || full
	})
	if full {
		return ErrQueueFull
	}
	return err
}

// giveUp ends a message whose caller waits no longer.
func (c *Client) giveUp(m *outgoing, why error) {
	c.mu.Lock()
	m.gaveUp = why
	if m.begun != nil {
		m.begun()
		c.mu.Unlock()
		return
	}
	if l := c.outbox.lanes[destOf(m.Outgoing)]; l != nil {
		l.list = slices.DeleteFunc(l.list, func(k *outgoing) bool { return k == m })
	}
	c.finishLocked(m, why)
	c.mu.Unlock()
}

// endLanes ends what was queued, if Run has not begun.
func (c *Client) endLanes() {
	if c.outbox.run != nil {
		return
	}
	for _, l := range c.outbox.lanes {
		for _, m := range l.list {
			c.finishLocked(m, c.ended)
		}
	}
	clear(c.outbox.lanes)
}

// finish gives a message its outcome.
func (c *Client) finish(m *outgoing, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishLocked(m, err)
}

func (c *Client) finishLocked(m *outgoing, err error) {
	if err == nil {
		m.sent = sentOf(m.message(c.account))
	} else if stored, ok := c.inbox.Abandoned(keyOf(m.Outgoing)); ok {
		m.sent, err = sentOf(stored), nil // it has come back, though its answer has not
	}
	m.err = c.outcomeOf(m, err)
	if !m.told {
		c.calls.bytes -= m.size
	} else if c.ended == nil || err == nil || isRefusal(err) || c.opts.Outbox == nil {
		c.outbox.outcomes = append(c.outbox.outcomes, m)
		wake(c.deliverWake)
	}
	close(m.done)
}

// outcomeOf says what the end of the attempts means. Called with mu held.
func (c *Client) outcomeOf(m *outgoing, err error) error {
	if err == nil || isRefusal(err) {
		return err
	}
	switch {
	case m.gaveUp != nil:
		err = m.gaveUp
	case c.ended != nil:
		err = c.ended
	}
	if m.request.doubts > 0 {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return err
}

// isRefusal reports whether the server has answered that it will not, ever. What ended the client may be a refusal, too: of a login.
func isRefusal(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused) && !refused.Retryable() && !errors.Is(err, ErrClosed)
}

// tellOutcomes gives OnOutcome what it has not heard. Of a message that is stored it hears once the
// conversation's cursor is saved behind it: otherwise a later run, which finds no such message in the
// Outbox any more, would take it for one from another device.
func (c *Client) tellOutcomes(ctx context.Context) {
	c.mu.Lock()
	waiting := len(c.outbox.outcomes) > 0
	c.mu.Unlock()
	if !waiting {
		return
	}
	c.saveMoved(ctx)
	var list, later []*outgoing
	c.mu.Lock()
	for _, m := range c.outbox.outcomes {
		if m.err == nil && !c.inbox.Passed(m.sent.Conversation, m.sent.Seq) && (c.ended == nil || c.opts.Outbox != nil) {
			later = append(later, m)
		} else {
			list = append(list, m)
		}
	}
	c.outbox.outcomes = later
	c.mu.Unlock()
	for _, m := range list {
		c.opts.OnOutcome(Outcome{Outgoing: m.Outgoing, Sent: m.sent, Err: m.err})
		if c.opts.Outbox != nil {
			if err := c.opts.Outbox.Remove(context.WithoutCancel(ctx), m.Outgoing); err != nil {
				c.log.Warn("message not removed from the outbox", "error", err)
			}
		}
		c.mu.Lock()
		delete(c.outbox.told, keyOf(m.Outgoing))
		c.calls.bytes -= m.size
		c.mu.Unlock()
	}
}
