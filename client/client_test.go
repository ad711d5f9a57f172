package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// user is a running client of a test, and what it heard.
type user struct {
	*Client
	t    *testing.T
	done chan error

	mu     sync.Mutex
	heard  []Message
	groups []GroupEvent
	states []State
}

// start runs a client against the fake until the test ends.
func start(t *testing.T, f *fake, account string, change ...func(*Options)) *user {
	t.Helper()
	u := newUser(t, f, account, change...)
	u.run()
	return u
}

// newUser is a client that does not run yet.
func newUser(t *testing.T, f *fake, account string, change ...func(*Options)) *user {
	t.Helper()
	u := &user{t: t, done: make(chan error, 1)}
	o := Options{
		URL: "ws://fake", Token: StaticToken(account),
		OnMessage: func(m Message) { u.note(func() { u.heard = append(u.heard, m) }) },
		OnGroup:   func(e GroupEvent) { u.note(func() { u.groups = append(u.groups, e) }) },
		OnState:   func(s State, _ error) { u.note(func() { u.states = append(u.states, s) }) },
	}
	for _, g := range change {
		g(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.dial = f.dial
	u.Client = c
	return u
}

// run runs the client until the test ends.
func (u *user) run() {
	ctx, cancel := context.WithCancel(u.t.Context())
	go func() { u.done <- u.Run(ctx) }()
	u.t.Cleanup(func() {
		cancel()
		u.done <- <-u.done
	})
}

func (u *user) note(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
}

// bodies is what was heard, after everything has settled.
func (u *user) bodies() (list []string) {
	synctest.Wait()
	u.note(func() {
		for _, m := range u.heard {
			list = append(list, m.Body)
		}
	})
	return list
}

func (u *user) online() *user {
	u.t.Helper()
	if err := u.Online(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
	return u
}

func (u *user) say(to, body string) Sent {
	u.t.Helper()
	sent, err := u.Talk(u.t.Context(), to, Text(body))
	if err != nil {
		u.t.Fatalf("talk %q: %v", body, err)
	}
	return sent
}

// ended is what Run returned.
func (u *user) ended() error {
	u.t.Helper()
	err := <-u.done
	u.done <- err
	return err
}

func equal[T any](t *testing.T, what string, got, want []T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// bubble runs a test with its own time.
func bubble(t *testing.T, f func(t *testing.T, f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newFake(t)) })
}

func TestTalk(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		sent := alice.say("bob", "one")
		if sent.Seq != 1 || sent.MessageID != 1001 || sent.Conversation != "u:alice:bob" || len(sent.ClientID) < 26 {
			t.Errorf("sent %+v", sent)
		}
		bob.say("alice", "two")
		alice.say("bob", "three")
		equal(t, "bob", bob.bodies(), []string{"one", "three"})
		equal(t, "alice", alice.bodies(), []string{"two"})
		if m := bob.heard[0]; m.Peer != "alice" || m.Sender != "alice" || m.Seq != 1 || m.ClientID != sent.ClientID || !m.SendTime.Equal(sent.SendTime) {
			t.Errorf("heard %+v", m)
		}
		if alice.Account() != "alice" || alice.State() != StateOnline {
			t.Errorf("account %q, state %v", alice.Account(), alice.State())
		}
		equal(t, "states", alice.states, []State{StateConnecting, StateOnline})
	})
}

func TestOtherDevicesHear(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		phone := start(t, f, "alice", func(o *Options) { o.Device = "phone" }).online()
		web := start(t, f, "alice", func(o *Options) { o.Device = "web" }).online()
		echo := start(t, f, "alice", func(o *Options) { o.Device, o.EchoOwn = "echo", true }).online()
		phone.say("bob", "one")
		echo.say("bob", "two")
		equal(t, "phone", phone.bodies(), []string{"two"})
		equal(t, "web", web.bodies(), []string{"one", "two"})
		equal(t, "echo", echo.bodies(), []string{"one", "two"})
		if m := web.heard[0]; m.Sender != "alice" || m.Peer != "bob" {
			t.Errorf("heard %+v", m)
		}
	})
}

