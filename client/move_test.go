package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// goAway tells all clients to move.
func (f *fake) goAway(delay time.Duration) {
	f.do(func() {
		for l := range f.links {
			f.tell(l, wire.CmdGoAway, &pb.GoAway{DelayMs: uint32(delay.Milliseconds())})
		}
	})
}

// channels are the connections of an account, the oldest first.
func (f *fake) channelsOf(account string) (list []string) {
	f.each(account, func(l *fakeLink) { list = append(list, l.channel) })
	slices.Sort(list)
	return list
}

func modern(f *fake) {
	f.features, f.fenced = []string{"sync", "read", "goaway"}, true
}

// The gateway stops: the client is at another one before its connection ends, and shows nothing of it.
func TestGoAway(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		synctest.Wait()
		f.goAway(5 * time.Second)
		f.goAway(time.Hour) // told again: it does not matter
		time.Sleep(4 * time.Second)
		if n := f.count(wire.CmdSignIn); n != 2 {
			t.Fatalf("%d logins before the delay is over", n)
		}
		// An open request keeps the old connection until it is answered; what comes meanwhile waits.
		var answer func()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdGroupCreate {
				return false
			}
			answer = func() { f.handle(l, p) }
			return true
		})
		created := make(chan error)
		go func() {
			_, err := alice.CreateGroup(t.Context(), NewGroup{Name: "g"})
			created <- err
		}()
		time.Sleep(7 * time.Second) // longer than moveWait
		if n := f.count(wire.CmdSignIn); n != 3 {
			t.Fatalf("%d logins, want bob's second and not alice's", n)
		}
		alice.send("bob", "one")
		bob.say("alice", "two")
		synctest.Wait()
		if n := f.count(wire.CmdUserTalk); n != 1 {
			t.Errorf("%d talks while alice moves", n)
		}
		equal(t, "pushed to the old connection", alice.bodies(), []string{"two"})
		f.do(answer)
		if err := <-created; err != nil {
			t.Error(err)
		}
		bob.say("alice", "three")
		equal(t, "alice", alice.bodies(), []string{"two", "three"})
		equal(t, "bob", bob.bodies(), []string{"one"})
		for name, u := range map[string]*user{"alice": alice, "bob": bob} {
			equal(t, name, u.states, []State{StateConnecting, StateOnline})
			if list := f.channelsOf(name); len(list) != 1 || list[0] == "ch-1" || list[0] == "ch-2" {
				t.Errorf("%s is at %v", name, list)
			}
		}
		// And again, from the new one.
		f.goAway(0)
		time.Sleep(time.Second)
		alice.say("bob", "four")
		equal(t, "bob", bob.bodies(), []string{"one", "four"})
		if n := f.count(wire.CmdSignIn); n != 6 {
			t.Errorf("%d logins", n)
		}
	})
}

// A message is not answered at the old gateway: it is asked again at the new one, and stored once.
func TestGoAwayWithoutAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdUserTalk || l.channel != "ch-1" {
				return false
			}
			f.members["u:alice:bob"] = []string{"alice", "bob"}
			f.store(l, p, "u:alice:bob")
			return true
		})
		alice.send("bob", "one")
		alice.send("bob", "two")
		synctest.Wait()
		begin := time.Now()
		f.goAway(0)
		for len(f.stored("u:alice:bob")) < 2 {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(begin); took < moveWait || took > moveWait+10*time.Millisecond {
			t.Errorf("took %v", took)
		}
		equal(t, "stored", f.stored("u:alice:bob"), []string{"one", "two"})
		equal(t, "states", alice.states, []State{StateConnecting, StateOnline})
	})
}

