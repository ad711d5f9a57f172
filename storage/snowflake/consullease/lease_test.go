package consullease

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/test/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(component.Wrap(m, component.KindConsul)) }

const waitAtMost = 20 * time.Second

// consul is the test's view of an agent, with a prefix of its own.
type consul struct {
	*api.Client
	address, prefix string
}

func newConsul(t testing.TB) *consul {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c := &consul{address: component.Consul(t), prefix: "hermod-test/" + uuid.NewString()}
	client, err := api.NewClient(&api.Config{Address: c.address, Transport: transport})
	require.NoError(t, err)
	c.Client = client
	t.Cleanup(func() {
		_, err := client.KV().DeleteTree(c.prefix, nil)
		require.NoError(t, err)
	})
	return c
}

// lease starts a lease that renews often and whose numbers do not rest.
func (c *consul) lease(t testing.TB, change func(*Options)) *Lease {
	t.Helper()
	o := Options{Address: c.address, Prefix: c.prefix, LockDelay: time.Millisecond, Logf: t.Logf, interval: 100 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	l, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func (c *consul) get(t testing.TB, number int64) (m mark, session string) {
	t.Helper()
	pair, _, err := c.KV().Get(fmt.Sprint(c.prefix, "/", number), nil)
	require.NoError(t, err)
	require.NotNil(t, pair)
	require.NoError(t, json.Unmarshal(pair.Value, &m))
	return m, pair.Session
}

func (c *consul) put(t testing.TB, number int64, value string) {
	t.Helper()
	_, err := c.KV().Put(&api.KVPair{Key: fmt.Sprint(c.prefix, "/", number), Value: []byte(value)}, nil)
	require.NoError(t, err)
}

func wait(t testing.TB, l *Lease) snowflake.Grant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitAtMost)
	defer cancel()
	require.NoError(t, l.Wait(ctx))
	grant, err := l.Grant()
	require.NoError(t, err)
	return grant
}

