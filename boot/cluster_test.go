package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/bench"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/naming"
	registry "github.com/hermod-im/hermod/naming/memory"
	sessions "github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/test/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(component.Wrap(m, component.KindMySQL)) }

// patience is how long a test waits for what must come: only a test that fails waits that long.
const patience = 20 * time.Second

const secret = "the secret of the tests, 32 bytes"

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// cluster is several nodes in this process, which share a registry, a session store and a database. That is
// no SQLite file, which is for one node: whoever waits for its lock polls, and the others take it again
// and again in between. It has had a node wait for five seconds, and refuse what it had.
type cluster struct {
	t        *testing.T
	registry *registry.Registry
	sessions *sessions.Sessions
	database string // DSN
	logics   int
}

func newCluster(t *testing.T) *cluster {
	return &cluster{
		t:        t,
		registry: registry.NewRegistry(),
		sessions: sessions.NewSessions(sessions.Options{}),
		database: component.Database(t, component.MySQL(t)),
	}
}

// config is that of one node, on free ports.
func (c *cluster) config(name string) config.Config {
	cfg := config.Standalone("")
	cfg.Database.Driver, cfg.Database.DSN = config.DriverMySQL, c.database
	cfg.Node.Name = name
	cfg.Secret = secret
	cfg.Admin.Listen = ""
	cfg.Gateway.WS, cfg.Gateway.TCP = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Router.Listen = "127.0.0.1:0"
	cfg.Limits.Enabled = false
	cfg.Shutdown.Drain = 5 * time.Second
	return cfg
}

func (c *cluster) env() *Env {
	return &Env{
		Log: quiet(), Naming: c.registry.Client(), Sessions: c.sessions,
		Metrics: prometheus.NewRegistry(), Version: "test",
	}
}

// node is a service that runs.
type node[S Service] struct {
	Service S
	env     *Env
	stop    func() error
}

// serve runs a service until stop or the test's end.
func serve[S Service](c *cluster, env *Env, s S) *node[S] {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeWith(ctx, s, nil) }()
	n := &node[S]{Service: s, env: env}
	n.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ended, env.Naming.Close())
	})
	c.t.Cleanup(func() { require.NoError(c.t, n.stop()) })
	return n
}

func (c *cluster) gateway(name string) *node[*Gateway] {
	c.t.Helper()
	return c.gatewayOf(name, c.env())
}

func (c *cluster) gatewayOf(name string, env *Env) *node[*Gateway] {
	c.t.Helper()
	g, err := NewGateway(c.config(name), env)
	require.NoError(c.t, err)
	return serve(c, env, g)
}

func (c *cluster) logic(name string) *node[*Logic] {
	c.t.Helper()
	cfg, env := c.config(name), c.env()
	cfg.IDs.Node = c.logics // no two running nodes may share one
	c.logics++
	l, err := NewLogic(c.t.Context(), cfg, env)
	require.NoError(c.t, err)
	return serve(c, env, l)
}

// awaitReady waits until the nodes take traffic.
func awaitReady[S Service](t *testing.T, nodes ...*node[S]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range nodes {
		require.NoError(t, AwaitReady(ctx, n.Service))
	}
}

// counter is the sum of a counter of the node, over all labels.
func (n *node[S]) counter(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := n.env.Metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// started is 3 gateways and 2 logic nodes that are ready, and the URLs for clients.
func started(t *testing.T) (c *cluster, logics []*node[*Logic], gateways []*node[*Gateway], urls []string) {
	c = newCluster(t)
	for i := range 2 {
		logics = append(logics, c.logic(fmt.Sprint("logic-", i)))
	}
	for i := range 3 {
		gateways = append(gateways, c.gateway(fmt.Sprint("gateway-", i)))
	}
	awaitReady(t, logics...)
	awaitReady(t, gateways...)
	for i, g := range gateways {
		urls = append(urls, []string{g.Service.WS, g.Service.TCP}[i%2])
	}
	return c, logics, gateways, urls
}

// load is a closed loop of pairs over all gateways that runs until the test ends it.
type load struct {
	t      *testing.T
	enough chan struct{}
	result chan *bench.TalkResult
}

func startLoad(t *testing.T, urls []string) *load {
	l := &load{t: t, enough: make(chan struct{}), result: make(chan *bench.TalkResult, 1)}
	go func() {
		r, err := bench.Talk(context.WithoutCancel(t.Context()), bench.TalkOptions{
			URLs: urls, Secret: []byte(secret), Pairs: 24, Window: 4, Size: 32, Duration: time.Minute, Until: l.enough,
		})
		if err != nil {
			t.Error("a client saw an error: ", err)
			r = &bench.TalkResult{}
		}
		l.result <- r
	}()
	return l
}

// unharmed ends the load: every message was answered with success, and delivered once.
func (l *load) unharmed() {
	l.t.Helper()
	close(l.enough)
	r := <-l.result
	l.t.Logf("%d messages, %.0f/s, %d reordered", r.Sent, r.Rate, r.Reordered)
	require.Positive(l.t, r.Sent)
	require.Empty(l.t, r.Refused, "refused")
	require.Zero(l.t, r.Unanswered, "unanswered")
	require.Equal(l.t, r.Sent, r.Acked)
	require.Zero(l.t, r.Lost, "lost")
	require.Zero(l.t, r.Doubled, "doubled")
}

// stored waits until the node has stored as many messages more.
func stored(t *testing.T, n *node[*Logic], more float64) {
	t.Helper()
	const name = "hermod_logic_stored_total"
	before := n.counter(t, name)
	late := time.After(patience)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for n.counter(t, name) < before+more {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("the node stored %v, then %v", before, n.counter(t, name))
		}
	}
}