// The move fails: the old connection serves on, until a later attempt succeeds, or it is closed.
func TestGoAwayFails(t *testing.T) {
	for name, fail := range map[string]func(f *fake){
		"no other gateway": func(f *fake) { f.noDial = func(string) error { return errors.New("refused") } },
		"login refused": func(f *fake) {
			f.onPacket = func(l *fakeLink, p *wire.LogicPkt) bool {
				if p.Command == wire.CmdSignIn {
					f.refuse(l, p, wire.StatusSystemException)
				}
				return p.Command == wire.CmdSignIn
			}
		},
		"login closed": func(f *fake) {
			f.onPacket = func(l *fakeLink, p *wire.LogicPkt) bool {
				if p.Command == wire.CmdSignIn {
					l.close(1013)
				}
				return p.Command == wire.CmdSignIn
			}
		},
		"login silent": func(f *fake) {
			f.onPacket = func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdSignIn }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				modern(f)
				alice, bob := start(t, f, "alice").online(), start(t, f, "bob", func(o *Options) { o.Heartbeat = time.Hour }).online()
				synctest.Wait()
				f.do(func() { fail(f) })
				f.goAway(0)
				for i := range 20 {
					time.Sleep(time.Second)
					alice.say("bob", fmt.Sprint(i))
				}
				if got := bob.bodies(); len(got) != 20 {
					t.Errorf("bob heard %v", got)
				}
				equal(t, "states", alice.states, []State{StateConnecting, StateOnline})
				f.do(func() { f.noDial, f.onPacket = nil, nil })
				time.Sleep(time.Minute)
				alice.say("bob", "moved")
				bob.say("alice", "moved")
				synctest.Wait()
				equal(t, "states", alice.states, []State{StateConnecting, StateOnline})
				if list := f.channelsOf("alice"); len(list) != 1 || list[0] == "ch-1" {
					t.Errorf("alice is at %v", list)
				}
			})
		})
	}
}

// A sync that the attempt to move has cut off begins anew on the connection that stays: nothing else need
// come that would begin one.
func TestGoAwayFailsDuringSync(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		start(t, f, "alice").online()
		synctest.Wait()
		silent := true
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdSignIn {
				f.refuse(l, p, wire.StatusSystemException)
			}
			return p.Command == wire.CmdSignIn || p.Command == wire.CmdSync && silent
		})
		f.each("alice", f.hint)
		synctest.Wait()
		syncs := f.count(wire.CmdSync)
		f.do(func() { silent = false })
		f.goAway(0)
		time.Sleep(time.Second)
		if n := f.count(wire.CmdSync); n != syncs+1 {
			t.Errorf("%d syncs, and then %d", syncs, n)
		}
	})
}

// The gateway does not wait: the client connects again as after any other end.
func TestGoAwayTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		alice := start(t, f, "alice").online()
		f.goAway(time.Minute)
		time.Sleep(time.Second)
		f.each("alice", func(l *fakeLink) { l.close(1001) })
		alice.say("bob", "again")
		synctest.Wait()
		equal(t, "states", alice.states, []State{StateConnecting, StateOnline, StateOffline, StateConnecting, StateOnline})
		time.Sleep(10 * time.Minute)
		if n := f.count(wire.CmdSignIn); n != 2 {
			t.Errorf("%d logins", n)
		}
	})
}

// Close while the client moves.
func TestCloseWhileMoving(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		alice := start(t, f, "alice").online()
		f.intercept(func(*fakeLink, *wire.LogicPkt) bool { return true })
		alice.send("bob", "x")
		f.goAway(0)
		time.Sleep(time.Second) // it holds
		alice.Close()
		if err := alice.ended(); err != nil {
			t.Error(err)
		}
		bob := start(t, f, "alice", func(o *Options) { o.Device = "2" })
		synctest.Wait()
		bob.Close()
		if err := bob.ended(); err != nil {
			t.Error(err)
		}
	})
}

// The router names other gateways than the one that stops, if there are any.
func TestPickAnother(t *testing.T) {
	for _, c := range []struct {
		list  []string
		avoid string
		want  []string
	}{
		{[]string{"a", "b", "c"}, "", []string{"a", "b", "c"}},
		{[]string{"a", "b", "c"}, "a", []string{"b", "c"}},
		{[]string{"a", "b", "c"}, "c", []string{"a", "b", "a"}},
		{[]string{"a"}, "a", []string{"a"}},
	} {
		a := addresses{opts: &Options{}, list: c.list}
		var got []string
		for range c.want {
			g, err := a.pick(t.Context(), "", c.avoid)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, g)
		}
		equal(t, fmt.Sprint(c.list, " without ", c.avoid), got, c.want)
	}
}

