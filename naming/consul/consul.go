// Package consul is a registry in HashiCorp's Consul, through the agent on this machine.
//
// An instance is a service of the agent with two checks. "alive" has a time to live, the lease,
// which the Client renews: while it passes the instance is in the registry. "ready" passes while
// the instance is in naming.StateReady, so that Consul's DNS, which answers with those whose checks
// all pass, names only instances that take traffic (gateway.service.consul).
//
// What Consul says is weighed before a subscriber hears of it (see view): an agent that restarts
// forgets the instances, or finds their leases expired, until they renew; nobody must drop their
// peers for that. An instance that deregisters leaves a tombstone, which Consul reaps after
// Options.DeregisterAfter, so that going in order is not mistaken for being forgotten.
package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/naming"
)

const (
	// DefaultTTL is the lease of an instance.
	DefaultTTL = 10 * time.Second
	// DefaultDeregisterAfter is how long Consul keeps an instance whose lease has ended, and a tombstone.
	DefaultDeregisterAfter = time.Minute
	// minTTL keeps the renewals, three a lease, from loading the agent.
	minTTL = time.Second
	// minDeregisterAfter is Consul's own lower bound.
	minDeregisterAfter = time.Minute
	// callTimeout bounds one call of the agent that is answered at once.
	callTimeout = 5 * time.Second
	// visibleTimeout bounds the wait until Consul's servers have what its agent was told.
	visibleTimeout = 10 * time.Second
)

// Options are the parameters of a Client. The zero value talks to the agent that Consul's own
// environment variables name (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT, …), or to 127.0.0.1:8500.
type Options struct {
	// Address of the agent: host:port, or a URL. Defaults to Consul's environment variables.
	Address string
	// Token is the ACL token. Defaults to Consul's environment variables.
	Token string
	// Prefix is put before the names of services in Consul, so that several clusters can share one.
	// Defaults to nothing. With a prefix the DNS names have it too.
	Prefix string
	// TTL is the lease: an instance whose process died is gone after it. Defaults to DefaultTTL; at least a second.
	TTL time.Duration
	// DeregisterAfter is when Consul deletes an instance whose lease has ended. Defaults to
	// DefaultDeregisterAfter, which is also Consul's minimum.
	DeregisterAfter time.Duration
	// Grace is how long a subscription keeps an instance that Consul has lost without a sign that it
	// went or died: long enough for it to register again. Defaults to one and a half TTL.
	Grace time.Duration
	// Logger hears when the registry is lost and found again. May be nil.
	Logger naming.Logger
}

// withDefaults returns the options with every default filled in, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.DeregisterAfter == 0 {
		o.DeregisterAfter = DefaultDeregisterAfter
	}
	if o.Grace == 0 {
		o.Grace = o.TTL * 3 / 2
	}
	if o.Logger == nil {
		o.Logger = discard{}
	}
	switch {
	case o.TTL < minTTL:
		return o, fmt.Errorf("consul: TTL %v is below %v", o.TTL, minTTL)
	case o.DeregisterAfter < minDeregisterAfter:
		return o, fmt.Errorf("consul: DeregisterAfter %v is below %v", o.DeregisterAfter, minDeregisterAfter)
	case o.Grace < o.TTL/2:
		return o, fmt.Errorf("consul: Grace %v is below half of the TTL %v: instances renew every third of it", o.Grace, o.TTL)
	}
	return o, nil
}

type discard struct{}

func (discard) Infof(string, ...any) {}
func (discard) Warnf(string, ...any) {}

// Client is a naming.Naming in Consul.
type Client struct {
	opts      Options
	api       *api.Client
	transport *http.Transport

	// ctx is of everything that runs in the background; wg counts it.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu            sync.Mutex
	closed        bool
	registrations map[string]*registration // by instance ID
}

var _ naming.Naming = (*Client)(nil)

// New returns a client of the agent. It does not talk to it yet: Consul may start later.
func New(opts Options) (*Client, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	config := api.DefaultConfig()
	if opts.Address != "" {
		config.Address = opts.Address
	}
	if opts.Token != "" {
		config.Token = opts.Token
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{
		opts: opts, api: client, transport: config.Transport, ctx: ctx, cancel: cancel,
		registrations: map[string]*registration{},
	}, nil
}

// Register implements naming.Naming.
func (c *Client) Register(ctx context.Context, i naming.Instance) error {
	if err := i.Validate(); err != nil {
		return err
	}
	if err := validMeta(i.Meta); err != nil {
		return err
	}
	ctx, cancel := c.within(ctx, visibleTimeout)
	defer cancel()
	r, err := c.registration(i.ID)
	if err != nil {
		return err
	}
	if err := r.put(ctx, i.Clone()); err != nil {
		return fmt.Errorf("register %s: %w", i.ID, err)
	}
	if err := c.awaitVisible(ctx, i); err != nil {
		return fmt.Errorf("register %s: %w", i.ID, err)
	}
	return nil
}

// registration returns that of the instance, making and keeping it if it is new.
func (c *Client) registration(id string) (*registration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, naming.ErrClosed
	}
	r := c.registrations[id]
	if r == nil {
		ctx, cancel := context.WithCancel(c.ctx)
		r = &registration{client: c, cancel: cancel, done: make(chan struct{})}
		c.registrations[id] = r
		c.wg.Go(func() { r.keep(ctx) })
	}
	return r, nil
}

