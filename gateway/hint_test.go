package gateway

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/wire"
)

// hinting runs the hints of a gateway without links, in a synctest bubble.
func hinting(t *testing.T) *fixture {
	f, _ := build(t, memory.NewRegistry(), nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.hints.run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return f
}

// connected adds clients that are on line.
func (f *fixture) connected(count int, has wire.Features) []*fakeChannel {
	channels := make([]*fakeChannel, count)
	for i := range channels {
		ch := newFakeChannel(fmt.Sprintf("%s.%d.%d", gatewayID, has, i))
		ch.SetAttachment(&session{ch: ch, online: true, features: has})
		f.deps.Channels.Add(ch)
		channels[i] = ch
	}
	return channels
}

func (c *fakeChannel) hints() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pushes
}

// A node that dies may leave a COMMIT behind that lands after the first hints: what it stored was
// pushed to nobody. Old clients, which lose their connection for a hint, lose it once.
func TestABrokenLinkIsHintedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		syncs, old := f.connected(1, wire.FeatureSync)[0], f.connected(1, 0)[0]
		f.hints.linkLost("logic-1")
		synctest.Wait()
		require.Equal(t, 1, syncs.hints())
		require.Equal(t, im.ReasonNone, old.reason())

		time.Sleep(lateCommit)
		synctest.Wait()
		require.Equal(t, 2, syncs.hints())
		require.Equal(t, im.ReasonSyncNeeded, old.reason())

		time.Sleep(time.Minute)
		require.Equal(t, 2, syncs.hints())
		require.EqualValues(t, 1, f.counter("hinted_total", "link_down"))
		require.EqualValues(t, 2, f.counter("hinted_total", "link_gone"))
		require.Empty(t, f.hints.late)
	})
}

// A node whose link is back lives: the second round comes at once, and nothing after it.
func TestALinkThatIsBackIsHintedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		syncs, old := f.connected(1, wire.FeatureSync)[0], f.connected(1, 0)[0]
		f.hints.linkLost("logic-1")
		synctest.Wait() // otherwise the two may be one round
		f.hints.linkLost("logic-2")
		time.Sleep(lateCommit / 2)
		f.hints.linkBack("logic-1")
		synctest.Wait()
		require.Equal(t, 3, syncs.hints())
		require.Equal(t, im.ReasonSyncNeeded, old.reason())
		time.Sleep(time.Minute)
		require.Equal(t, 4, syncs.hints(), "for logic-2, which is not back")
	})
}

// A link that breaks again while the second round is to come postpones it.
func TestALinkThatBreaksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		old := f.connected(1, 0)[0]
		f.hints.linkLost("logic-1")
		time.Sleep(lateCommit - 1)
		f.hints.linkLost("logic-1")
		time.Sleep(lateCommit - 1)
		synctest.Wait()
		require.Equal(t, im.ReasonNone, old.reason())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, im.ReasonSyncNeeded, old.reason())
	})
}

// loggedIn adds a client without hints that is told of what comes from now on.
func (f *fixture) loggedIn(name string) *fakeChannel {
	ch := newFakeChannel(gatewayID + "." + name)
	s := &session{ch: ch, online: true}
	s.hinted.Store(f.hints.last())
	ch.SetAttachment(s)
	f.deps.Channels.Add(ch)
	return ch
}

// A link that flaps used to cost clients without hints their connection at every flap. It costs them as
// many as closings are allowed; those that sync are told of every flap at once.
func TestALinkThatFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// No multiple of the period is closeEvery: what happens at one moment of the fake time has no order.
		const flaps, period, relogin = 60, 5300 * time.Millisecond, 430 * time.Millisecond
		f := hinting(t)
		syncs := f.connected(1, wire.FeatureSync)[0]
		old, closed := f.loggedIn("0"), 0
		settle := func() {
			synctest.Wait()
			if old.reason() == im.ReasonSyncNeeded {
				closed++
				old = f.loggedIn(fmt.Sprint(closed))
			}
		}
		for i := range flaps {
			f.hints.linkLost("logic-1")
			time.Sleep(time.Second)
			f.hints.linkBack("logic-1")
			settle()
			require.Equal(t, 2*(i+1), syncs.hints())
			for range (period - time.Second) / relogin {
				time.Sleep(relogin)
				settle()
			}
		}
		const allowed = int(closeBurst * flaps * period / closeEvery)
		require.LessOrEqual(t, closed, allowed)
		require.Greater(t, closed, allowed*3/4)
	})
}

