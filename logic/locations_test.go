package logic

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

const age = 50 * time.Millisecond

// countingSessions counts the accounts that were asked for, and the questions for changes.
type countingSessions struct {
	*memory.Sessions
	asked   int
	failing error
	slow    time.Duration // what Changes takes
	changes atomic.Int32
}

func (s *countingSessions) Changes(ctx context.Context, since string) (storage.Changes, error) {
	s.changes.Add(1)
	time.Sleep(s.slow)
	if s.failing != nil {
		return storage.Changes{}, s.failing
	}
	return s.Sessions.Changes(ctx, since)
}

func (s *countingSessions) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	s.asked += len(keys)
	return s.Sessions.Find(ctx, keys)
}

// located is what a test of locations needs, in a bubble of synctest.
func located(t *testing.T) (l *locations, s *countingSessions, login func(account string), channels func(account string) int) {
	s = &countingSessions{Sessions: memory.NewSessions(memory.Options{})}
	_, err := s.RenewLease(t.Context(), "g", time.Hour.Milliseconds(), 0)
	require.NoError(t, err)
	l = newLocations(s, age, newMetrics(prometheus.NewRegistry()))
	login = func(account string) {
		_, err := s.Login(t.Context(), storage.Session{App: "a", Account: account, Channel: account, Gateway: "g"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	channels = func(account string) int {
		found, err := l.find(t.Context(), []storage.AccountKey{{App: "a", Account: "nobody"}, {App: "a", Account: account}})
		require.NoError(t, err)
		require.Empty(t, found[0])
		return len(found[1])
	}
	return l, s, login, channels
}

// Whenever a session is stored, who looks it up an age later finds it: in all phases of the generations, and
// however often it is looked up meanwhile.
func TestLocationsAreNeverOlderThanTheirAge(t *testing.T) {
	for _, every := range []time.Duration{1, 7, 24, 26, 50} {
		every *= time.Millisecond
		for phase := range 2 * age / time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				_, _, login, channels := located(t)
				for range phase {
					channels("bob")
					time.Sleep(time.Millisecond)
				}
				require.Zero(t, channels("bob"))
				login("bob")
				for known := time.Now().Add(age); time.Now().Before(known); {
					time.Sleep(min(every, time.Until(known)))
					if time.Now().Before(known) {
						channels("bob")
					}
				}
				require.Equal(t, 1, channels("bob"), "phase %d ms, looked up every %s", phase, every)
			})
		}
	}
}

func TestLocationsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, login, channels := located(t)
		login("bob")
		for range 100 {
			require.Equal(t, 1, channels("bob"))
			time.Sleep(locationsKept / 200)
		}
		require.Equal(t, 2, s.asked, "bob and nobody, once each")
		login("alice")
		time.Sleep(age)
		require.Equal(t, 1, channels("bob"))
		require.Equal(t, 2, s.asked, "others' logins change nothing")
		time.Sleep(locationsKept)
		require.Equal(t, 1, channels("bob"))
		require.Equal(t, 4, s.asked, "sessions that have ended are not kept for ever")
	})
}

// An answer that was under way while what it says was changed is not believed later.
func TestLateLocationsAreForgotten(t *testing.T) {
	for name, change := range map[string]func(l *locations, login func(string)){
		"one login":    func(_ *locations, login func(string)) { login("bob") },
		"all may have": func(l *locations, login func(string)) { login("bob"); l.forgetAll() },
		"too many": func(_ *locations, login func(string)) {
			login("bob")
			for i := range maxRecent {
				login(fmt.Sprint(i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, _, login, channels := located(t)
				channels("alice")
				bob := []storage.AccountKey{{App: "a", Account: "bob"}}
				missing, changes := l.recall(bob, make([][]storage.Session, 1), time.Now())
				require.Len(t, missing, 1)
				change(l, login)
				time.Sleep(age)
				require.NoError(t, l.catchUp(t.Context()))
				l.remember(bob, make([][]storage.Session, 1), changes)
				require.Equal(t, 1, channels("bob"))
			})
		})
	}
}

