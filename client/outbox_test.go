package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// outcomes are what a client was told of its messages.
type outcomes struct {
	mu   sync.Mutex
	list []Outcome
}

func (o *outcomes) into(opts *Options) {
	opts.OnOutcome = func(k Outcome) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.list = append(o.list, k)
	}
}

// told are the outcomes as "body: seq" or "body: error", after everything has settled.
func (o *outcomes) told() (list []string) {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.list {
		if k.Err != nil {
			list = append(list, fmt.Sprintf("%s: %v", k.Draft.Body, k.Err))
		} else {
			list = append(list, fmt.Sprintf("%s: %d", k.Draft.Body, k.Sent.Seq))
		}
	}
	return list
}

func (f *fake) stored(conversation string) (list []string) {
	f.do(func() {
		for _, m := range f.logs[conversation] {
			list = append(list, m.GetBody())
		}
	})
	return list
}

// send queues a message and fails the test if it cannot.
func (u *user) send(to, body string) string {
	u.t.Helper()
	id, err := u.Send(u.t.Context(), to, Text(body))
	if err != nil || id == "" {
		u.t.Fatalf("send %q: %q, %v", body, id, err)
	}
	return id
}

// The server cannot take the first message when it comes: those behind it wait, and others do not.
// Requests used to be pipelined within a conversation, so that the second overtook the first.
func TestRefusalKeepsOrder(t *testing.T) {
	for _, status := range []wire.Status{wire.StatusSystemException, wire.StatusRateLimited} {
		t.Run(status.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				refused := 0
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
					if p.Command != wire.CmdUserTalk || p.Dest != "bob" || refused == 5 {
						return false
					}
					refused++
					f.refuse(l, p, status)
					return true
				})
				var talks sync.WaitGroup
				for i := range 5 {
					talks.Go(func() { alice.say("bob", fmt.Sprint(i)) })
					synctest.Wait()
				}
				alice.say("carol", "not held up")
				talks.Wait()
				equal(t, "stored", f.stored("u:alice:bob"), []string{"0", "1", "2", "3", "4"})
				if n := f.count(wire.CmdUserTalk); n != 5+5+1 {
					t.Errorf("%d talks were sent", n)
				}
			})
		})
	}
}

// A message is not sent before the one ahead of it is answered.
func TestOneInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		var waiting []func()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdUserTalk {
				return false
			}
			waiting = append(waiting, func() { f.handle(l, p) })
			return true
		})
		for i := range 3 {
			alice.send("bob", fmt.Sprint(i))
			alice.send("carol", fmt.Sprint(i))
		}
		for i := range 3 {
			synctest.Wait()
			f.do(func() {
				if len(waiting) != 2 {
					t.Errorf("round %d: %d are in flight", i, len(waiting))
				}
				for _, answer := range waiting {
					answer()
				}
				waiting = nil
			})
		}
		synctest.Wait()
		equal(t, "bob", f.stored("u:alice:bob"), []string{"0", "1", "2"})
		equal(t, "carol", f.stored("u:alice:carol"), []string{"0", "1", "2"})
	})
}

// The server says how long to wait. What may be repeated is, then; what may not is the caller's.
func TestRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		refused := false
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdGroupCreate && (refused || p.Command != wire.CmdUserTalk) {
				return false
			}
			refused = true
			f.answer(l, p, wire.StatusRateLimited, &pb.ErrorResp{Message: "slowly", RetryAfterMs: 7000})
			return true
		})
		begin := time.Now()
		alice.say("bob", "x")
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("sent again after %v", took)
		}
		_, err := alice.CreateGroup(t.Context(), NewGroup{})
		var e *wire.Error
		if !errors.As(err, &e) || e.Status != wire.StatusRateLimited || e.RetryAfter != 7*time.Second || !Retryable(err) {
			t.Errorf("got %v", err)
		}
		// Refused for certain, and given up while waiting: it is not stored.
		f.do(func() { refused = false })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := alice.Talk(ctx, "bob", Text("y")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
	})
}

// What is typed off line, before Run even, is sent once, in order, when there is a connection.
func TestSendOffline(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.intercept(func(l *fakeLink, _ *wire.LogicPkt) bool { l.close(1013); return true })
		var o outcomes
		alice := start(t, f, "alice", o.into)
		var want []string
		for i := range 10 {
			alice.send("bob", fmt.Sprint(i))
			want = append(want, fmt.Sprintf("%d: %d", i, i+1))
		}
		time.Sleep(time.Minute)
		equal(t, "off line", o.told(), nil)
		f.intercept(nil)
		alice.online()
		equal(t, "on line", o.told(), want)
		if alice.calls.bytes != 0 || len(alice.outbox.told)+len(alice.outbox.lanes)+len(alice.inbox.talking) != 0 {
			t.Errorf("left: %d bytes, %+v", alice.calls.bytes, alice.outbox.told)
		}
	})
}

