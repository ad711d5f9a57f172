// Package gateway holds the clients' connections: it logs them in (accept.go), forwards what they
// ask to a logic node (uplink.go), delivers what logic nodes say (downlink.go), keeps their sessions
// alive (lease.go) and tells them to sync when a push may be lost (hint.go). It reads headers and
// never the bodies of messages, and stores nothing.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/naming"
)

// Config is what an operator sets. The zero value of a field means its default.
type Config struct {
	// Instance is how the gateway is registered: ID, Node, Address, Zone and Meta (its public URLs).
	Instance naming.Instance
	// Secret verifies the clients' tokens and, derived, authenticates links.
	Secret []byte
	// LoginWait bounds a login, from the accept to the answer. Defaults to im.DefaultLoginWait.
	LoginWait time.Duration
	// MaxConnections refuses connections above it. Defaults to no limit.
	MaxConnections int
	// Lease is how long sessions outlive a gateway that has crashed. Defaults to 15 s.
	Lease time.Duration
	// Drain is the window over which a stopping gateway closes its clients. Defaults to 10 s.
	Drain time.Duration
	// Rate limits the requests of one connection. The zero value does not.
	Rate limit.Rate
	// LoginRate limits the logins of all connections. The zero value does not.
	LoginRate limit.Rate
}

// Deps are the collaborators of a Gateway. All are required.
type Deps struct {
	Naming naming.Naming
	// Server serves the clients; it listens already. Channels is its channel map.
	Server   im.Server
	Channels im.ChannelMap
	// NewLink makes the client of a link to a logic node.
	NewLink func(id, name string) im.Client
	Metrics prometheus.Registerer
	Log     *logrus.Entry
}

// Gateway is one gateway node.
type Gateway struct {
	cfg     Config
	deps    Deps
	log     *logrus.Entry
	metrics *metrics

	links        *container.Links
	registration *container.Registration
	barrier      *container.Barrier
	leases       *leases
	hints        *hints
	logins       *limit.Keyed[struct{}]

	joining     sync.Map      // channel id → *session, between Accept and Connect
	nextID      atomic.Int64  // of channels
	connections atomic.Int64  // accepted and not yet disconnected
	draining    chan struct{} // closed when the gateway stops
}

// New returns a gateway that Run starts. It takes over the server's listeners.
func New(cfg Config, deps Deps) *Gateway {
	if cfg.LoginWait == 0 {
		cfg.LoginWait = im.DefaultLoginWait
	}
	if cfg.Lease == 0 {
		cfg.Lease = 15 * time.Second
	}
	if cfg.Drain == 0 {
		cfg.Drain = 10 * time.Second
	}
	g := &Gateway{cfg: cfg, deps: deps, log: deps.Log, metrics: newMetrics(deps.Metrics), draining: make(chan struct{})}
	g.registration = container.NewRegistration(deps.Naming, cfg.Instance, g.log)
	g.links = container.NewLinks(container.LinksOptions{
		Self:      cfg.Instance,
		Secret:    cfg.Secret,
		NewClient: deps.NewLink,
		Receive:   g.deliver,
		Up:        g.linkUp,
		Down:      g.linkDown,
		Changed:   func() { g.barrier.Changed() },
		Log:       g.log,
	})
	g.leases = newLeases(g)
	g.hints = newHints(g)
	g.logins = limit.NewKeyed[struct{}](cfg.LoginRate)
	g.barrier = container.NewBarrier(container.BarrierOptions{
		Naming:       deps.Naming,
		Registration: g.registration,
		Peers:        naming.ServiceLogic,
		Update:       g.links.Update,
		Missing:      g.links.Unlinked,
		Keep:         g.keep,
		Log:          g.log,
	})
	deps.Server.SetAcceptor(g)
	deps.Server.SetMessageListener(g)
	deps.Server.SetStateListener(g)
	return g
}

