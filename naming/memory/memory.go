// Package memory is a registry inside one process: for standalone, and for tests of several nodes.
package memory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hermod-im/hermod/naming"
)

// ErrDown: the registry was told to be out of reach.
var ErrDown = errors.New("naming: the registry is down")

// Registry is what the nodes of one process share. Each gets a Client of its own.
type Registry struct {
	mu        sync.Mutex
	down      bool
	instances map[string]entry // by instance ID
	subs      map[*subscription]struct{}
}

type entry struct {
	naming.Instance
	owner *Client
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{instances: map[string]entry{}, subs: map[*subscription]struct{}{}}
}

// Client returns the registry as one node sees it. There are no leases: what a client registered
// disappears when it is closed, as if its process had died.
func (r *Registry) Client() *Client { return &Client{registry: r} }

// SetDown puts the registry out of its clients' reach, or back, for tests: while it is down Find,
// Register and Deregister return ErrDown and no subscription is called.
func (r *Registry) SetDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	r.wakeLocked()
}

// wakeLocked makes every subscription look whether its list has changed.
func (r *Registry) wakeLocked() {
	for s := range r.subs {
		s.notify()
	}
}

// list returns the instances of a service, and false while the registry is down.
func (r *Registry) list(service string) ([]naming.Instance, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, false
	}
	var out []naming.Instance
	for _, e := range r.instances {
		if e.Service == service {
			out = append(out, e.Clone())
		}
	}
	slices.SortFunc(out, func(a, b naming.Instance) int { return strings.Compare(a.ID, b.ID) })
	return out, true
}

// Client is one node's naming.Naming.
type Client struct {
	registry *Registry
	closed   bool // guarded by registry.mu
}

var _ naming.Naming = (*Client)(nil)

// Register implements naming.Naming.
func (c *Client) Register(ctx context.Context, i naming.Instance) error {
	if err := errors.Join(ctx.Err(), i.Validate()); err != nil {
		return err
	}
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.closed {
		return naming.ErrClosed
	}
	r.instances[i.ID] = entry{Instance: i.Clone(), owner: c}
	r.wakeLocked()
	if r.down {
		return ErrDown // but the others will see it when it is up again, as the contract allows
	}
	return nil
}

// Deregister implements naming.Naming.
func (c *Client) Deregister(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.closed {
		return naming.ErrClosed
	}
	if r.instances[id].owner != c {
		return nil
	}
	delete(r.instances, id)
	r.wakeLocked()
	if r.down {
		return ErrDown
	}
	return nil
}

// Find implements naming.Naming.
func (c *Client) Find(ctx context.Context, service string) ([]naming.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.isClosed() {
		return nil, naming.ErrClosed
	}
	list, ok := c.registry.list(service)
	if !ok {
		return nil, ErrDown
	}
	return list, nil
}

// Subscribe implements naming.Naming.
func (c *Client) Subscribe(service string, f func([]naming.Instance)) (naming.Subscription, error) {
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.closed {
		return nil, naming.ErrClosed
	}
	s := &subscription{
		service: service, owner: c, f: f,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	r.subs[s] = struct{}{}
	s.notify()
	go s.run()
	return s, nil
}

// Unsubscribe implements naming.Naming.
func (c *Client) Unsubscribe(sub naming.Subscription) {
	s, ok := sub.(*subscription)
	if !ok || s.owner != c {
		return
	}
	c.registry.mu.Lock()
	c.registry.endLocked(s)
	c.registry.mu.Unlock()
	<-s.done
}

// endLocked tells a subscription to end.
func (r *Registry) endLocked(s *subscription) {
	if _, ok := r.subs[s]; ok {
		delete(r.subs, s)
		close(s.stop)
	}
}

// Close implements naming.Naming.
func (c *Client) Close() error {
	for _, s := range c.close() {
		<-s.done
	}
	return nil
}

// close drops what the client has in the registry and returns the subscriptions that are ending.
func (c *Client) close() []*subscription {
	r := c.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	c.closed = true
	maps.DeleteFunc(r.instances, func(_ string, e entry) bool { return e.owner == c })
	var ending []*subscription
	for s := range r.subs {
		if s.owner == c {
			ending = append(ending, s)
			r.endLocked(s)
		}
	}
	r.wakeLocked()
	return ending
}

func (c *Client) isClosed() bool {
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	return c.closed
}

// subscription is one goroutine that compares and calls.
type subscription struct {
	service string
	owner   *Client
	f       func([]naming.Instance)
	wake    chan struct{} // capacity 1
	stop    chan struct{}
	done    chan struct{}
}

// Service implements naming.Subscription.
func (s *subscription) Service() string { return s.service }

func (s *subscription) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) run() {
	defer close(s.done)
	var last []naming.Instance
	for first := true; ; {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		list, ok := s.owner.registry.list(s.service)
		if !ok || !first && slices.EqualFunc(list, last, naming.Instance.Equal) {
			continue
		}
		select {
		case <-s.stop:
			return
		default:
		}
		first, last = false, clone(list)
		s.f(list)
	}
}

// clone copies a list whose original is given away.
func clone(list []naming.Instance) []naming.Instance {
	out := make([]naming.Instance, len(list))
	for n, i := range list {
		out[n] = i.Clone()
	}
	return out
}