func TestGroups(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		id, err := alice.CreateGroup(t.Context(), NewGroup{Name: "g", Members: []string{"bob"}})
		if err != nil || id == "" {
			t.Fatal(id, err)
		}
		if _, err := alice.TalkGroup(t.Context(), id, Text("hi all")); err != nil {
			t.Fatal(err)
		}
		equal(t, "bob", bob.bodies(), []string{"hi all"})
		if m := bob.heard[0]; m.Group != id || m.Peer != "" || m.Conversation != id {
			t.Errorf("heard %+v", m)
		}
		equal(t, "events", bob.groups, []GroupEvent{{Change: GroupCreated, Group: id, Accounts: []string{"alice", "bob"}}})

		var refused *wire.Error
		if _, err := alice.Group(t.Context(), id); !errors.As(err, &refused) || refused.Status != wire.StatusNotImplemented || Retryable(err) {
			t.Errorf("group: %v", err)
		}
	})
}

// What the device missed comes first, in pages, and with it what is said meanwhile.
func TestSyncAfterLogin(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.page = 7
		alice := start(t, f, "alice").online()
		var want []string
		say := func() {
			want = append(want, fmt.Sprint(len(want)))
			alice.say("bob", want[len(want)-1])
		}
		for range 100 {
			say()
		}
		store := NewMemoryStore(map[string]int64{"u:alice:bob": 10})
		bob := start(t, f, "bob", func(o *Options) { o.Store = store }).online()
		for range 20 {
			say()
		}
		equal(t, "bob", bob.bodies(), want[10:])
		if seq := store.Cursors()["u:alice:bob"]; seq != 120 {
			t.Errorf("saved %d", seq)
		}
	})
}

// Messages so large that a full page exceeds what the server may queue: it closes the connection as
// too slow. The client must not ask for the same page for ever.
func TestPagesShrink(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		var want []string
		for i := range 30 {
			want = append(want, fmt.Sprint(i))
			alice.say("bob", want[i])
		}
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdSync {
				return false
			}
			if list := f.sync(l, p).GetConversations(); len(list) == 0 || len(list[0].GetMessages()) < 5 {
				return false
			}
			l.close(im.ReasonSlowConsumer.Code())
			return true
		})
		bob := start(t, f, "bob")
		time.Sleep(10 * time.Minute)
		equal(t, "bob", bob.bodies(), want)
	})
}

// A push that is lost shows as a gap with the next one, or by a hint.
func TestLostPushes(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		lose := func(lost bool) {
			f.do(func() { f.onPush = func(*fakeLink, *wire.LogicPkt) bool { return lost } })
		}
		alice.say("bob", "one")
		synctest.Wait()
		syncs := f.count(wire.CmdSync)

		lose(true)
		alice.say("bob", "two")
		lose(false)
		alice.say("bob", "three")
		equal(t, "before the gap is closed", bob.bodies(), []string{"one"})
		time.Sleep(gapWait)
		equal(t, "after a gap", bob.bodies(), []string{"one", "two", "three"})

		lose(true)
		alice.say("bob", "four")
		f.each("bob", f.hint)
		equal(t, "after a hint", bob.bodies(), []string{"one", "two", "three", "four"})
		if n := f.count(wire.CmdSync) - syncs; n != 2 {
			t.Errorf("%d syncs", n)
		}
	})
}

// A push that was only overtaken is waited for, without a sync.
func TestOvertakenPush(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		synctest.Wait()
		syncs := f.count(wire.CmdSync)
		var late []byte
		f.do(func() {
			f.onPush = func(l *fakeLink, p *wire.LogicPkt) bool {
				if late == nil {
					late = wire.Marshal(p)
					return true
				}
				return false
			}
		})
		alice.say("bob", "one")
		alice.say("bob", "two")
		equal(t, "meanwhile", bob.bodies(), []string(nil))
		f.each("bob", func(l *fakeLink) { l.send(late) })
		equal(t, "bob", bob.bodies(), []string{"one", "two"})
		time.Sleep(time.Second)
		synctest.Wait()
		if n := f.count(wire.CmdSync); n != syncs {
			t.Errorf("%d syncs", n-syncs)
		}
	})
}

