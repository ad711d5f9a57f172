package verify

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

const (
	// pollWait is how long a plain device waits for a push before it looks whether it has something to send.
	pollWait = 25 * time.Millisecond
	// plainAnswerWait is how long it waits for an answer.
	plainAnswerWait = 10 * time.Second
	// plainQueue is how many messages it has to send at most.
	plainQueue = 4
	// retryBase and retryMax are the ceilings of the random wait before a request is made again.
	retryBase, retryMax = 100 * time.Millisecond, 2 * time.Second
	// backoffBase is the first ceiling of the random wait before a connection is made again.
	backoffBase = 200 * time.Millisecond
	// stableAfter is how long a connection must have lasted for its end not to count as a failure.
	stableAfter = 5 * time.Second
)

// inbox is what a plain device does with what it receives. It belongs to the device's goroutine.
type inbox interface {
	// catchUp asks for what may be missing: after each login and when the server says so. It is never
	// called because a message seems to be missing, or after some time.
	catchUp(c *oldclient.Client) error
	// pushed takes a message that was pushed, and says whether it is necessary to catch up.
	pushed(m *oldclient.Message) (sync bool)
	// answered notes that the device's own message was stored.
	answered(sent oldclient.Sent)
	// due does what is to be done from time to time.
	due(c *oldclient.Client) error
}

// plainDevice does what the protocol tells a client to do, and nothing more: it takes pushes as they
// come, and asks for what it lacks when it has logged in, when it is told to, and never otherwise. A
// push that is lost without a word leaves a hole that the oracle sees; the SDK, which looks for holes,
// would fill it. It is one goroutine that reads frames in turn.
type plainDevice struct {
	// Static after construction.
	device   *oracle.Device
	oracle   *oracle.Oracle
	login    oldclient.Device // Attempt is owned by run
	token    string
	gateways *gateways
	habit    habit
	calm     func() bool
	ping     time.Duration
	backoff  time.Duration
	rng      *rand.Rand // owned by run
	inbox    inbox      // owned by run

	work   chan outgoing
	up     chan struct{} // closed when it is on line for the first time
	once   sync.Once
	onLine atomic.Bool

	// Owned by run.
	todo   *outgoing  // not answered
	tries  int        // how often it was sent
	next   time.Time  // when to send it again
	sent   []outgoing // the last ones that were answered
	again  time.Time  // when to send them again
	deaf   time.Time  // when to stop reading
	dropAt time.Time  // when to hang up
}

func (p *plainDevice) online() <-chan struct{} { return p.up }

// free: what it has to send it may keep while it is off line, but for an old client, whose user sees
// that it is.
func (p *plainDevice) free() bool {
	return len(p.work) < cap(p.work) && (p.device.Kind == oracle.Seqs || p.onLine.Load())
}

func (p *plainDevice) say(_ context.Context, m outgoing) { p.work <- m }

// run keeps the device on line until ctx ends.
func (p *plainDevice) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := p.connect(ctx)
		p.onLine.Store(false)
		var against *oldclient.ProtocolError
		if errors.As(err, &against) {
			p.oracle.Error("%s was sent what no server may send: %v", p.device.Name, err)
		}
		if p.habit == flaps && !p.calm() {
			failures = 0
			pause(ctx, flapPause)
			continue
		}
		if time.Since(began) > stableAfter || errors.Is(err, errHungUp) {
			failures = 0
		}
		pause(ctx, jitter(failures, backoffBase, p.backoff))
	}
}

// jitter is the full-jitter wait after so many failures.
func jitter(failures int, base, limit time.Duration) time.Duration {
	return rand.N(min(base<<min(failures, 20), limit) + 1) // not of the seed: it is the time that decides
}

// connect makes one connection and uses it until it ends.
func (p *plainDevice) connect(ctx context.Context) error {
	gateway, err := p.gateways.pick(ctx)
	if err != nil {
		return err
	}
	c, err := oldclient.Dial(gateway)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // done with it
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	c.Timeout = plainAnswerWait
	p.login.Attempt++
	if err := c.LoginAs(p.token, p.login); err != nil {
		return p.refused(ctx, err)
	}
	if p.habit == flaps && !p.calm() {
		p.once.Do(func() { close(p.up) })
		return nil
	}
	err = p.serve(ctx, c)
	for _, push := range c.Pending() { // received, though the connection has ended
		p.take(push)
	}
	return err
}

// refused waits as long as a refusal of the login says.
func (p *plainDevice) refused(ctx context.Context, err error) error {
	var status *oldclient.StatusError
	if !errors.As(err, &status) {
		return err
	}
	if status.Status == 105 || status.Status == 106 {
		p.oracle.Error("%s: %v", p.device.Name, err)
	}
	pause(ctx, status.RetryAfter)
	return err
}