// keep says why the gateway can take no clients: it needs a logic node and its lease.
func (g *Gateway) keep() error {
	switch {
	case g.isDraining():
		return errors.New("draining")
	case g.links.Usable() == 0:
		return errors.New("no ready logic node is connected")
	case !g.leases.held.Load():
		return errors.New("no lease for sessions yet: is the session store up?")
	default:
		return nil
	}
}

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining:
		return true
	default:
		return false
	}
}

// Ready is nil when the gateway takes clients, or says why not.
func (g *Gateway) Ready() error { return g.barrier.Err() }

// Run serves until ctx ends, then drains (I8), and returns nil; or the error that ended it before.
func (g *Gateway) Run(ctx context.Context) error {
	// What serves the clients outlives ctx, until they are drained.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { g.links.Run(serving) })
	wg.Go(func() { g.hints.run(serving) })
	g.leases.start(serving)

	joined, leave := context.WithCancel(ctx)
	defer leave()
	var registry sync.WaitGroup
	registry.Go(func() { g.registration.Run(joined) })
	registry.Go(func() { g.publishLoad(joined) })
	registry.Go(func() {
		if err := g.barrier.Run(joined); err != nil && joined.Err() == nil {
			g.log.WithError(err).Error("cannot follow the registry")
		}
	})

	failed := make(chan error, 1)
	go func() { failed <- g.deps.Server.Start() }()

	var err error
	select {
	case <-ctx.Done():
		g.log.Info("stopping: draining clients")
	case err = <-failed:
		err = fmt.Errorf("gateway: serve clients: %w", err)
	}
	close(g.draining)
	leave()
	registry.Wait()
	g.drain()
	stop()
	wg.Wait()
	return err
}

// drain leaves the registry, closes the clients over the drain window, ends their sessions and the lease.
func (g *Gateway) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.Drain+5*time.Second)
	defer cancel()
	if err := g.registration.Deregister(ctx); err != nil {
		g.log.WithError(err).Warn("cannot deregister; the registry will notice by itself")
	}
	g.closeClients(ctx)
	if err := g.deps.Server.Shutdown(ctx); err != nil {
		g.log.WithError(err).Warn("clients cut off")
	}
	g.leases.end()
}

// closeClients closes all channels, spread over the drain window, each after its open requests were
// answered, so that they do not all move to the other gateways at once.
func (g *Gateway) closeClients(ctx context.Context) {
	channels := g.deps.Channels.All()
	if len(channels) == 0 {
		return
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	// A few clients need no spreading: at least 50 a tick.
	ticks := int(g.cfg.Drain * 8 / 10 / (20 * time.Millisecond))
	batch := max(50, (len(channels)+ticks)/max(1, ticks))
	for len(channels) > 0 {
		n := min(batch, len(channels))
		for _, ch := range channels[:n] {
			sessionOf(ch).leave(im.ReasonGoingAway)
		}
		channels = channels[n:]
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
	g.awaitAnswers(ctx)
}

// awaitAnswers waits, a short while, until no channel is left that had an open request.
func (g *Gateway) awaitAnswers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for g.connections.Load() > 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// publishLoad tells the registry the number of connections when it has changed by a tenth, for the router.
func (g *Gateway) publishLoad(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	var last int64
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := g.connections.Load()
		if diff := now - last; diff*10 > last || -diff*10 > last {
			last = now
			g.registration.Update(func(i *naming.Instance) { i.Meta["load"] = fmt.Sprint(now) })
		}
	}
}

// linkUp makes up for what the peer could not say while there was no link: pushes, and kicks of
// sessions that were displaced.
func (g *Gateway) linkUp(_ *container.Link, missed bool) {
	if missed {
		g.leases.restoreAll()
		g.hints.want()
	}
	g.leases.wake()
}

// linkDown answers what was open on the link, so that clients can retry at once, and hints them.
func (g *Gateway) linkDown(_ *container.Link, open map[container.Open]int, clean bool) {
	for req, n := range open {
		for range n {
			g.fail(req)
		}
	}
	if !clean {
		g.hints.want()
	}
}