func TestNodesNeverShareANumber(t *testing.T) {
	c := newConsul(t)
	const nodes = 12
	leases := make([]*Lease, nodes)
	for i := range leases {
		leases[i] = c.lease(t, func(o *Options) { o.Numbers, o.Name = nodes, fmt.Sprint("node", i) })
	}
	var mu sync.Mutex
	numbers, ids := make(map[int64]bool), make(map[int64]bool)
	var wg sync.WaitGroup
	for _, l := range leases {
		numbers[wait(t, l).Number] = true
		g, err := snowflake.New(l)
		require.NoError(t, err)
		wg.Go(func() {
			for range 2000 {
				id, err := g.Next(0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, numbers, nodes)
	require.Len(t, ids, nodes*2000)

	late := c.lease(t, func(o *Options) { o.Numbers = nodes })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := late.Wait(ctx)
	require.ErrorIs(t, err, storage.ErrNoLease)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "all 12 node numbers are taken")
}

func TestIDsStayBelowThePersistedMark(t *testing.T) {
	c := newConsul(t)
	l := c.lease(t, func(o *Options) { o.Name = "me" })
	grant := wait(t, l)
	m, session := c.get(t, grant.Number)
	require.Equal(t, "me", m.Node)
	require.NotEmpty(t, session)
	require.GreaterOrEqual(t, m.Until, grant.Until)

	g, err := snowflake.New(l)
	require.NoError(t, err)
	_, err = g.Next(0)
	require.NoError(t, err)
	// A floor an hour ahead: the mark is raised first.
	ahead, err := snowflake.New(snowflake.Fixed(1000))
	require.NoError(t, err)
	floor, err := ahead.Next(0)
	require.NoError(t, err)
	floor += 3_600_000 << 22
	id, err := g.Next(floor)
	require.NoError(t, err)
	require.Greater(t, id, floor)
	m, _ = c.get(t, grant.Number)
	require.GreaterOrEqual(t, m.Until, snowflake.Millis(id))

	// The mark moves on by renewals, and outlives the lease.
	require.NoError(t, l.Close())
	_, err = g.Next(0)
	require.ErrorIs(t, err, storage.ErrNoLease)
	m, session = c.get(t, grant.Number)
	require.GreaterOrEqual(t, m.Until, snowflake.Millis(id))
	require.Empty(t, session)
}

func TestRenewalsRaiseTheMark(t *testing.T) {
	c := newConsul(t)
	l := c.lease(t, nil)
	first := wait(t, l)
	require.Eventually(t, func() bool {
		m, _ := c.get(t, first.Number)
		return m.Until > first.Until
	}, waitAtMost, 10*time.Millisecond)
	grant := wait(t, l)
	require.Equal(t, first.Number, grant.Number)
	require.Greater(t, grant.Until, first.Until)
}

// A clock behind the high mark of the number's last holder takes another number, and waits only if
// there is none.
func TestClockBehindTheMark(t *testing.T) {
	c := newConsul(t)
	behind := func(o *Options) { o.Numbers = 2 }
	until := time.Now().Add(time.Hour).UnixMilli()
	c.put(t, 0, fmt.Sprintf(`{"until":%d}`, until))
	require.EqualValues(t, 1, wait(t, c.lease(t, behind)).Number)

	// 0 is all there is, and the clock does not reach its mark until it is told to.
	var clock atomic.Int64
	clock.Store(until - 60_000)
	l := c.lease(t, func(o *Options) { o.Numbers, o.clock = 1, clock.Load })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, l.Wait(ctx), "the clock is 1m0.001s behind")
	clock.Store(until + 1)
	grant := wait(t, l)
	require.EqualValues(t, 0, grant.Number)
	require.Equal(t, until, grant.After)
	g, err := snowflake.New(l)
	require.NoError(t, err)
	id, err := g.Next(0)
	require.NoError(t, err)
	require.Greater(t, snowflake.Millis(id), until)
}

func TestNumbersThatRestAreUsedBeforeNewOnes(t *testing.T) {
	c := newConsul(t)
	c.put(t, 3, `{"until":1000}`)
	c.put(t, 2, `not a mark`)
	c.put(t, 99999, `{"until":1000}`)
	require.EqualValues(t, 3, wait(t, c.lease(t, nil)).Number)
	three := func(o *Options) { o.Numbers = 3 }
	require.EqualValues(t, 0, wait(t, c.lease(t, three)).Number)
	require.EqualValues(t, 1, wait(t, c.lease(t, three)).Number)
	l := c.lease(t, three)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, l.Wait(ctx), "2 has an unreadable mark: nobody knows what was issued")
}

func TestLostSession(t *testing.T) {
	c := newConsul(t)
	changes := make(chan bool, 16)
	l := c.lease(t, func(o *Options) { o.OnChange = func(held bool) { changes <- held } })
	grant := wait(t, l)
	require.True(t, receive(t, changes))
	g, err := snowflake.New(l)
	require.NoError(t, err)
	last, err := g.Next(0)
	require.NoError(t, err)

	_, session := c.get(t, grant.Number)
	_, err = c.Session().Destroy(session, nil)
	require.NoError(t, err)
	require.False(t, receive(t, changes))
	require.True(t, receive(t, changes), "there is another number")
	again := wait(t, l)
	require.NotEqual(t, grant.Number, again.Number, "the first one's mark is ahead of the clock")
	id, err := g.Next(0)
	require.NoError(t, err)
	require.Greater(t, id, last)
	require.Equal(t, again.Number, snowflake.Node(id))
}

func receive(t testing.TB, changes <-chan bool) bool {
	t.Helper()
	select {
	case held := <-changes:
		return held
	case <-time.After(waitAtMost):
		t.Fatal("nothing changed")
		return false
	}
}

// Whoever is cut off from Consul gives up before Consul does.
func TestConsulUnreachable(t *testing.T) {
	c := newConsul(t)
	var cut atomic.Bool
	transport := &http.Transport{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: c.address})
	proxy.Transport = transport
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cut.Load() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(server.Close)
	changes := make(chan bool, 16)
	l := c.lease(t, func(o *Options) {
		o.Address = strings.TrimPrefix(server.URL, "http://")
		o.lifetime = 600 * time.Millisecond
		o.OnChange = func(held bool) { changes <- held }
	})
	grant := wait(t, l)
	require.True(t, receive(t, changes))
	cut.Store(true)
	require.False(t, receive(t, changes))
	_, err := l.Grant()
	require.ErrorIs(t, err, storage.ErrNoLease)
	_, err = l.Extend(grant.Until + 1000)
	require.ErrorIs(t, err, storage.ErrNoLease)
	_, session := c.get(t, grant.Number)
	require.NotEmpty(t, session, "Consul still holds it for us")

	cut.Store(false)
	require.True(t, receive(t, changes))
	require.NotEqual(t, grant.Number, wait(t, l).Number)
}

// A node whose lock was taken from it without its knowledge raises no mark.
func TestRaiseNeedsTheLock(t *testing.T) {
	c := newConsul(t)
	l := c.lease(t, func(o *Options) { o.interval = time.Hour; o.Ahead = 100 * time.Hour; o.TTL = 24 * time.Hour })
	grant := wait(t, l)
	_, session := c.get(t, grant.Number)
	_, err := c.Session().Destroy(session, nil)
	require.NoError(t, err)
	_, err = l.Extend(grant.Until + 1)
	require.ErrorIs(t, err, storage.ErrNoLease)
	m, _ := c.get(t, grant.Number)
	require.Equal(t, grant.Until, m.Until)
}

// I7: a registry that is away changes nothing. Nodes made no ids any more after 12 s of it.
func TestDefaultsOutlastConsul(t *testing.T) {
	o, err := Options{}.withDefaults()
	require.NoError(t, err)
	const outage = 5 * time.Minute
	require.Greater(t, o.lifetime-o.interval, outage)
	require.Greater(t, o.Ahead-o.interval, outage)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{TTL: 5 * time.Second},
		{Ahead: time.Second},
		{Numbers: 2000},
		{Numbers: -1},
	} {
		_, err := New(o)
		require.Error(t, err, "%+v", o)
	}
}