// serve takes what comes and does what is to be done, until the connection ends.
func (p *plainDevice) serve(ctx context.Context, c *oldclient.Client) error {
	if err := p.catchUp(ctx, c); err != nil {
		return err
	}
	p.onLine.Store(true)
	p.once.Do(func() { close(p.up) })
	p.again = time.Now()
	p.deaf = time.Now().Add(p.deafAfter())
	p.dropAt = time.Now().Add(time.Duration(p.rng.ExpFloat64() * float64(cutMean)))
	for pinged := time.Now(); ctx.Err() == nil; {
		push, ok, err := c.Poll(pollWait)
		if err != nil {
			return err
		}
		if ok && p.take(push) {
			err = p.catchUp(ctx, c)
		}
		if err == nil {
			err = p.send(c)
		}
		if err == nil {
			err = p.inbox.due(c)
		}
		if err == nil && time.Since(pinged) > p.ping {
			pinged = time.Now()
			err = c.Ping()
		}
		if err == nil {
			err = p.misbehave(ctx, c)
		}
		if err = tolerable(err); err != nil {
			return err
		}
		if p.habit == flaps && !p.calm() {
			return nil
		}
	}
	return ctx.Err()
}

// tolerable takes out what is the error of one request: the connection lives.
func tolerable(err error) error {
	var status *oldclient.StatusError
	if errors.As(err, &status) && status.Status < 400 {
		return nil
	}
	return err
}

// take handles a push, and reports whether the device has to catch up.
func (p *plainDevice) take(push oldclient.Push) (sync bool) {
	if push.Message != nil {
		return p.inbox.pushed(push.Message)
	}
	return push.Hint
}

// catchUp asks until the server has answered.
func (p *plainDevice) catchUp(ctx context.Context, c *oldclient.Client) error {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := p.inbox.catchUp(c)
		if err == nil || tolerable(err) != nil {
			return err
		}
		pause(ctx, jitter(failures, retryBase, retryMax))
	}
	return ctx.Err()
}

// send sends what is to be sent, one message at a time.
func (p *plainDevice) send(c *oldclient.Client) error {
	if p.todo == nil {
		select {
		case m := <-p.work:
			p.todo = &m
		default:
			return nil
		}
	}
	if time.Now().Before(p.next) {
		return nil
	}
	sent, err := p.talk(c, *p.todo)
	retry, err := p.concluded(sent, err)
	if p.tries++; p.todo == nil {
		p.tries, p.next = 0, time.Time{}
		return err
	}
	p.next = time.Now().Add(max(retry, jitter(p.tries, retryBase, retryMax)))
	return err
}

func (p *plainDevice) talk(c *oldclient.Client, m outgoing) (oldclient.Sent, error) {
	anonymous := p.device.Kind == oracle.IDs
	switch {
	case anonymous && m.group:
		return c.GroupTalk(m.dest, m.body)
	case anonymous:
		return c.Talk(m.dest, m.body)
	case m.group:
		return c.GroupTalkOnce(m.dest, m.body, m.clientID)
	default:
		return c.TalkOnce(m.dest, m.body, m.clientID)
	}
}

func (p *plainDevice) answer(sent oldclient.Sent) oracle.Answer {
	return oracle.Answer{ID: sent.MessageID, Seq: sent.Seq, Conversation: sent.Conversation, By: p.device, Shown: true, InOrder: true}
}

// concluded handles the answer to the message that was to be sent. It stays to be sent if the answer
// says so, after a wait, or if the connection has ended, which is an error.
func (p *plainDevice) concluded(sent oldclient.Sent, err error) (retry time.Duration, _ error) {
	m := *p.todo
	var status *oldclient.StatusError
	switch refused := errors.As(err, &status); {
	case err == nil:
		p.todo = nil
		p.inbox.answered(sent)
		p.oracle.Answered(m.n, p.answer(sent))
		if p.habit == resends {
			p.sent = append(p.sent, m)
			p.sent = p.sent[max(0, len(p.sent)-resendLast):]
		}
		return 0, nil
	case refused && (status.Status == 302 || status.Status == 300 && p.device.Kind == oracle.Seqs):
		return status.RetryAfter, nil // certainly not done, or safe to do again
	case refused && status.Status == 404:
		return 0, err // not done: after another login
	case refused && status.Status != 300:
		p.todo = nil
		p.oracle.Failed(m.n, err)
		return 0, nil
	case p.device.Kind == oracle.IDs:
		p.todo = nil
		p.oracle.Unknown(m.n) // it may be stored; sent again it would be another message
	}
	return 0, err
}
