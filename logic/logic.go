// Package logic decides and stores: it runs the commands that gateways forward.
//
// A packet comes in through Receive (logic.go), the Router finds its row in the table of commands
// (commands.go) and runs the chain of middlewares before the handler (router.go). Talk goes on to
// the conversation's shard (committer.go), which stores what has gathered in one transaction, and
// then, never before, answers and pushes (dispatch.go) to where the receivers are (locations.go). Who could not be pushed to learns it later: pushes
// without a link are in missed.go, commits without an answer in doubt.go. The other handlers are in login.go,
// lease.go, group.go, offline.go, read.go and sync.go.
package logic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
)

// Config is what an operator sets. The zero value of a field means its default.
type Config struct {
	// Instance is how the node is registered: ID, Node, Address and Zone.
	Instance naming.Instance
	// Secret authenticates links.
	Secret []byte
	// Shards is how many group commits run at once. Defaults to 1.
	Shards int
	// CommitInterval is the shortest time from the beginning of one commit of a shard to that of the next
	// under load: fewer, larger transactions for as much latency. 0: none.
	CommitInterval time.Duration
	// BatchMax is the largest number of messages of one commit. Defaults to 500.
	BatchMax int
	// QueueMax bounds the messages that wait for one shard; above it, or above 64 MiB of bodies, the answer is status 300.
	// Defaults to 20,000.
	QueueMax int
	// Handlers is how many blocking commands run at once. Defaults to 64.
	Handlers int
	// Timeout bounds one command. Defaults to 10 s.
	Timeout time.Duration
	// Drain bounds the hand-over when the node stops. Defaults to 10 s.
	Drain time.Duration
	// MaxBody bounds body and extra of a message together, in bytes. Defaults to 60 KiB.
	MaxBody int
	// MaxGroupMembers bounds a group. Defaults to 100,000.
	MaxGroupMembers int
	// MaxGroups bounds the groups that an account may have created or joined. Defaults to 1,000.
	MaxGroups int
	// Devices says which devices of an account may be on line together. The default of its Max is 10.
	Devices storage.DevicePolicy
	// IndexPage is the largest number of entries of one offline index. Defaults to 2,000, its maximum.
	IndexPage int
	// Rate limits the requests of one account at this node. The zero value does not.
	Rate limit.Rate
	// LocationAge is for how long a node goes by what the session store has said of an account without asking for changes, and how
	// long it keeps the answer to a login back for that; the same on all nodes. Defaults to 50 ms; negative: none.
	LocationAge time.Duration
	// Now is the clock of the times of sending and of login. Defaults to time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Shards, 1)
	set(&c.BatchMax, 500)
	set(&c.QueueMax, 20_000)
	set(&c.Handlers, 64)
	set(&c.MaxBody, 60<<10)
	set(&c.MaxGroupMembers, 100_000)
	set(&c.MaxGroups, 1000)
	set(&c.Devices.Max, 10)
	set(&c.IndexPage, 2000)
	switch {
	case c.LocationAge == 0:
		c.LocationAge = 50 * time.Millisecond
	case c.LocationAge < 0:
		c.LocationAge = 0
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Drain == 0 {
		c.Drain = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Deps are the collaborators of a Node. All are required but Writes and IDsErr.
type Deps struct {
	Naming naming.Naming
	// Server serves the links of gateways; it listens already.
	Server   im.Server
	Sessions storage.Sessions
	Messages storage.Messages
	Groups   storage.Groups
	// Writes are those of Server. May be nil.
	Writes Batch
	// IDsErr says why no ids can be made at the moment; nil when they can. May be nil.
	IDsErr  func() error
	Metrics prometheus.Registerer
	Log     *logrus.Entry
}

// Batch has what is pushed between Begin and End written together at End. Nothing may block in between. A *transport.Batch.
type Batch interface {
	Begin()
	End()
}

// apart is a Batch that leaves it to the server when to write.
type apart struct{}

func (apart) Begin() {}
func (apart) End()   {}

// Node is one logic node.
type Node struct {
	cfg     Config
	deps    Deps
	log     *logrus.Entry
	metrics *metrics

	hub          *container.Hub
	registration *container.Registration
	barrier      *container.Barrier
	router       *Router
	committer    *committer
	dispatch     *dispatcher

	gateways atomic.Pointer[[]naming.Instance] // the registry's last list; nil: not heard yet
	inflight atomic.Int64                      // requests received and not yet finished
}

// New returns a node that Run starts. It takes over the server's listener.
func New(cfg Config, deps Deps) *Node {
	cfg.setDefaults()
	if deps.Writes == nil {
		deps.Writes = apart{}
	}
	n := &Node{cfg: cfg, deps: deps, log: deps.Log, metrics: newMetrics(deps.Metrics)}
	n.hub = container.NewHub(container.HubOptions{
		Self:    cfg.Instance,
		Secret:  cfg.Secret,
		Receive: n.receive,
		Changed: func() { n.barrier.Changed() },
		Log:     n.log,
	})
	n.registration = container.NewRegistration(deps.Naming, cfg.Instance, n.log)
	n.barrier = container.NewBarrier(container.BarrierOptions{
		Naming:       deps.Naming,
		Registration: n.registration,
		Peers:        naming.ServiceGateway,
		Update:       func(list []naming.Instance) { n.gateways.Store(&list) },
		Missing:      n.unlinked,
		Keep:         n.keep,
		Log:          n.log,
	})
	n.dispatch = newDispatcher(cfg, deps.Sessions, n.hub, deps.Writes, n.metrics, n.log)
	n.dispatch.absent = n.absent
	n.committer = newCommitter(cfg, deps.Messages, n.dispatch, deps.Writes, n.metrics, n.log)
	n.router = NewRouter(n.commands(n.dispatch), cfg.Handlers, recoverer(n.log), n.metrics.measure, limiter(cfg.Rate, n.metrics.limited))
	deps.Server.SetAcceptor(n.hub)
	deps.Server.SetMessageListener(n.hub)
	deps.Server.SetStateListener(n.hub)
	return n
}

// unlinked names the gateways that are not connected (I7).
func (n *Node) unlinked(gateways []naming.Instance) []string {
	var out []string
	for _, g := range gateways {
		if g.State != naming.StateDraining && !n.hub.Linked(g.ID) {
			out = append(out, g.ID)
		}
	}
	return out
}

// absent names the registered gateways that are not connected. One that drains has clients, too.
func (n *Node) absent() (out []string) {
	list := n.gateways.Load()
	if list == nil {
		return nil
	}
	for _, g := range *list {
		if !n.hub.Linked(g.ID) {
			out = append(out, g.ID)
		}
	}
	return out
}

func (n *Node) keep() error {
	if n.deps.IDsErr == nil {
		return nil
	}
	if err := n.deps.IDsErr(); err != nil {
		return fmt.Errorf("no message ids: %w", err)
	}
	return nil
}

// Ready is nil when the node takes traffic, or says why not.
func (n *Node) Ready() error { return n.barrier.Err() }

// Run serves until ctx ends, then hands over (I8), and returns nil; or the error that ended it before.
func (n *Node) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { n.committer.run(serving) })
	wg.Go(func() { n.router.Run(serving) })
	wg.Go(func() { n.dispatch.run(serving) })

	joined, leave := context.WithCancel(ctx)
	defer leave()
	var registry sync.WaitGroup
	registry.Go(func() { n.registration.Run(joined) })
	registry.Go(func() { n.watchKeep(joined) })
	registry.Go(func() {
		if err := n.barrier.Run(joined); err != nil && joined.Err() == nil {
			n.log.WithError(err).Error("cannot follow the registry")
		}
	})

	failed := make(chan error, 1)
	go func() { failed <- n.deps.Server.Start() }()

	var err error
	select {
	case <-ctx.Done():
		n.log.Info("stopping: handing over")
	case err = <-failed:
		err = fmt.Errorf("logic: serve links: %w", err)
	}
	leave()
	registry.Wait()
	deregistering, giveUp := context.WithTimeout(context.Background(), n.cfg.Drain)
	defer giveUp()
	deregistered := n.registration.Deregister(deregistering)
	n.drain()
	stop()
	wg.Wait()
	closing, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	n.dispatch.unlinked.finish(closing)
	<-deregistered
	return err
}

// watchKeep makes the barrier look at Keep every second.
func (n *Node) watchKeep(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.barrier.Changed()
		case <-ctx.Done():
			return
		}
	}
}