// Deregister implements naming.Naming.
func (c *Client) Deregister(ctx context.Context, id string) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return naming.ErrClosed
	}
	r := c.registrations[id]
	delete(c.registrations, id)
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	<-r.done
	ctx, cancel := c.within(ctx, visibleTimeout)
	defer cancel()
	service, err := r.bury(ctx)
	if err != nil {
		return fmt.Errorf("deregister %s: %w", id, err)
	}
	if err := c.awaitGone(ctx, service, id); err != nil {
		return fmt.Errorf("deregister %s: %w", id, err)
	}
	return nil
}

// Find implements naming.Naming.
func (c *Client) Find(ctx context.Context, service string) ([]naming.Instance, error) {
	if c.ctx.Err() != nil {
		return nil, naming.ErrClosed
	}
	ctx, cancel := c.within(ctx, callTimeout)
	defer cancel()
	entries, _, err := c.query(ctx, service, &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", service, err)
	}
	var list []naming.Instance
	for _, e := range entries {
		if c.judge(e) == live {
			list = append(list, c.instance(e))
		}
	}
	sortByID(list)
	return list, nil
}

// Close implements naming.Naming.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.transport.CloseIdleConnections()
	return nil
}

// within bounds a caller's ctx by a time and by Close.
func (c *Client) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	unhook := context.AfterFunc(c.ctx, cancel)
	return ctx, func() {
		unhook()
		cancel()
	}
}

// query asks Consul's servers for all instances of a service, whatever their health. A token that
// may not see them all is an error: Consul says so in a header only, beside an empty list.
func (c *Client) query(ctx context.Context, service string, q *api.QueryOptions) ([]*api.ServiceEntry, *api.QueryMeta, error) {
	entries, meta, err := c.api.Health().Service(c.opts.Prefix+service, "", false, q.WithContext(ctx))
	if err == nil && meta.ResultsFilteredByACLs {
		err = errors.New("the ACL token may not read this service and its nodes")
	}
	return entries, meta, err
}

// awaitVisible waits until Consul's servers know the instance as it is: the agent tells them in the background.
func (c *Client) awaitVisible(ctx context.Context, want naming.Instance) error {
	return c.await(ctx, want.Service, func(entries []*api.ServiceEntry) bool {
		n := slices.IndexFunc(entries, func(e *api.ServiceEntry) bool { return e.Service.ID == want.ID })
		if n < 0 {
			return false
		}
		e := entries[n]
		ready := slices.ContainsFunc(e.Checks, func(check *api.HealthCheck) bool {
			return check.CheckID == readyCheck(want.ID) && check.Status == readyStatus(want.State)
		})
		return c.judge(e) == live && ready && c.instance(e).Equal(want)
	})
}

// awaitGone waits until Consul's servers do not know the instance as live.
func (c *Client) awaitGone(ctx context.Context, service, id string) error {
	return c.await(ctx, service, func(entries []*api.ServiceEntry) bool {
		return !slices.ContainsFunc(entries, func(e *api.ServiceEntry) bool {
			return e.Service.ID == id && c.judge(e) == live
		})
	})
}

// await asks for a service until the answer is the one waited for, or ctx ends.
func (c *Client) await(ctx context.Context, service string, ok func([]*api.ServiceEntry) bool) error {
	var index uint64
	for {
		entries, meta, err := c.query(ctx, service, &api.QueryOptions{RequireConsistent: true, WaitIndex: index})
		if err != nil {
			return fmt.Errorf("wait until Consul's servers have it: %w", err)
		}
		if ok(entries) {
			return nil
		}
		index = nextIndex(index, meta.LastIndex)
	}
}

// nextIndex is what to wait for after an answer: an index that went back means that Consul's state
// was lost, and 0 would not wait at all.
func nextIndex(last, got uint64) uint64 {
	if got < last {
		return 0
	}
	return max(got, 1)
}

// metaPrefix begins the keys under which the fields of an instance are kept that a service of
// Consul does not have.
const metaPrefix = "hermod-"

const (
	metaNode  = metaPrefix + "node"
	metaZone  = metaPrefix + "zone"
	metaState = metaPrefix + "state"
)

// stateGone is the state of a tombstone.
const stateGone naming.State = "gone"

func validMeta(meta map[string]string) error {
	for k := range meta {
		if strings.HasPrefix(k, metaPrefix) {
			return fmt.Errorf("%w: meta key %q begins with %s, which is reserved", naming.ErrInvalid, k, metaPrefix)
		}
	}
	return nil
}

// instance reads what service writes.
func (c *Client) instance(e *api.ServiceEntry) naming.Instance {
	i := naming.Instance{
		ID:      e.Service.ID,
		Service: strings.TrimPrefix(e.Service.Service, c.opts.Prefix),
		Address: net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port)),
		Meta:    map[string]string{},
	}
	for k, v := range e.Service.Meta {
		switch k {
		case metaNode:
			i.Node = v
		case metaZone:
			i.Zone = v
		case metaState:
			i.State = naming.State(v)
		default:
			i.Meta[k] = v
		}
	}
	return i
}

func sortByID(list []naming.Instance) {
	slices.SortFunc(list, func(a, b naming.Instance) int { return strings.Compare(a.ID, b.ID) })
}

// isAnswer reports whether the agent answered, and refused: asking again soon will not help.
func isAnswer(err error) bool {
	var status api.StatusError
	return errors.As(err, &status)
}
