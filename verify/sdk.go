package verify

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/verify/internal/oracle"
)

// sdkDevice is a device with the Go SDK.
type sdkDevice struct {
	// Static after construction.
	device *oracle.Device
	oracle *oracle.Oracle
	opts   client.Options
	// queues: its messages go by Send and OnOutcome, otherwise by Talk.
	queues bool
	// restartAfter draws how long its application runs before it is started anew, with the cursors and
	// the outbox of before. May be nil: for ever.
	restartAfter func() time.Duration
	calm         func() bool

	up     chan struct{} // closed when it is on line for the first time
	upOnce sync.Once
	open   atomic.Int32 // sends without an outcome

	mu     sync.Mutex
	client *client.Client // the present one; guarded by mu
	// queued are the messages of Send by their client id, and whether they have no outcome; guarded by mu.
	queued map[string]*queued
}

type queued struct {
	n    int
	open bool
}

const (
	// sdkWindow is how many sends of a device may be without an outcome.
	sdkWindow = 16
	// restartMean is how long an application that restarts runs on average.
	restartMean = 15 * time.Second
)

// begin completes a device and makes its first client.
func (s *sdkDevice) begin() error {
	s.up = make(chan struct{})
	s.queued = map[string]*queued{}
	s.opts.Device = s.device.Name
	s.opts.Store = new(client.MemoryStore) // for all clients of this device, as an application's would be
	s.opts.OnMessage = s.shown
	s.opts.OnState = func(state client.State, _ error) {
		if state == client.StateOnline {
			s.upOnce.Do(func() { close(s.up) })
		}
	}
	if s.queues {
		s.opts.Outbox = new(client.MemoryOutbox)
		s.opts.OnOutcome = s.outcome
	}
	return s.renew()
}

// renew makes a new client the present one.
func (s *sdkDevice) renew() error {
	c, err := client.New(s.opts)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = c
	return nil
}

func (s *sdkDevice) present() *client.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// run keeps the device on line. A client that gives up is an error, and another one takes its place.
func (s *sdkDevice) run(ctx context.Context) {
	for ctx.Err() == nil {
		c := s.present()
		running, ended := context.WithCancel(ctx)
		var restarting sync.WaitGroup
		if s.restartAfter != nil {
			restarting.Go(func() { s.restart(running, c) })
		}
		err := c.Run(ctx)
		ended()
		restarting.Wait()
		if s.present() != c || ctx.Err() != nil {
			continue
		}
		s.oracle.Error("%s: the client ended: %v", s.device.Name, err)
		pause(ctx, time.Second)
		if err := s.renew(); err != nil {
			s.oracle.Error("%s: %v", s.device.Name, err)
			return
		}
	}
}

// restart replaces a client after a while.
func (s *sdkDevice) restart(ctx context.Context, c *client.Client) {
	for pause(ctx, s.restartAfter()); ctx.Err() == nil && s.calm(); {
		pause(ctx, restartMean)
	}
	if ctx.Err() == nil && s.renew() == nil {
		c.Close()
	}
}

func (s *sdkDevice) shown(m client.Message) {
	s.oracle.Delivered(s.device, oracle.Delivery{
		Conversation: m.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID, Synced: m.Synced,
	})
}

func (s *sdkDevice) online() <-chan struct{} { return s.up }

func (s *sdkDevice) free() bool { return s.open.Load() < sdkWindow }

// say sends a message; its outcome comes by itself.
func (s *sdkDevice) say(ctx context.Context, m outgoing) {
	s.open.Add(1)
	if s.queues {
		s.queue(ctx, m)
		return
	}
	talk := s.present().Talk
	if m.group {
		talk = s.present().TalkGroup
	}
	go func() {
		defer s.open.Add(-1)
		sent, err := talk(ctx, m.dest, client.Draft{Body: m.body, ClientID: m.clientID})
		switch {
		case err == nil:
			s.oracle.Answered(m.n, s.answer(sent))
		case ctx.Err() == nil:
			s.oracle.Failed(m.n, err)
		}
	}()
}

func (s *sdkDevice) queue(ctx context.Context, m outgoing) {
	s.mu.Lock() // the client must not be replaced meanwhile: it would take nothing
	defer s.mu.Unlock()
	send := s.client.Send
	if m.group {
		send = s.client.SendGroup
	}
	s.queued[m.clientID] = &queued{n: m.n, open: true}
	if _, err := send(ctx, m.dest, client.Draft{Body: m.body, ClientID: m.clientID}); err != nil {
		s.open.Add(-1)
		s.oracle.Failed(m.n, err)
	}
}

// outcome takes that of a message of Send. After a restart it may be told again.
func (s *sdkDevice) outcome(x client.Outcome) {
	s.mu.Lock()
	q := s.queued[x.Draft.ClientID]
	if q.open {
		q.open = false
		s.open.Add(-1)
	}
	s.mu.Unlock()
	if x.Err != nil {
		s.oracle.Failed(q.n, x.Err)
		return
	}
	s.oracle.Answered(q.n, s.answer(x.Sent))
}

// answer: with EchoOwn the message will be shown like any other.
func (s *sdkDevice) answer(sent client.Sent) oracle.Answer {
	return oracle.Answer{
		ID: sent.MessageID, Seq: sent.Seq, Conversation: sent.Conversation, By: s.device, Shown: !s.opts.EchoOwn, InOrder: s.queues,
	}
}