func TestClusterExchangesMessages(t *testing.T) {
	_, logics, gateways, urls := started(t)
	l := startLoad(t, urls)
	for _, n := range logics {
		stored(t, n, 20) // both share the work
	}
	l.unharmed()
	for _, g := range gateways {
		require.Positive(t, g.counter(t, "hermod_gateway_delivered_total"))
		require.Zero(t, g.counter(t, "hermod_gateway_hinted_total"), "nothing was lost")
	}
}

// Stopping a logic node under load loses nothing, and no client sees an error (I8).
func TestLogicNodeStopsUnderLoad(t *testing.T) {
	_, logics, gateways, urls := started(t)
	l := startLoad(t, urls)
	stored(t, logics[0], 20)
	stored(t, logics[1], 20)
	require.NoError(t, logics[0].stop())
	stored(t, logics[1], 20)
	l.unharmed()
	for _, g := range gateways {
		require.Zero(t, g.counter(t, "hermod_gateway_hinted_total"), "a drained link has lost nothing")
		require.NoError(t, g.Service.Ready())
	}
}

// A logic node that joins under load takes its share, once every gateway is connected to it (I7).
func TestLogicNodeJoinsUnderLoad(t *testing.T) {
	c, logics, gateways, urls := started(t)
	l := startLoad(t, urls)
	stored(t, logics[0], 20)
	third := c.logic("logic-2")
	awaitReady(t, third)
	stored(t, third, 20)
	l.unharmed()
	for _, g := range gateways {
		require.Zero(t, g.counter(t, "hermod_gateway_hinted_total"))
	}
}

// All logic nodes are replaced one after the other, and the registry is down for a while in between.
func TestRollingRestartUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	c, logics, _, urls := started(t)
	l := startLoad(t, urls)
	for i, old := range logics {
		stored(t, old, 20)
		next := c.logic(fmt.Sprint("logic-", i)) // the same name
		awaitReady(t, next)
		require.NoError(t, old.stop())
		c.registry.SetDown(true)
		stored(t, next, 20)
		c.registry.SetDown(false)
	}
	l.unharmed()
}

// Whoever comes first: gateways and logic nodes that start at once are ready together.
func TestNodesStartInAnyOrder(t *testing.T) {
	for _, order := range []string{"gl", "lg", "glgl", "ggll", "lggl"} {
		t.Run(order, func(t *testing.T) {
			c := newCluster(t)
			var logics []*node[*Logic]
			var gateways []*node[*Gateway]
			for i, kind := range order {
				if kind == 'l' {
					logics = append(logics, c.logic(fmt.Sprint("logic-", i)))
				} else {
					gateways = append(gateways, c.gateway(fmt.Sprint("gateway-", i)))
				}
			}
			awaitReady(t, logics...)
			awaitReady(t, gateways...)
			find := func(service string) []naming.Instance {
				client := c.registry.Client()
				defer client.Close() //nolint:errcheck // in memory
				list, err := client.Find(t.Context(), service)
				require.NoError(t, err)
				return naming.Ready(list)
			}
			require.Len(t, find(naming.ServiceLogic), len(logics))
			require.Len(t, find(naming.ServiceGateway), len(gateways))
		})
	}
}