// What is beyond the closings that are allowed waits, for those that were there, and for no other reason.
func TestAClosingThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		for range closeBurst {
			old := f.loggedIn("first")
			f.hints.linkBack("logic-1")
			synctest.Wait()
			require.Equal(t, im.ReasonSyncNeeded, old.reason())
		}
		old := f.loggedIn("old")
		f.hints.linkBack("logic-1")
		late := f.loggedIn("late")
		synctest.Wait()
		require.Equal(t, im.ReasonNone, old.reason())
		time.Sleep(closeEvery)
		synctest.Wait()
		require.Equal(t, im.ReasonSyncNeeded, old.reason())
		require.Equal(t, im.ReasonNone, late.reason())

		f.hints.linkBack("logic-1")
		f.hints.linkBack("logic-1") // waits
		old = f.loggedIn("old")
		f.hints.want(causeStore)
		synctest.Wait()
		require.Equal(t, im.ReasonSyncNeeded, old.reason())

		time.Sleep(2 * closeEvery)
		synctest.Wait()
		require.Empty(t, f.hints.closings)
	})
}

// 100,000 clients do not sync in one second, and an event in the middle of a round costs those that
// the round has not reached no second hint, and nobody more than another round's time.
func TestEventInTheMiddleOfARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		clients := f.connected(100_000, wire.FeatureSync)
		told := func() (out [3]int) {
			for _, c := range clients {
				out[c.hints()]++
			}
			return out
		}
		f.hints.want(causeStore)
		time.Sleep(hintSpan/2 + time.Millisecond)
		synctest.Wait()
		require.InEpsilon(t, 50_000, told()[1], 0.02)
		f.hints.want(causeLogic)
		time.Sleep(hintSpan/2 + spreadTick)
		synctest.Wait()
		require.Zero(t, told()[0])
		time.Sleep(hintSpan/2 + spreadTick)
		synctest.Wait()
		require.InEpsilon(t, 50_000, told()[2], 0.02)
		time.Sleep(time.Minute)
		require.InEpsilon(t, 50_000, told()[1], 0.02)
	})
}

// Clients that are disconnected for a hint log in again: they are spread more than those that sync.
func TestClosesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hinting(t)
		clients := f.connected(2*moveRate, 0)
		closed := func() (n int) {
			for _, c := range clients {
				if c.reason() == im.ReasonSyncNeeded {
					n++
				}
			}
			return n
		}
		f.hints.want(causeStore)
		time.Sleep(time.Second)
		synctest.Wait()
		require.InEpsilon(t, moveRate, closed(), 0.05)
		time.Sleep(time.Second + spreadTick)
		synctest.Wait()
		require.Equal(t, 2*moveRate, closed())
	})
}

// A client whose login is answered after an event syncs anyway, and is not told, let alone closed.
func TestNewClientsAreNotHinted(t *testing.T) {
	f, n := startPair(t, nil)
	c := f.login("alice")
	require.EqualValues(t, f.hints.last(), sessionOf(f.channel(c)).hinted.Load())
	_, closing := f.hints.due()
	require.Zero(t, closing)
	f.hints.want(causeStore)
	c.ended(im.ReasonSyncNeeded)
	c = f.login("alice")
	n.push(t, wire.CmdUserTalk, nil, c.channel)
	require.Equal(t, wire.CmdUserTalk, c.read().Command)
}

func (f *fixture) channel(c *client) im.Channel {
	ch, ok := f.deps.Channels.Get(c.channel)
	require.True(f.t, ok)
	return ch
}

// What a client without hints has asked is answered before it is closed: it would ask again, and store
// the message twice, as it has no client_id.
func TestAHintAnswersOpenRequestsFirst(t *testing.T) {
	f, n := startPair(t, nil)
	asked := make(chan func(), 1)
	n.on(wire.CmdUserTalk, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		asked <- func() { respond(a, p, wire.StatusSuccess, nil) }
	})
	c := f.login("alice")
	c.send(wire.Header{Command: wire.CmdUserTalk, Sequence: 1, Dest: "bob"}, nil)
	answer := <-asked
	f.hints.want(causeStore)
	f.leaving(c)
	answer()
	c.answered(wire.CmdUserTalk, 1, wire.StatusSuccess)
	c.ended(im.ReasonSyncNeeded)
}