// The application ends after a message was stored and before it was answered: the next run sends it
// again under its client id, before what is new, and tells one outcome.
func TestOutboxSurvivesRestart(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		outbox, store := &MemoryOutbox{}, &MemoryStore{}
		var first, second outcomes
		keep := func(o *Options) { o.Outbox, o.Store = outbox, store }
		alice := start(t, f, "alice", first.into, keep).online()
		synctest.Wait() // with the first sync, which would bring the message back
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdUserTalk {
				return false
			}
			f.members["u:alice:bob"] = []string{"alice", "bob"}
			f.store(l, p, "u:alice:bob")
			return true
		})
		id := alice.send("bob", "one")
		alice.send("bob", "two")
		synctest.Wait()
		alice.Close()
		if err := alice.ended(); err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Send(t.Context(), "bob", Text("x")); !errors.Is(err, ErrClosed) {
			t.Errorf("send after Close: %v", err)
		}
		equal(t, "first run", first.told(), nil)
		equal(t, "stored", f.stored("u:alice:bob"), []string{"one"})

		f.intercept(nil)
		again, err := New(Options{URL: "ws://fake", Token: StaticToken("alice"), Outbox: outbox, Store: store, OnOutcome: func(k Outcome) {
			second.mu.Lock()
			defer second.mu.Unlock()
			second.list = append(second.list, k)
		}, OnMessage: func(m Message) { t.Errorf("heard %+v", m) }})
		if err != nil {
			t.Fatal(err)
		}
		again.dial = f.dial
		if _, err := again.Send(t.Context(), "bob", Text("three")); err != nil { // before Run
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- again.Run(ctx) }()
		equal(t, "second run", second.told(), []string{"one: 1", "two: 2", "three: 3"})
		if second.list[0].Draft.ClientID != id || second.list[0].Sent.ClientID != id || second.list[0].Account != "bob" {
			t.Errorf("told %+v", second.list[0])
		}
		if left, _ := outbox.Load(t.Context()); len(left) != 0 {
			t.Errorf("left %+v", left)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The next login is refused for good while the answer to a stored message is still to come. What refuses the login does not
// refuse the message: the next run sends it again, and a Talk says that nobody knows.
func TestRefusedLoginRefusesNoMessage(t *testing.T) {
	for _, status := range []wire.Status{wire.StatusUnauthorized, wire.StatusConflict, wire.StatusInvalidBody} {
		t.Run(status.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				outbox := &MemoryOutbox{}
				var outcomes outcomes
				alice := start(t, f, "alice", outcomes.into, func(o *Options) { o.Outbox = outbox }).online()
				synctest.Wait()
				refuse := false
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
					switch {
					case p.Command == wire.CmdUserTalk:
						f.members["u:alice:bob"] = []string{"alice", "bob"}
						f.store(l, p, "u:alice:bob")
					case p.Command == wire.CmdGroupTalk:
					case p.Command == wire.CmdSignIn && refuse:
						f.refuse(l, p, status)
					default:
						return false
					}
					return true
				})
				alice.send("bob", "one")
				alice.send("bob", "two")
				talk := make(chan error)
				go func() {
					_, err := alice.TalkGroup(t.Context(), "7", Text("x"))
					talk <- err
				}()
				synctest.Wait()
				f.do(func() { refuse = true })
				f.each("alice", func(l *fakeLink) { l.close(1001) })
				if err := <-talk; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrClosed) {
					t.Errorf("the talk under way: %v", err)
				}
				if err := alice.ended(); err == nil {
					t.Error("the login was not refused")
				}
				equal(t, "told", outcomes.told(), nil)
				if left, _ := outbox.Load(t.Context()); len(left) != 2 {
					t.Errorf("left in the Outbox: %+v", left)
				}
			})
		})
	}
}

