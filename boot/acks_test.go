package boot

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/verify/oldclient"
	"github.com/hermod-im/hermod/wire/token"
)

// forgetful is a session store that does not find an account's sessions now and then. What is pushed to it is
// lost by that, as if the logic node had died between the commit and the dispatch, but without a hint.
type forgetful struct {
	storage.Sessions
	account string
	forgets func() bool
}

func (s *forgetful) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	found, err := s.Sessions.Find(ctx, keys)
	for i, k := range keys {
		if err == nil && k.Account == s.account && s.forgets() {
			found[i] = nil
		}
	}
	return found, err
}

// forgetfulCluster is logic nodes that lose pushes to bob, a gateway, and a way to sign in there with an old client.
func forgetfulCluster(t *testing.T, logics int, forgets func() bool) (login func(account string) (*oldclient.Client, error)) {
	c := newCluster(t)
	for i := range logics {
		env := c.env()
		env.Sessions = &forgetful{Sessions: c.sessions, account: "bob", forgets: forgets}
		env.LocationAge = -1 // every push asks
		cfg := c.config(fmt.Sprint("logic-", i))
		cfg.IDs.Node = i
		l, err := NewLogic(t.Context(), cfg, env)
		require.NoError(t, err)
		awaitReady(t, serve(c, env, l))
	}
	g := c.gateway("gateway-0")
	awaitReady(t, g)
	return func(account string) (*oldclient.Client, error) {
		tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
		if err != nil {
			return nil, err
		}
		k, err := oldclient.Dial(g.Service.TCP)
		if err != nil {
			return nil, err
		}
		return k, k.Login(tk)
	}
}

// Flaws 4, 5 and 8: an old client that acknowledges a message had acknowledged everything with a
// smaller id, what it had never been sent included.
func TestAckOfAnOldClientHidesNoLostPush(t *testing.T) {
	var forgetting atomic.Bool
	asked := make(chan struct{}, 1)
	signIn := forgetfulCluster(t, 1, func() bool {
		if !forgetting.Load() {
			return false
		}
		asked <- struct{}{}
		return true
	})
	login := func(account string) *oldclient.Client {
		k, err := signIn(account)
		require.NoError(t, err)
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	talk := func(from *oldclient.Client, body string) int64 {
		sent, err := from.Talk("bob", body)
		require.NoError(t, err)
		return sent.MessageID
	}
	hears := func(k *oldclient.Client, id int64) {
		t.Helper()
		m, err := k.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, id, m.ID)
	}
	index := func(k *oldclient.Client) (ids []int64) {
		lines, err := k.OfflineIndexAll()
		require.NoError(t, err)
		for _, line := range lines {
			ids = append(ids, line.MessageID)
		}
		return ids
	}

	alice, bob, carol := login("alice"), login("bob"), login("carol")
	hears(bob, talk(alice, "first"))
	forgetting.Store(true)
	lost := talk(alice, "lost")
	<-asked
	forgetting.Store(false)
	other := talk(carol, "of another conversation")
	after := talk(alice, "behind what is lost")
	hears(bob, other)
	hears(bob, after)
	require.NoError(t, bob.Ack(after))
	require.NoError(t, bob.Close())

	bob = login("bob")
	require.Equal(t, []int64{lost, after}, index(bob), "from the lost one on, and nothing of other conversations")
	require.NoError(t, bob.Ack(after))
	require.Empty(t, index(bob))
	hears(bob, talk(alice, "on we go"))

	// What the account has sent itself is acknowledged with what came behind it.
	sent, err := bob.Talk("alice", "yes")
	require.NoError(t, err)
	reply := talk(alice, "no")
	hears(bob, reply)
	require.Less(t, sent.MessageID, reply)
	require.NoError(t, bob.Ack(reply))
	require.NoError(t, bob.Close())
	require.Empty(t, index(login("bob")))
}

// forgetter is an old client that loses every third push and its connection all the time, and acknowledges
// whatever it has seen last: in this connection, in an earlier one, in the middle of its index.
type forgetter struct {
	shown map[int64]int // how often
	last  int64
}

func (f *forgetter) show(id int64) {
	f.shown[id]++
	f.last = id
}

// visit is one connection. What has come is shown, even if it came while an answer was waited for: an ack, of a page
// that came behind it, counts for that too. What is on its way when the client leaves is lost.
func (f *forgetter) visit(c *oldclient.Client) error {
	defer func() {
		for _, p := range c.Pending() {
			if p.Message != nil {
				f.shown[p.Message.ID]++
			}
		}
	}()
	if rand.IntN(3) == 0 && f.last != 0 {
		if err := c.Ack(f.last); err != nil { // of an earlier connection
			return err
		}
	}
	index, err := c.OfflineIndexAll()
	if err != nil {
		return err
	}
	for _, line := range index {
		f.show(line.MessageID)
	}
	if len(index) > 0 && rand.IntN(2) == 0 {
		if err := c.Ack(index[rand.IntN(len(index))].MessageID); err != nil {
			return err
		}
	}
	c.Timeout = 20 * time.Millisecond // without a push for so long it leaves
	for range rand.IntN(30) {
		m, err := c.ReadMessage()
		if err != nil {
			return nil
		}
		f.show(m.ID)
		if rand.IntN(4) == 0 {
			c.Timeout = patience
			if err := c.Ack(m.ID); err != nil {
				return err
			}
			c.Timeout = 20 * time.Millisecond
		}
	}
	return nil
}

// Whatever is lost, delayed or acknowledged out of turn: what is committed is shown.
func TestOldClientMissesNothing(t *testing.T) {
	signIn := forgetfulCluster(t, 2, func() bool { return rand.IntN(3) == 0 })
	const senders, each = 6, 150
	var mu sync.Mutex
	var sent []int64
	var wg sync.WaitGroup
	for i := range senders {
		alice, err := signIn(fmt.Sprint("alice-", i))
		require.NoError(t, err)
		wg.Go(func() {
			defer alice.Close() //nolint:errcheck // it has said everything
			for range each {
				s, err := alice.Talk("bob", "x")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				sent = append(sent, s.MessageID)
				mu.Unlock()
			}
		})
	}
	said := make(chan struct{})
	go func() {
		wg.Wait()
		close(said)
	}()
	bob := &forgetter{shown: map[int64]int{}}
	visits := 0
	for done := false; !done; visits++ {
		select {
		case <-said:
			done = true // once more
		default:
		}
		c, err := signIn("bob")
		require.NoError(t, err)
		require.NoError(t, bob.visit(c))
		require.NoError(t, c.Close())
	}
	repeated := 0
	for _, n := range bob.shown {
		repeated += n - 1
	}
	t.Logf("%d messages, %d visits, %d repeated", len(sent), visits, repeated)
	require.Len(t, sent, senders*each)
	missed := slices.DeleteFunc(sent, func(id int64) bool { return bob.shown[id] > 0 })
	require.Empty(t, missed)
	c, err := signIn("bob")
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // the test is over
	index, err := c.OfflineIndexAll()
	require.NoError(t, err)
	if len(index) > 0 {
		require.NoError(t, c.Ack(index[len(index)-1].MessageID))
	}
	index, err = c.OfflineIndexAll()
	require.NoError(t, err)
	require.Empty(t, index, "all of it can be acknowledged")
}