// Who ends a session for good, and who does not.
func TestKickout(t *testing.T) {
	for _, c := range []struct {
		reason, channel string
		final           bool
	}{
		{"", "", true},
		{"device", "", true},
		{"platform", "", true},
		{"limit", "", true},
		{"reconnected", "", false},
		{"device", "another", false},
		{"", "another", false},
	} {
		t.Run(c.reason+" "+c.channel, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				f.each("alice", func(l *fakeLink) {
					channel := l.channel
					if c.channel != "" {
						channel = c.channel
					}
					f.tell(l, wire.CmdSignIn, &pb.KickoutNotify{ChannelId: channel, Reason: c.reason, Device: "phone 2", Platform: "ios"})
					if c.reason == "reconnected" {
						l.close(4002)
					}
				})
				if !c.final {
					alice.say("bob", "still here")
					alice.online()
					return
				}
				err := alice.ended()
				var by *DisplacedError
				if !errors.Is(err, ErrDisplaced) || errors.As(err, &by) != (c.reason != "") {
					t.Fatalf("ended with %v", err)
				}
				if by != nil && *by != (DisplacedError{Reason: c.reason, Device: "phone 2", Platform: "ios"}) {
					t.Errorf("displaced by %+v", by)
				}
			})
		})
	}
}

// Another device is signed in and stays: the client does not try again.
func TestConflict(t *testing.T) {
	for name, refuse := range map[string]func(f *fake, l *fakeLink, p *wire.LogicPkt){
		"status 106": func(f *fake, l *fakeLink, p *wire.LogicPkt) { f.refuse(l, p, wire.StatusConflict) },
		"code 4006":  func(_ *fake, l *fakeLink, _ *wire.LogicPkt) { l.close(4006) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool { refuse(f, l, p); return true })
				if err := start(t, f, "alice").ended(); !errors.Is(err, ErrConflict) || Retryable(err) {
					t.Errorf("ended with %v", err)
				}
				if n := f.count(wire.CmdSignIn); n != 1 {
					t.Errorf("%d logins", n)
				}
			})
		})
	}
}

// Of two logins of one run the server can tell the newer.
func TestAttempts(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fenced = true
		alice := start(t, f, "alice").online()
		for range 3 {
			f.each("alice", func(l *fakeLink) { l.close(1011) })
			time.Sleep(time.Second)
			alice.online()
		}
		start(t, f, "alice").online() // another run of the device
		if err := alice.ended(); !errors.Is(err, ErrDisplaced) {
			t.Errorf("ended with %v", err)
		}
		var attempts []uint64
		instances := map[string]bool{}
		f.do(func() {
			for _, p := range f.got {
				if p.Command == wire.CmdSignIn {
					var req pb.LoginReq
					f.decode(&p, &req)
					attempts = append(attempts, req.GetAttempt())
					instances[req.GetInstance()] = true
				}
			}
		})
		equal(t, "attempts", attempts, []uint64{1, 2, 3, 4, 1})
		if len(instances) != 2 || instances[""] {
			t.Errorf("instances %v", instances)
		}
	})
}

// Runs of one application, which is to say of one Store, are numbered together: the server can tell a
// login of the run before, which was late, from this run's. Others' are not.
func TestAttemptsOverRuns(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		kept, other := new(MemoryStore), struct{ Store }{new(MemoryStore)} // the latter cannot count
		for _, store := range []Store{kept, kept, other, other} {
			alice := start(t, f, "alice", func(o *Options) { o.Store = store }).online()
			alice.Close()
			if err := alice.ended(); err != nil {
				t.Fatal(err)
			}
		}
		var attempts []uint64
		instances := map[string]bool{}
		f.do(func() {
			for _, p := range f.got {
				if p.Command == wire.CmdSignIn {
					var req pb.LoginReq
					f.decode(&p, &req)
					attempts = append(attempts, req.GetAttempt())
					instances[req.GetInstance()] = true
				}
			}
		})
		equal(t, "attempts", attempts, []uint64{1, 2, 1, 1})
		if len(instances) != 3 || instances[""] {
			t.Errorf("instances %v", instances)
		}
	})
}

// After a move the old gateway's answers are nobody's any more: a refusal must not end what the new
// one was asked.
func TestAnswerOfAnotherConnection(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdTalkAck {
				return false
			}
			refusal := wire.LogicPkt{Header: wire.Header{Command: p.Command, Sequence: p.Sequence, Flag: wire.FlagResponse, Status: wire.StatusNoDestination}}
			go func() {
				alice.answer(&session{}, &refusal)
				f.do(func() { f.handle(l, p) })
			}()
			return true
		})
		if err := alice.Ack(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
}