// One client id towards two: what became of one message says nothing of the other.
func TestOneClientIDTowardsTwo(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		synctest.Wait()
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool {
			return p.Command == wire.CmdUserTalk && p.Dest == "carol" // it gets lost
		})
		ctx, giveUp := context.WithCancel(t.Context())
		draft := Draft{Body: "x", ClientID: "7"}
		talk := make(chan error)
		go func() {
			_, err := alice.Talk(ctx, "carol", draft)
			talk <- err
		}()
		synctest.Wait()
		if _, err := alice.Talk(t.Context(), "bob", draft); err != nil {
			t.Fatal(err)
		}
		giveUp()
		if err := <-talk; !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("the message to carol: %v", err)
		}
	})
}

// The application ends after a message was answered, but before a message of bob's that comes before it has
// arrived. It was told, and removed from the Outbox: the next run heard it as if from another device.
func TestOutcomeWaitsForCursor(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		outbox, store := &MemoryOutbox{}, &MemoryStore{}
		var first, second outcomes
		keep := func(o *Options) { o.Outbox, o.Store = outbox, store }
		alice := start(t, f, "alice", first.into, keep).online()
		synctest.Wait()
		f.do(func() { // alice does not hear of it, and no sync tells
			f.members["u:alice:bob"] = []string{"alice", "bob"}
			f.logs["u:alice:bob"] = []*pb.Message{{MessageId: 1001, Seq: 1, Sender: "bob", Body: "lost"}}
		})
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdSync })
		alice.send("bob", "one")
		synctest.Wait()
		equal(t, "stored", f.stored("u:alice:bob"), []string{"lost", "one"})
		alice.Close()
		if err := alice.ended(); err != nil {
			t.Fatal(err)
		}
		equal(t, "first run", first.told(), nil)

		f.intercept(nil)
		again := start(t, f, "alice", second.into, keep).online()
		equal(t, "heard", again.bodies(), []string{"lost"})
		time.Sleep(time.Minute)
		equal(t, "second run", second.told(), []string{"one: 2"})
		equal(t, "stored", f.stored("u:alice:bob"), []string{"lost", "one"})
		if left, _ := outbox.Load(t.Context()); len(left) != 0 {
			t.Errorf("left %+v", left)
		}
	})
}

// Final refusals, and what is not queued at all.
func TestSendErrors(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var o outcomes
		outbox := &brokenOutbox{}
		alice := start(t, f, "alice", o.into, func(o *Options) { o.OutboxBytes, o.Outbox = 3000, outbox }).online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdUserTalk && p.Dest == "nobody" {
				f.refuse(l, p, wire.StatusNoDestination)
				return true
			}
			return p.Command == wire.CmdUserTalk && p.Dest == "bob"
		})
		alice.send("nobody", "lost")
		equal(t, "told", o.told(), []string{"lost: no destination (100): refused"})

		if _, err := alice.Send(t.Context(), "bob", Text(strings.Repeat("x", 70_000))); !errors.Is(err, ErrTooLarge) || Retryable(err) {
			t.Errorf("too large: %v", err)
		}
		d := Draft{Body: strings.Repeat("x", 2000), ClientID: "twice"}
		for range 2 {
			if id, err := alice.Send(t.Context(), "bob", d); id != "twice" || (err != nil && !errors.Is(err, ErrQueueFull)) {
				t.Errorf("send: %q, %v", id, err)
			}
		}
		synctest.Wait()
		if n := len(outbox.list); n != 1 {
			t.Errorf("%d in the outbox", n)
		}
		if _, err := alice.Send(t.Context(), "carol", Draft{Body: d.Body}); !errors.Is(err, ErrQueueFull) || !Retryable(err) {
			t.Errorf("full: %v", err)
		}
		outbox.broken = errors.New("disk full")
		if _, err := alice.Send(t.Context(), "carol", Text("y")); !errors.Is(err, outbox.broken) {
			t.Errorf("broken outbox: %v", err)
		}
		equal(t, "told", o.told()[1:], nil)
	})
}

// The same message twice on its way is one.
func TestSendTwice(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var o outcomes
		alice := start(t, f, "alice", o.into)
		for _, to := range []string{"bob", "bob", "carol"} {
			if _, err := alice.Send(t.Context(), to, Draft{Body: to, ClientID: "same"}); err != nil {
				t.Fatal(err)
			}
		}
		alice.online()
		if got := o.told(); len(got) != 2 {
			t.Errorf("told %q", got)
		}
	})
}

// slowOutbox keeps a message before its Add returns.
type slowOutbox struct {
	MemoryOutbox
	kept, goOn chan struct{}
}

func (o *slowOutbox) Add(ctx context.Context, m Outgoing) error {
	err := o.MemoryOutbox.Add(ctx, m)
	close(o.kept)
	<-o.goOn
	return err
}