// While the store is slow, those who look somebody up do not ask for changes one after the other.
func TestLocationsOfASlowStore(t *testing.T) {
	s := &countingSessions{Sessions: memory.NewSessions(memory.Options{}), slow: 2 * age}
	l := newLocations(s, age, newMetrics(prometheus.NewRegistry()))
	const finders = 20
	var wg sync.WaitGroup
	for range finders {
		wg.Go(func() { assert.NoError(t, l.catchUp(t.Context())) })
	}
	wg.Wait()
	require.Less(t, s.changes.Load(), int32(finders/2))
}

// More accounts than a generation holds make a new one, and the newest are remembered.
func TestLocationsAreBounded(t *testing.T) {
	l := newLocations(memory.NewSessions(memory.Options{}), age, newMetrics(prometheus.NewRegistry()))
	keys := make([]storage.AccountKey, maxLocations)
	nobody := make([][]storage.Session, maxLocations)
	for round := range 3 {
		for i := range keys {
			keys[i].Account = fmt.Sprint(round, " ", i)
		}
		missing, changes := l.recall(keys[:1], nobody[:1], time.Now())
		require.Len(t, missing, 1)
		l.remember(keys, nobody, changes)
		missing, _ = l.recall(keys[:1], nobody[:1], time.Now())
		require.Empty(t, missing)
		require.LessOrEqual(t, len(l.young.found)+len(l.old.found), 2*maxLocations)
	}
}

// Where the store does not say what has changed, nothing that it said counts.
func TestLocationsNeedTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, login, channels := located(t)
		login("bob")
		require.Equal(t, 1, channels("bob"))
		s.failing = errors.New("down")
		time.Sleep(age)
		_, err := l.find(t.Context(), []storage.AccountKey{{App: "a", Account: "bob"}})
		require.ErrorIs(t, err, s.failing)
		s.failing = nil
		require.Equal(t, 1, channels("bob"))
	})
}

// A client that has the answer to its login is known to every node.
func TestLoginIsAnsweredWhenAllNodesKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := &fakeAgent{happened: await.NewEvents()}
		f := &Node{log: quiet(), metrics: newMetrics(prometheus.NewRegistry()), cfg: Config{Timeout: time.Second}}
		sessions := memory.NewSessions(memory.Options{})
		l := &login{sessions: sessions, metrics: f.metrics, now: time.Now, answers: newAnswers(age, apart{})}
		c := &Context{agent: agent, node: f, log: f.log}
		c.Packet.Header = asClient("bob", wire.CmdSignIn)
		c.Packet.Body = encode(t, &pb.LoginReq{})
		f.inflight.Add(1)
		require.Equal(t, errDeferred, l.handle(c))
		time.Sleep(age - 1)
		synctest.Wait()
		require.Empty(t, agent.got())
		require.EqualValues(t, 1, f.inflight.Load())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, agent.got(), 1)
		require.Equal(t, wire.StatusSuccess, agent.got()[0].Status)
		require.Zero(t, f.inflight.Load())
	})
}

// Those who waited for a question that failed asked again one after the other: eight of them waited for eight time-outs.
func TestLocationsOfAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, _, channels := located(t)
		s.failing, s.slow = errors.New("i/o timeout"), time.Second
		var wg sync.WaitGroup
		begin := time.Now()
		for range 8 {
			wg.Go(func() { assert.ErrorIs(t, l.catchUp(t.Context()), s.failing) })
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		require.Equal(t, s.slow, time.Since(begin))
		require.EqualValues(t, 1, s.changes.Load())
		s.failing, s.slow = nil, 0
		require.Zero(t, channels("bob"), "who comes later asks again")
	})
}

// Who waits for the question of somebody else has a deadline of his own.
func TestLocationsWaitNoLongerThanTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, _, _ := located(t)
		s.slow = time.Minute
		ended := make(chan error)
		go func() { ended <- l.catchUp(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		require.ErrorIs(t, l.catchUp(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		require.NoError(t, <-ended)
	})
}

// A question that ends in a panic is nobody's any more.
func TestLocationsAfterAPanic(t *testing.T) {
	l := newLocations(nil, age, newMetrics(prometheus.NewRegistry()))
	require.Panics(t, func() { _ = l.catchUp(t.Context()) })
	l.sessions = memory.NewSessions(memory.Options{})
	require.NoError(t, l.catchUp(t.Context()))
}
