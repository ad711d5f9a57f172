package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func TestHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alice := start(t, f, "alice").online()
		time.Sleep(10*im.DefaultHeartbeat + time.Second)
		synctest.Wait()
		if f.pings != 10 || f.count(wire.CmdSignIn) != 1 {
			t.Errorf("%d pings, %d logins", f.pings, f.count(wire.CmdSignIn))
		}
		f.do(func() { f.mute = true })
		time.Sleep(im.DefaultHeartbeat + DefaultPongWait + time.Second)
		synctest.Wait()
		if f.count(wire.CmdSignIn) != 2 || alice.State() != StateOnline {
			t.Errorf("%d logins after a ping without answer", f.count(wire.CmdSignIn))
		}
	})
}

// The server refuses everyone: the waits grow, and do not end.
func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.intercept(func(l *fakeLink, _ *wire.LogicPkt) bool { l.close(1013); return true })
		alice := start(t, f, "alice")
		time.Sleep(10 * time.Minute)
		// Full jitter up to 15 s: about 80 attempts.
		if n := f.count(wire.CmdSignIn); n < 55 || n > 130 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		f.intercept(nil)
		alice.online()

		// A server that closes after each login gets the same backoff.
		f.do(func() { f.got = nil })
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
			if p.Command == wire.CmdSync {
				l.close(1011)
			}
			return p.Command == wire.CmdSync
		})
		f.each("alice", func(l *fakeLink) { l.close(1011) })
		time.Sleep(10 * time.Minute)
		if n := f.count(wire.CmdSignIn); n < 55 || n > 130 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
	})
}

func TestBackoffIsFullJitter(t *testing.T) {
	for failures, ceiling := range map[int]time.Duration{0: 200, 1: 400, 6: 12800, 7: 15000, 40: 15000, 100: 15000} {
		ceiling *= time.Millisecond
		var largest time.Duration
		for range 2000 {
			largest = max(largest, backoff(failures, DefaultBackoffBase, DefaultBackoffMax))
		}
		if largest > ceiling || largest < ceiling*9/10 {
			t.Errorf("%d failures: up to %v, want %v", failures, largest, ceiling)
		}
	}
}

// The second refusal of a token in a row is the end. Code 4001 without an answer is none: the login may have come too late.
func TestUnauthorized(t *testing.T) {
	for name, test := range map[string]struct {
		refuse func(f *fake, l *fakeLink, p *wire.LogicPkt)
		final  bool
	}{
		"status 105": {func(f *fake, l *fakeLink, p *wire.LogicPkt) { f.refuse(l, p, wire.StatusUnauthorized) }, true},
		"code 4001":  {func(_ *fake, l *fakeLink, _ *wire.LogicPkt) { l.close(4001) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool {
					var req pb.LoginReq
					if f.decode(p, &req); p.Command != wire.CmdSignIn || req.GetToken() == "good" {
						return false
					}
					test.refuse(f, l, p)
					return true
				})
				asked := 0
				refreshing := func(o *Options) {
					o.Token = func(context.Context) (string, error) {
						if asked++; asked == 2 || asked == 9 {
							return "good", nil
						}
						return "old", nil
					}
				}
				alice := start(t, f, "", refreshing).online()
				if asked != 2 || alice.Account() != "good" {
					t.Errorf("asked %d times, account %q", asked, alice.Account())
				}
				f.each("good", func(l *fakeLink) { l.close(4001) })
				if !test.final {
					time.Sleep(10 * DefaultBackoffMax)
					if alice.online(); asked != 9 {
						t.Errorf("on line again after %d tokens", asked)
					}
					return
				}
				// This was one refusal, and the next login is another: the end.
				if err := alice.ended(); !errors.Is(err, ErrUnauthorized) || asked != 3 {
					t.Errorf("ended with %v after %d tokens", err, asked)
				}
				_, err := alice.Talk(t.Context(), "bob", Text("x"))
				if !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnauthorized) || Retryable(err) {
					t.Errorf("talk: %v", err)
				}
				equal(t, "last state", alice.states[len(alice.states)-1:], []State{StateClosed})
			})
		})
	}
}

func TestDisplaced(t *testing.T) {
	for name, displace := range map[string]func(f *fake, l *fakeLink){
		"push": func(f *fake, l *fakeLink) {
			body := f.encode(&pb.KickoutNotify{ChannelId: l.channel})
			l.send(wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}, Body: body}))
		},
		"code 4002": func(_ *fake, l *fakeLink) { l.close(4002) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alice := start(t, f, "alice").online()
				f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool { return p.Command == wire.CmdUserTalk })
				failed := make(chan error)
				go func() {
					_, err := alice.Talk(t.Context(), "bob", Text("x"))
					failed <- err
				}()
				synctest.Wait()
				f.each("alice", func(l *fakeLink) { displace(f, l) })
				if err := <-failed; !errors.Is(err, ErrDisplaced) || !errors.Is(err, ErrClosed) || Retryable(err) {
					t.Errorf("talk: %v", err)
				}
				if err := alice.ended(); !errors.Is(err, ErrDisplaced) {
					t.Errorf("ended with %v", err)
				}
				if n := f.count(wire.CmdSignIn); n != 1 {
					t.Errorf("%d logins", n)
				}
			})
		})
	}
}

func TestLoginRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.intercept(func(l *fakeLink, p *wire.LogicPkt) bool { f.refuse(l, p, wire.StatusInvalidBody); return true })
		var refused *wire.Error
		if err := start(t, f, "alice").ended(); !errors.As(err, &refused) || refused.Status != wire.StatusInvalidBody {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestLoginWithoutAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.intercept(func(*fakeLink, *wire.LogicPkt) bool { return true })
		alice := start(t, f, "alice")
		time.Sleep(im.DefaultLoginWait + time.Second)
		synctest.Wait()
		f.intercept(nil)
		alice.online()
	})
}

func TestTokenErrors(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		asked := 0
		alice := start(t, f, "alice", func(o *Options) {
			o.Token = func(context.Context) (string, error) {
				if asked++; asked < 5 {
					return "", errors.New("no network")
				}
				return "", ErrUnauthorized
			}
		})
		if err := alice.ended(); !errors.Is(err, ErrUnauthorized) || asked != 5 {
			t.Errorf("ended with %v after %d tokens", err, asked)
		}
	})
}