func TestMalformedPackets(t *testing.T) {
	for name, payload := range map[string][]byte{
		"no magic":       []byte("hello world"),
		"short":          {0xc3, 0x11},
		"header":         {0xc3, 0x11, 0xa3, 0x65, 0, 0, 0, 1, 0xff, 0, 0, 0, 0},
		"a request":      wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk}}),
		"push's body":    wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, Body: []byte{0xff}}),
		"kickout's body": wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}, Body: []byte{0xff}}),
		"event's body":   wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdGroupJoin, Flag: wire.FlagPush}, Body: []byte{0xff}}),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				f.each("alice", func(l *fakeLink) { l.send(payload) })
				time.Sleep(time.Second)
				alice.online()
				if n := f.count(wire.CmdSignIn); n != 2 {
					t.Errorf("%d logins", n)
				}
			})
		})
	}
}

// What a server may say that this client does not know.
func TestUnknownPackets(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.each("alice", func(l *fakeLink) {
			l.send(wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: "new.thing", Flag: wire.FlagPush}, Body: []byte{0xff}}))
			l.send(wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: "new.thing", Flag: wire.FlagResponse, Sequence: 77}}))
			l.send(wire.Marshal(&wire.BasicPkt{Code: 99}))
			l.send(wire.Ping)
		})
		alice.say("bob", "still here")
		synctest.Wait()
		if f.count(wire.CmdSignIn) != 1 || f.pings != 1 { // the pong counts as one here
			t.Errorf("%d logins, %d pongs", f.count(wire.CmdSignIn), f.pings)
		}
	})
}

// A server that knows no extension: no sync is asked for, and pushes go straight through.
func TestServerWithoutSync(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.features = nil
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		alice.say("bob", "one")
		alice.say("bob", "two")
		equal(t, "bob", bob.bodies(), []string{"one", "two"})
		equal(t, "alice", alice.bodies(), []string(nil))
		if n := f.count(wire.CmdSync); n != 0 {
			t.Errorf("%d syncs", n)
		}
		if err := alice.Sync(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("sync: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		closing := start(t, f, "alice", func(o *Options) { o.Device = "a" }).online()
		closing.Close()
		if err := closing.ended(); err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, err := range []error{closing.Online(t.Context()), closing.Ack(t.Context(), 1), closing.Run(t.Context())} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}

		var self *user
		self = start(t, f, "bob", func(o *Options) { o.OnMessage = func(Message) { self.Close() } }).online()
		start(t, f, "carol").online().say("bob", "close yourself")
		if err := self.ended(); err != nil {
			t.Errorf("Run: %v", err)
		}

		leaving := start(t, f, "alice", func(o *Options) { o.Device = "b" }).online()
		if err := leaving.SignOut(t.Context()); err != nil || leaving.ended() != nil {
			t.Errorf("sign out: %v", err)
		}

		never, err := New(Options{URL: "tcp://x", Token: StaticToken("x")})
		if err != nil {
			t.Fatal(err)
		}
		never.Close()
		if err := never.Run(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Run after Close: %v", err)
		}
	})
}

func TestStoreErrors(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		broken := errors.New("disk on fire")
		bob := start(t, f, "bob", func(o *Options) { o.Store = brokenStore{load: broken} })
		if err := bob.ended(); !errors.Is(err, broken) {
			t.Errorf("ended with %v", err)
		}
		bob = start(t, f, "bob", func(o *Options) { o.Store = brokenStore{save: broken} }).online()
		start(t, f, "alice").online().say("bob", "x")
		equal(t, "bob", bob.bodies(), []string{"x"})
	})
}