// A message is sent while Run begins. Run loaded it from the outbox, and Send queued it beside that
// after its Add: it had two outcomes.
func TestSendWhileRunBegins(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var o outcomes
		outbox := &slowOutbox{kept: make(chan struct{}), goOn: make(chan struct{})}
		alice := newUser(t, f, "alice", o.into, func(o *Options) { o.Outbox = outbox })
		go alice.Send(t.Context(), "bob", Text("one")) //nolint:errcheck // its outcome is told
		<-outbox.kept
		alice.run()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := alice.Send(ctx, "bob", Text("two")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("behind a slow Add: %v", err)
		}
		close(outbox.goOn)
		equal(t, "told", o.told(), []string{"one: 1"})
		if alice.calls.bytes != 0 || len(alice.outbox.told) != 0 {
			t.Errorf("left: %d bytes, %+v", alice.calls.bytes, alice.outbox.told)
		}
	})
}

type brokenOutbox struct {
	MemoryOutbox
	broken error
}

func (o *brokenOutbox) Add(ctx context.Context, m Outgoing) error {
	if o.broken != nil {
		return o.broken
	}
	return o.MemoryOutbox.Add(ctx, m)
}

func (o *brokenOutbox) Load(ctx context.Context) ([]Outgoing, error) {
	if o.broken != nil {
		return nil, o.broken
	}
	return o.MemoryOutbox.Load(ctx)
}

func TestOutboxLoad(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		broken := &brokenOutbox{broken: errors.New("disk on fire")}
		if err := start(t, f, "alice", func(o *Options) { o.Outbox = broken }).ended(); !errors.Is(err, broken.broken) {
			t.Errorf("ended with %v", err)
		}
		// A limit was lowered since the message was kept: that is its outcome.
		var o outcomes
		kept := &MemoryOutbox{list: []Outgoing{
			{Group: "g", Draft: Draft{Body: strings.Repeat("x", 70_000), ClientID: "1"}},
			{Account: "bob", Draft: Draft{Body: "small", ClientID: "2"}},
		}}
		start(t, f, "alice", o.into, func(o *Options) { o.Outbox = kept })
		synctest.Wait()
		if got := o.list; len(got) != 2 || !errors.Is(got[0].Err, ErrTooLarge) && !errors.Is(got[1].Err, ErrTooLarge) {
			t.Errorf("told %v", o.told())
		}
	})
}

// Without an Outbox everything has its outcome when Run returns.
func TestOutcomesWhenClosed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var o outcomes
		alice := start(t, f, "alice", o.into).online()
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdUserTalk })
		alice.send("bob", "sent")
		alice.send("bob", "waits")
		failed := make(chan error)
		go func() {
			_, err := alice.Talk(t.Context(), "carol", Text("x"))
			failed <- err
		}()
		synctest.Wait()
		alice.Close()
		if err := <-failed; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrOutcomeUnknown) || Retryable(err) {
			t.Errorf("talk: %v", err)
		}
		if err := alice.ended(); err != nil {
			t.Fatal(err)
		}
		equal(t, "told", o.told(), []string{"sent: outcome unknown: client closed", "waits: client closed"})
		if !errors.Is(o.list[0].Err, ErrOutcomeUnknown) || errors.Is(o.list[1].Err, ErrOutcomeUnknown) {
			t.Errorf("told %+v", o.list)
		}

		never, err := New(Options{URL: "ws://fake", Token: StaticToken("x")})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := never.Talk(t.Context(), "bob", Text("x"))
			failed <- err
		}()
		synctest.Wait()
		never.Close()
		if err := <-failed; !errors.Is(err, ErrClosed) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("talk: %v", err)
		}
	})
}

// A Talk that is given up is not sent behind its caller's back, and those behind it go on.
func TestGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdUserTalk })
		give := func(body string) (context.CancelFunc, chan error) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := alice.Talk(ctx, "bob", Text(body))
				ended <- err
			}()
			synctest.Wait()
			return cancel, ended
		}
		cancelFirst, first := give("sent")
		cancelSecond, second := give("behind it")
		cancelThird, third := give("last")
		defer cancelThird()
		cancelSecond()
		if err := <-second; !errors.Is(err, context.Canceled) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("not sent: %v", err)
		}
		f.intercept(nil)
		cancelFirst()
		if err := <-first; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) || !Retryable(err) {
			t.Errorf("sent: %v", err)
		}
		if err := <-third; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		equal(t, "stored", f.stored("u:alice:bob"), []string{"last"})
		cancelled, stop := context.WithCancel(t.Context())
		stop()
		if _, err := alice.Talk(cancelled, "bob", Text("never")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		equal(t, "stored", f.stored("u:alice:bob"), []string{"last"})
	})
}

