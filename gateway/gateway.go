// Package gateway holds the clients' connections: it logs them in (accept.go), forwards what they
// ask to a logic node (uplink.go), delivers what logic nodes say (downlink.go) and knows what of that
// old clients may acknowledge (delivered.go), keeps their sessions alive (lease.go), tells them to sync when a
// push may be lost (hint.go, missed.go), and to move when it stops (drain.go). It reads headers and never the
// bodies of messages, and stores nothing.
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
	// Drain is the window over which a stopping gateway moves its clients elsewhere. Defaults to 10 s.
	Drain time.Duration
	// Rate limits the requests of one connection. The zero value does not.
	Rate limit.Rate
	// LoginRate limits the logins of all connections. The zero value does not.
	LoginRate limit.Rate
	// AccountRate limits the logins of one account, so that none takes all of LoginRate. The zero value does not.
	AccountRate limit.Rate
}

// Deps are the collaborators of a Gateway. All are required.
type Deps struct {
	Naming naming.Naming
	// Server serves the clients; it listens already. Channels is to be its channel map.
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
	accounts     *limit.Keyed[account] // their logins

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
	g.deps.Channels = leasedChannels{deps.Channels, g.leases}
	g.hints = newHints(g)
	g.logins = limit.NewKeyed[struct{}](cfg.LoginRate)
	g.accounts = limit.NewKeyed[account](cfg.AccountRate)
	g.barrier = container.NewBarrier(container.BarrierOptions{
		Naming:       deps.Naming,
		Registration: g.registration,
		Peers:        naming.ServiceLogic,
		Update:       g.links.Update,
		Missing:      g.links.Unlinked,
		Keep:         g.keep,
		Log:          g.log,
	})
	deps.Server.SetChannelMap(g.deps.Channels)
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
	wg.Go(func() { // until the end: a logic node may come while clients move
		if err := g.barrier.Run(serving); err != nil && serving.Err() == nil {
			g.log.WithError(err).Error("cannot follow the registry")
		}
	})
	g.leases.start(serving)

	joined, leave := context.WithCancel(ctx)
	defer leave()
	var registry sync.WaitGroup
	registry.Go(func() { g.registration.Run(joined) })
	registry.Go(func() { g.publishLoad(joined) })

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
	g.barrier.Changed() // it is not ready any more
	g.drain()
	stop()
	wg.Wait()
	return err
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
func (g *Gateway) linkUp(l *container.Link, missed bool) {
	if missed {
		g.leases.restoreAll()
		g.hints.linkBack(l.Peer())
	}
	g.leases.wake()
}

// linkDown answers what was open on the link, so that clients can retry at once, and hints them.
func (g *Gateway) linkDown(l *container.Link, open map[container.Open]int, clean bool) {
	for req, n := range open {
		for range n {
			g.fail(req)
		}
	}
	if !clean {
		g.hints.linkLost(l.Peer())
	}
}