// drain has the gateways stop forwarding, finishes what they have forwarded, and writes out what is
// queued for them.
func (n *Node) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Drain)
	defer cancel()
	if err := errors.Join(n.hub.Drain(ctx), n.awaitFinished(ctx)); err != nil {
		n.log.WithError(err).Warn("stopping although not everything was handed over")
		n.dispatch.missed()
	}
	if n.committer.inDoubt() { // their senders ask another node, which does not know
		n.dispatch.missed()
	}
	n.dispatch.settle()
	closing, stop := context.WithTimeout(context.Background(), closeWait)
	defer stop()
	if err := n.deps.Server.Shutdown(closing); err != nil {
		n.log.WithError(err).Warn("links cut off")
	}
}

// closeWait bounds the writing of what is queued on the links, after Config.Drain, and then that of what
// is to be noted for gateways without a link.
const closeWait = 3 * time.Second

// awaitFinished returns when nothing is in flight.
func (n *Node) awaitFinished(ctx context.Context) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for n.inflight.Load() > 0 {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("%d requests in flight: %w", n.inflight.Load(), ctx.Err())
		}
	}
	return nil
}

// receive handles one packet of a gateway, in the order of its link.
func (n *Node) receive(peer string, a im.Agent, p *wire.LogicPkt) {
	c := &Context{Packet: *p, Gateway: peer, agent: a, log: n.log, node: n}
	n.inflight.Add(1)
	n.router.Serve(c)
}

// PingStores reports whether the stores answer, for /readyz.
func (n *Node) PingStores(ctx context.Context) error {
	return errors.Join(
		wrap("session store", n.deps.Sessions.Ping(ctx)),
		wrap("message store", n.deps.Messages.Ping(ctx)),
	)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// without returns the accounts that are not this one.
func without(accounts []string, account string) []string {
	return slices.DeleteFunc(slices.Clone(accounts), func(a string) bool { return a == account })
}