// While a gap holds back as many own messages as may be, no further one is sent.
func TestCrowdedInbox(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice", func(o *Options) { o.InboxMessages = 4 }).online()
		synctest.Wait()
		f.do(func() { // a message of bob's of which alice does not hear, and no sync tells
			f.members["u:alice:bob"] = []string{"alice", "bob"}
			f.logs["u:alice:bob"] = []*pb.Message{{MessageId: 1001, Seq: 1, Sender: "bob", Body: "lost"}}
		})
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdSync })
		for i := range 10 {
			alice.send("bob", fmt.Sprint(i))
		}
		synctest.Wait()
		if n := len(f.stored("u:alice:bob")); n != 1+4 {
			t.Errorf("%d are stored", n)
		}
		if _, err := alice.Talk(t.Context(), "carol", Text("x")); !errors.Is(err, ErrQueueFull) {
			t.Errorf("talk: %v", err)
		}
		f.intercept(nil)
		time.Sleep(time.Minute)
		if n := len(f.stored("u:alice:bob")); n != 1+10 {
			t.Errorf("%d are stored", n)
		}
		equal(t, "alice", alice.bodies(), []string{"lost"})
	})
}

// An application that is ended and started again while everything goes wrong: what it sent is
// stored once, in the order of sending, and each message has one outcome.
func TestOutboxChaos(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) { outboxChaos(t, f, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func outboxChaos(t *testing.T, f *fake, random *rand.Rand) {
	const sends = 120
	own := rand.New(rand.NewPCG(random.Uint64(), 3)) // the test's; random is the server's
	modern(f)
	f.members["9"] = []string{"alice", "bob"}
	f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
		switch random.IntN(10) {
		case 0:
			f.refuse(l, p, wire.StatusSystemException)
		case 1:
			f.answer(l, p, wire.StatusRateLimited, &pb.ErrorResp{RetryAfterMs: int64(random.IntN(500))})
		case 2:
			f.handle(l, p)
			l.close(1011)
		case 3:
			l.close(1001)
		case 4: // no answer
		case 5:
			f.tell(l, wire.CmdGoAway, &pb.GoAway{DelayMs: uint32(random.IntN(2000))})
			return false
		default:
			return false
		}
		return true
	})
	outbox, store := &MemoryOutbox{}, &MemoryStore{}
	want := map[string][]string{}
	told := map[string]int{}
	heard := map[string][]string{}
	bob := start(t, f, "bob", func(o *Options) {
		o.OnMessage = func(m Message) { heard[m.Conversation] = append(heard[m.Conversation], m.Body) }
	})
	var alice *user
	run := func() {
		alice = start(t, f, "alice", func(o *Options) {
			o.Outbox, o.Store = outbox, store
			o.OnMessage = func(m Message) { t.Errorf("heard %+v", m) }
			o.OnOutcome = func(k Outcome) {
				if told[k.Draft.Body]++; k.Err != nil {
					t.Errorf("outcome of %s: %v", k.Draft.Body, k.Err)
				}
			}
		})
	}
	run()
	for i := range sends {
		var err error
		body := fmt.Sprint(i)
		if own.IntN(2) == 0 {
			_, err = alice.SendGroup(t.Context(), "9", Text(body))
			want["9"] = append(want["9"], body)
		} else {
			_, err = alice.Send(t.Context(), "bob", Text(body))
			want["u:alice:bob"] = append(want["u:alice:bob"], body)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(own.IntN(300)) * time.Millisecond)
		if own.IntN(15) == 0 {
			alice.Close()
			if err := alice.ended(); err != nil {
				t.Fatal(err)
			}
			run()
		}
	}
	f.intercept(nil)
	time.Sleep(10 * time.Minute)
	if err := bob.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	for id, list := range want {
		equal(t, "stored in "+id, f.stored(id), list)
		equal(t, "heard in "+id, heard[id], list)
	}
	for body, n := range told {
		if n != 1 {
			t.Errorf("%d outcomes of %s", n, body)
		}
	}
	if left, _ := outbox.Load(t.Context()); len(told) != sends || len(left) != 0 {
		t.Errorf("%d outcomes, %d are left", len(told), len(left))
	}
}
