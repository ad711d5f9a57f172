package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// The connection breaks after the server has stored the message and before it answers: the message
// is sent again under its client id and stored once.
func TestTalkSurvivesDisconnect(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		broken := 0
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command != wire.CmdUserTalk || broken == 2 {
				return false
			}
			broken++
			f.store(l, p, "u:alice:bob")
			f.members["u:alice:bob"] = []string{"alice", "bob"}
			l.close(1001)
			return true
		})
		sent := alice.say("bob", "once")
		if sent.Seq != 1 {
			t.Errorf("sent %+v", sent)
		}
		alice.say("bob", "twice")
		if err := bob.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "bob", bob.bodies(), []string{"once", "twice"})
		equal(t, "alice, who sent them", alice.bodies(), []string(nil))
		if len(f.logs["u:alice:bob"]) != 2 || broken != 2 {
			t.Errorf("stored %d, broken %d", len(f.logs["u:alice:bob"]), broken)
		}
	})
}

// Talks that wait for a connection go out in the order in which they were made.
func TestTalksKeepTheirOrder(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdUserTalk })
		var talks sync.WaitGroup
		var want []string
		for i := range 20 {
			body := fmt.Sprint(i)
			want = append(want, body)
			talks.Go(func() { alice.say("bob", body) })
			synctest.Wait()
		}
		f.intercept(nil)
		f.each("alice", func(l *fakeLink) { l.close(1011) })
		talks.Wait()
		var got []string
		for _, m := range f.logs["u:alice:bob"] {
			got = append(got, m.GetBody())
		}
		equal(t, "stored", got, want)
	})
}

// A request that may have been done and must not be done twice is the caller's to decide about.
func TestCreateGroupIsNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdGroupCreate {
				l.close(1011)
			}
			return p.Command == wire.CmdGroupCreate
		})
		_, err := alice.CreateGroup(t.Context(), NewGroup{Name: "g"})
		if !errors.Is(err, ErrDisconnected) || !Retryable(err) {
			t.Errorf("got %v", err)
		}
		alice.online()
		if n := f.count(wire.CmdGroupCreate); n != 1 {
			t.Errorf("sent %d times", n)
		}
		f.intercept(func(*fakeLink, *wire.LogicPkt) bool { return true })
		if _, err := alice.CreateGroup(t.Context(), NewGroup{}); !errors.Is(err, ErrNoAnswer) || !Retryable(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(f *fake, l *fakeLink, p *wire.LogicPkt)
		logins int
	}{
		{"status 300", func(f *fake, l *fakeLink, p *wire.LogicPkt) { f.refuse(l, p, wire.StatusSystemException) }, 1},
		{"no answer", func(*fake, *fakeLink, *wire.LogicPkt) {}, 1},
		{"status 404", func(f *fake, l *fakeLink, p *wire.LogicPkt) { f.refuse(l, p, wire.StatusSessionNotFound) }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				refused := 0
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
					if p.Command != wire.CmdUserTalk || refused == 2 {
						return false
					}
					refused++
					c.refuse(f, l, p)
					return true
				})
				alice.say("bob", "hello")
				if n := f.count(wire.CmdSignIn); n != c.logins {
					t.Errorf("%d logins, want %d", n, c.logins)
				}
				if n := f.count(wire.CmdUserTalk); n != 3 {
					t.Errorf("sent %d times", n)
				}
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, status := range []wire.Status{42, wire.StatusNoDestination, wire.StatusInvalidBody, wire.StatusUnauthorized, wire.StatusNotImplemented, wire.StatusSessionNotFound} {
		t.Run(status.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
					if p.Command == wire.CmdUserTalk {
						f.refuse(l, p, status)
					}
					return p.Command == wire.CmdUserTalk
				})
				_, err := alice.Talk(t.Context(), "bob", Text("hello"))
				var refused *wire.Error
				if !errors.As(err, &refused) || refused.Status != status || refused.Message != "refused" || Retryable(err) {
					t.Errorf("got %v", err)
				}
				alice.online()
			})
		})
	}
}

func TestContextEnds(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdUserTalk {
				f.refuse(l, p, wire.StatusSystemException)
			}
			return p.Command == wire.CmdUserTalk
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := alice.Talk(ctx, "bob", Draft{Body: "x", ClientID: "mine"})
		if !errors.Is(err, context.DeadlineExceeded) || !Retryable(err) {
			t.Errorf("got %v", err)
		}
		if len(alice.calls.pending) != 0 || alice.calls.bytes != 0 || len(alice.inbox.talking) != 0 {
			t.Errorf("left: %d calls, %d bytes, %d talks", len(alice.calls.pending), alice.calls.bytes, len(alice.inbox.talking))
		}
	})
}

// A message whose Talk was given up, and that was stored nevertheless, is news.
func TestAbandonedTalkIsDelivered(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		synctest.Wait()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdUserTalk {
				f.members["u:alice:bob"] = []string{"alice", "bob"}
				f.store(l, p, "u:alice:bob")
			}
			return p.Command == wire.CmdUserTalk
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := alice.Talk(ctx, "bob", Text("lost")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := alice.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "alice", alice.bodies(), []string{"lost"})
	})
}

// The message comes back by a sync while its Talk waits for an answer that does not come: it is
// stored, and Talk says so in the end.
func TestTalkConfirmedBySync(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdUserTalk {
				f.members["u:alice:bob"] = []string{"alice", "bob"}
				f.store(l, p, "u:alice:bob")
				f.hint(l)
			}
			return p.Command == wire.CmdUserTalk
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sent, err := alice.Talk(ctx, "bob", Text("stored"))
		if err != nil || sent.Seq != 1 || sent.MessageID != 1001 || sent.Conversation != "u:alice:bob" {
			t.Errorf("sent %+v, error %v", sent, err)
		}
		equal(t, "alice", alice.bodies(), []string(nil))
	})
}

func TestLimits(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdUserTalk })
		alice := start(t, f, "alice", func(o *Options) { o.OutboxBytes = 4000 }).online()
		if _, err := alice.Talk(t.Context(), "bob", Text(strings.Repeat("x", im.DefaultMaxPacket))); !errors.Is(err, ErrTooLarge) || Retryable(err) {
			t.Errorf("too large: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var talks sync.WaitGroup
		for range 3 {
			talks.Go(func() { _, _ = alice.Talk(ctx, "bob", Text(strings.Repeat("x", 1000))) })
		}
		synctest.Wait()
		if _, err := alice.Talk(t.Context(), "bob", Text(strings.Repeat("x", 1000))); !errors.Is(err, ErrQueueFull) || !Retryable(err) {
			t.Errorf("full outbox: %v", err)
		}
		cancel()
		talks.Wait()
	})
}

// A busy application loses nothing: what does not fit is asked for again.
func TestSlowApplication(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		gate := make(chan struct{})
		var heard []string
		start(t, f, "bob", func(o *Options) {
			o.InboxMessages = 8
			o.OnMessage = func(m Message) {
				<-gate
				heard = append(heard, m.Body)
			}
		}).online()
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprint(i))
			alice.say("bob", want[i])
		}
		synctest.Wait()
		close(gate)
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, "heard", heard, want)
	})
}