type brokenStore struct{ load, save error }

func (s brokenStore) Load(context.Context) (map[string]int64, error) { return nil, s.load }
func (s brokenStore) Save(context.Context, string, int64) error      { return s.save }
func (s brokenStore) Delete(context.Context, string) error           { return s.save }

func TestOptions(t *testing.T) {
	token := StaticToken("x")
	for name, o := range map[string]Options{
		"no token":       {URL: "ws://x"},
		"no address":     {Token: token},
		"two addresses":  {URL: "ws://x", Router: "http://x", Token: token},
		"http gateway":   {URL: "http://x", Token: token},
		"no host":        {URL: "ws:///x", Token: token},
		"ws router":      {Router: "ws://x", Token: token},
		"malformed URL":  {URL: "ws://x\x00", Token: token},
		"router no host": {Router: "localhost", Token: token},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Chaos: connections break, pushes are lost with a hint, requests are refused; everyone hears
// everything that was said, once and in order.
func TestChaos(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) { chaos(t, f, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func chaos(t *testing.T, f *fake, random *rand.Rand) {
	const talks = 40
	f.page = 5
	owed := map[*fakeLink]bool{}
	calm := false
	f.onPush = func(l *fakeLink, _ *wire.LogicPkt) bool {
		if calm || random.IntN(4) > 0 {
			return false
		}
		owed[l] = true
		return true
	}
	f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
		if calm || p.Command == wire.CmdSignIn {
			return false
		}
		switch random.IntN(12) {
		case 0:
			f.refuse(l, p, wire.StatusSystemException)
			return true
		case 1:
			f.handle(l, p)
			l.close(1011)
			return true
		case 2:
			return true
		}
		if owed[l] && random.IntN(3) == 0 {
			delete(owed, l)
			f.hint(l)
		}
		return false
	})

	f.members["g"] = []string{"alice", "bob", "carol"}
	users := map[string]*user{}
	for _, name := range f.members["g"] {
		users[name] = start(t, f, name, func(o *Options) { o.InboxMessages, o.EchoOwn = 16, name == "carol" })
	}
	var talking sync.WaitGroup
	for name, u := range users {
		talking.Go(func() {
			for i := range talks {
				d := Draft{Body: fmt.Sprint(name, i), ClientID: fmt.Sprint(name, i)}
				for {
					_, err := u.TalkGroup(t.Context(), "g", d)
					if err == nil {
						break
					}
					if !Retryable(err) {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	talking.Wait()
	f.do(func() {
		calm = true
		for l := range f.links {
			f.hint(l)
		}
	})
	time.Sleep(time.Minute)
	synctest.Wait()
	if len(f.logs["g"]) != 3*talks {
		t.Errorf("%d messages are stored", len(f.logs["g"]))
	}
	for name, u := range users {
		var want []string
		for _, m := range f.logs["g"] {
			if m.GetSender() != name || u.opts.EchoOwn {
				want = append(want, m.GetBody())
			}
		}
		equal(t, name, u.bodies(), want)
	}
}

// The sequence of a header wraps around without a double use.
func TestSequenceWraps(t *testing.T) {
	cs := calls{pending: map[uint32]*call{1: {}}, last: 1<<32 - 2}
	var got []uint32
	for range 3 {
		got = append(got, cs.nextSequence())
	}
	if !slices.Equal(got, []uint32{1<<32 - 1, 2, 3}) {
		t.Errorf("got %v", got)
	}
	cs = calls{pending: map[uint32]*call{}}
	for _, s := range []uint32{5, 1<<32 - 1, 1, 1<<32 - 7} {
		cs.pending[s] = &call{sequence: s}
	}
	got = nil
	for _, c := range cs.inOrder() {
		got = append(got, c.sequence)
	}
	if !slices.Equal(got, []uint32{1<<32 - 7, 1<<32 - 1, 1, 5}) {
		t.Errorf("in order: %v", got)
	}
}
