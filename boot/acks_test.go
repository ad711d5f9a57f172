package boot

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/verify/oldclient"
	"github.com/hermod-im/hermod/wire/token"
)

// forgetful is a session store that does not know one account, whose pushes are lost by that as if
// the logic node had died between the commit and the dispatch.
type forgetful struct {
	storage.Sessions
	mu      sync.Mutex
	account string        // guarded by mu
	asked   chan struct{} // for it; capacity 1
}

func (s *forgetful) forget(account string) {
	s.mu.Lock()
	s.account = account
	s.mu.Unlock()
}

func (s *forgetful) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	found, err := s.Sessions.Find(ctx, keys)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range keys {
		if err == nil && k.Account == s.account {
			found[i] = nil
			s.asked <- struct{}{}
		}
	}
	return found, err
}

// Flaws 4, 5 and 8: an old client that acknowledges a message had acknowledged everything with a
// smaller id, what it had never been sent included.
func TestAckOfAnOldClientHidesNoLostPush(t *testing.T) {
	c := newCluster(t)
	store := &forgetful{Sessions: c.sessions, asked: make(chan struct{}, 1)}
	env := c.env()
	env.Sessions = store
	l, err := NewLogic(t.Context(), c.config("logic-0"), env)
	require.NoError(t, err)
	awaitReady(t, serve(c, env, l))
	g := c.gateway("gateway-0")
	awaitReady(t, g)

	login := func(account string) *oldclient.Client {
		tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		k, err := oldclient.Dial(g.Service.TCP)
		require.NoError(t, err)
		t.Cleanup(func() { _ = k.Close() })
		require.NoError(t, k.Login(tk))
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
	store.forget("bob")
	lost := talk(alice, "lost")
	<-store.asked
	store.forget("")
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
