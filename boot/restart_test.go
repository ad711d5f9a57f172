package boot

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire/token"
)

// apps are pairs of the SDK's clients, in each of which one sends to the other, message after message,
// until the test ends it.
type apps struct {
	t       *testing.T
	pairs   []*talkers
	stop    context.CancelFunc // of the clients
	quit    chan struct{}      // no message more
	clients sync.WaitGroup
	senders sync.WaitGroup
}

// talkers are a pair.
type talkers struct {
	from, to *client.Client
	sent     atomic.Int64
	slowest  time.Duration // from Talk to its answer; owned by the sender

	mu       sync.Mutex
	received []string // bodies, in order; guarded by mu
	trouble  []error  // what an application sees of a connection that ended; guarded by mu
}

func (p *talkers) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received[:len(p.received):len(p.received)]
}

func (p *talkers) seen() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble[:len(p.trouble):len(p.trouble)]
}

// byRouter has all clients find their gateways through the router.
func byRouter(url string) func(int, *client.Options) {
	return func(_ int, o *client.Options) { o.Router = url }
}

// startApps runs pairs of clients; where says how the i-th client finds its gateway.
func startApps(t *testing.T, pairs int, where func(i int, o *client.Options)) *apps {
	ctx, stop := context.WithCancel(context.Background())
	a := &apps{t: t, stop: stop, quit: make(chan struct{})}
	for i := range pairs {
		p := &talkers{}
		p.from = a.client(ctx, p, fmt.Sprint("from-", i), func(o *client.Options) { where(2*i, o) })
		p.to = a.client(ctx, p, fmt.Sprint("to-", i), func(o *client.Options) { where(2*i+1, o) })
		a.pairs = append(a.pairs, p)
	}
	t.Cleanup(func() {
		stop()
		a.senders.Wait()
		a.clients.Wait()
	})
	online, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i, p := range a.pairs {
		require.NoError(t, p.from.Online(online))
		require.NoError(t, p.to.Online(online))
		a.senders.Go(func() { a.talk(ctx, p, fmt.Sprint("to-", i)) })
	}
	return a
}

func (a *apps) client(ctx context.Context, p *talkers, account string, where func(*client.Options)) *client.Client {
	tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
	require.NoError(a.t, err)
	o := client.Options{
		Token: client.StaticToken(tk), Device: "phone",
		OnMessage: func(m client.Message) {
			p.mu.Lock()
			p.received = append(p.received, m.Body)
			p.mu.Unlock()
		},
		OnState: func(s client.State, err error) {
			if s == client.StateOffline && ctx.Err() == nil {
				p.mu.Lock()
				p.trouble = append(p.trouble, fmt.Errorf("%s is off line: %w", account, err))
				p.mu.Unlock()
			}
		},
	}
	where(&o)
	c, err := client.New(o)
	require.NoError(a.t, err)
	a.clients.Go(func() { _ = c.Run(ctx) }) // with ctx's error
	return c
}

func (a *apps) talk(ctx context.Context, p *talkers, to string) {
	for n := int64(1); ; n++ {
		select {
		case <-a.quit:
			return
		case <-ctx.Done():
			return
		default:
		}
		start := time.Now()
		if _, err := p.from.Talk(ctx, to, client.Text(strconv.FormatInt(n, 10))); err != nil {
			if ctx.Err() == nil {
				a.t.Errorf("the sender to %s saw an error: %v", to, err)
			}
			return
		}
		p.slowest = max(p.slowest, time.Since(start))
		p.sent.Add(1)
	}
}

// progress waits until every pair has sent some messages more.
func (a *apps) progress() {
	a.t.Helper()
	before := make([]int64, len(a.pairs))
	for i, p := range a.pairs {
		before[i] = p.sent.Load()
	}
	for i, p := range a.pairs {
		await(a.t, "messages", func() bool { return p.sent.Load() >= before[i]+10 })
	}
}

// caughtUp waits until everybody has what has been sent by now.
func (a *apps) caughtUp() {
	a.t.Helper()
	sent := make([]int64, len(a.pairs))
	for i, p := range a.pairs {
		sent[i] = p.sent.Load()
	}
	for i, p := range a.pairs {
		await(a.t, "what was sent", func() bool { return len(p.got()) >= int(sent[i]) })
	}
}

// unharmed ends the load: every message arrived once and in order. It returns what the applications
// saw of connections that ended, and how long the slowest message took.
func (a *apps) unharmed() (trouble []error, slowest time.Duration) {
	a.t.Helper()
	close(a.quit)
	a.senders.Wait()
	a.caughtUp()
	a.stop()
	a.clients.Wait()
	total := 0
	for _, p := range a.pairs {
		got := p.got()
		require.Len(a.t, got, int(p.sent.Load()))
		for i, body := range got {
			require.Equal(a.t, strconv.Itoa(i+1), body)
		}
		total += len(got)
		slowest = max(slowest, p.slowest)
		trouble = append(trouble, p.seen()...)
	}
	a.t.Logf("%d messages, the slowest was answered after %v", total, slowest)
	return trouble, slowest
}

// await waits until something holds that tells nobody.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	late := time.After(patience)
	for !holds() {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (c *cluster) router() *node[*Router] {
	c.t.Helper()
	env := c.env()
	r, err := NewRouter(c.config("router"), env)
	require.NoError(c.t, err)
	n := serve(c, env, r)
	awaitReady(c.t, n)
	return n
}

// A gateway that stops under load has its clients move: no message is lost or doubled, and no
// application sees that it was connected to another one (I8).
func TestGatewayStopsUnderLoad(t *testing.T) {
	c, _, gateways, _ := started(t)
	a := startApps(t, 12, byRouter(c.router().Service.URL()))
	a.progress()
	stopping := gateways[0]
	require.Positive(t, stopping.counter(t, "hermod_gateway_delivered_total"))
	start := time.Now()
	require.NoError(t, stopping.stop())
	t.Logf("stopped after %v", time.Since(start))
	a.progress()
	trouble, _ := a.unharmed()
	require.Empty(t, trouble)
	require.Positive(t, stopping.counter(t, "hermod_gateway_goaways_total"))
	require.Equal(t, stopping.counter(t, "hermod_gateway_goaways_total"), stopping.counter(t, "hermod_gateway_drained_total"))
	for _, g := range gateways {
		require.Zero(t, g.counter(t, "hermod_gateway_hinted_total"), "nothing was lost")
	}
}

// Every gateway and every logic node is restarted, one after the other, under load.
func TestEverythingRestartsUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	c, logics, gateways, _ := started(t)
	a := startApps(t, 12, byRouter(c.router().Service.URL()))
	for i, old := range gateways {
		a.progress()
		require.NoError(t, old.stop())
		a.progress()
		awaitReady(t, c.gateway(fmt.Sprint("gateway-", i)))
	}
	for i, old := range logics {
		a.progress()
		require.NoError(t, old.stop())
		a.progress()
		awaitReady(t, c.logic(fmt.Sprint("logic-", i)))
	}
	a.progress()
	trouble, _ := a.unharmed()
	require.Empty(t, trouble)
}
