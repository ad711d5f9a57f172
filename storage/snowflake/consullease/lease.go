// Package consullease leases snowflake node numbers in HashiCorp's Consul.
//
// A number is a key, <prefix>/<number>, held by a Consul session. Its value is the high mark: the
// time up to which the holder may issue ids. Two things make ids unique (I10), and either would do:
// the lock, which one session holds at a time, and the mark, which is raised before ids up to it
// are issued and which a new holder's clock must have passed. So a node that was stopped, cut off
// or suspended and does not know yet that its lease is over cannot issue an id that its successor
// issues too. The key is never deleted: with it the mark would be forgotten.
package consullease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
)

const (
	// DefaultPrefix of the keys.
	DefaultPrefix = "hermod/snowflake"
	// DefaultTTL of the session. Consul ends it after that time without a renewal, or up to twice as late. Long,
	// because a node that cannot reach Consul makes ids for as long as its lease surely lasts; the number of one
	// that died is missed by nobody, there being so many.
	DefaultTTL = 10 * time.Minute
	// minTTL is Consul's lower bound.
	minTTL = 10 * time.Second
	// DefaultAhead is how far the mark is kept ahead of the clock: no id is made beyond it without Consul.
	DefaultAhead = 10 * time.Minute
	// renewEvery is the longest time between two renewals, however long the TTL.
	renewEvery = 5 * time.Second

	// callTimeout bounds one call of the agent.
	callTimeout = 3 * time.Second
	// maxWait is the longest time between two attempts to get a number.
	maxWait = 5 * time.Second
)

// Options of a lease. The zero value talks to the agent that Consul's own environment variables
// name, or to 127.0.0.1:8500.
type Options struct {
	// Address of the agent: host:port, or a URL. Defaults to Consul's environment variables.
	Address string
	// Token is the ACL token: session:write, and key:write under the prefix. Defaults to Consul's environment variables.
	Token string
	// Prefix of the keys. Defaults to DefaultPrefix. Clusters that share a database share it too.
	Prefix string
	// Name is this node's, for people who look into Consul.
	Name string
	// TTL of the session. Defaults to DefaultTTL; at least 10 s.
	TTL time.Duration
	// LockDelay is how long Consul keeps a number from others whose session it had to end. Defaults to Consul's 15 s.
	LockDelay time.Duration
	// Ahead is how far the mark is kept ahead of the clock; more than 5 s and than a third of the TTL, the lesser of
	// which is between two renewals. Defaults to DefaultAhead.
	Ahead time.Duration
	// Numbers is how many there are to choose from: 0 to Numbers-1. Defaults to all 1,024.
	Numbers int64
	// Now is the wall clock that the marks are compared with; it is read once, and followed by the monotonic
	// clock. Defaults to time.Now.
	Now func() time.Time
	// OnChange hears when the lease is held (true) and lost (false), from one goroutine. May be nil.
	OnChange func(held bool)
	// Logf hears why, a line at a time. May be nil.
	Logf func(format string, args ...any)

	// What tests set: the clock, in Unix milliseconds and monotonic; the time between two renewals; and how long the
	// session surely lives after a renewal was sent.
	clock    func() int64
	interval time.Duration
	lifetime time.Duration
}

func (o Options) withDefaults() (Options, error) {
	o.Prefix = cmp.Or(strings.Trim(o.Prefix, "/"), DefaultPrefix)
	o.TTL = cmp.Or(o.TTL, DefaultTTL)
	o.Ahead = cmp.Or(o.Ahead, DefaultAhead)
	o.Numbers = cmp.Or(o.Numbers, snowflake.MaxNode+1)
	o.interval = cmp.Or(o.interval, min(o.TTL/3, renewEvery))
	o.lifetime = cmp.Or(o.lifetime, o.TTL-o.TTL/5)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.clock == nil {
		wall, start := o.Now().UnixMilli(), time.Now()
		o.clock = func() int64 { return wall + time.Since(start).Milliseconds() }
	}
	if o.OnChange == nil {
		o.OnChange = func(bool) {}
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	switch {
	case o.TTL < minTTL:
		return o, fmt.Errorf("consullease: TTL %v is below %v", o.TTL, minTTL)
	case o.Ahead <= min(o.TTL/3, renewEvery):
		return o, fmt.Errorf("consullease: Ahead %v is not above the time between renewals, %v", o.Ahead, min(o.TTL/3, renewEvery))
	case o.Numbers < 1 || o.Numbers > snowflake.MaxNode+1:
		return o, fmt.Errorf("consullease: %d numbers are not 1 to %d", o.Numbers, snowflake.MaxNode+1)
	}
	return o, nil
}

// Lease is a snowflake.Lease in Consul. It gets a number, keeps it, and gets one again when it was
// lost, until Close. Safe for concurrent use.
type Lease struct {
	opts      Options
	client    *api.Client
	transport *http.Transport
	held      atomic.Pointer[held] // nil while no number is ours
	raising   sync.Mutex           // one raise at a time

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when held changes
	err     error         // why there is no number

	last int64 // number that was ours, or -1; owned by run
	stop context.CancelFunc
	done chan struct{}
}

var _ snowflake.Lease = (*Lease)(nil)

// held is a number that is ours.
type held struct {
	session string
	grant   snowflake.Grant
	// end is when the session may be over, with a margin, by our own monotonic clock.
	end time.Time
}

// mark is the value of a number's key.
type mark struct {
	// Until is the high mark in Unix milliseconds.
	Until int64 `json:"until"`
	// Node is who set it, for people.
	Node string `json:"node,omitempty"`
}

// New starts to lease a number. It does not wait for it: see Wait.
func New(o Options) (*Lease, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	cfg := api.DefaultConfig()
	cfg.Address = cmp.Or(o.Address, cfg.Address)
	cfg.Token = cmp.Or(o.Token, cfg.Token)
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("consullease: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Lease{
		opts:      o,
		client:    client,
		transport: cfg.Transport,
		changed:   make(chan struct{}),
		err:       errors.New("not asked for yet"),
		last:      -1,
		stop:      stop,
		done:      make(chan struct{}),
	}
	go l.run(ctx)
	return l, nil
}

// Grant implements snowflake.Lease.
func (l *Lease) Grant() (snowflake.Grant, error) {
	if h := l.held.Load(); h != nil && time.Now().Before(h.end) {
		return h.grant, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return snowflake.Grant{}, fmt.Errorf("%w (%v)", storage.ErrNoLease, l.err)
}

// Extend implements snowflake.Lease.
func (l *Lease) Extend(until int64) (snowflake.Grant, error) {
	if _, err := l.Grant(); err != nil {
		return snowflake.Grant{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := l.raise(ctx, until+l.opts.Ahead.Milliseconds()); err != nil {
		return snowflake.Grant{}, fmt.Errorf("%w (%w)", storage.ErrNoLease, err)
	}
	return l.Grant()
}

// Wait returns when a number is held, or with ctx's error and what kept us from it.
func (l *Lease) Wait(ctx context.Context) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if _, err := l.Grant(); err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			_, err := l.Grant()
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Close gives the number back. Its mark stays: the number rests until the clock has passed it.
func (l *Lease) Close() error {
	l.stop()
	<-l.done
	return nil
}

// run holds one number after the other.
func (l *Lease) run(ctx context.Context) {
	defer close(l.done)
	defer l.transport.CloseIdleConnections()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, maxWait
	for ctx.Err() == nil {
		h, err := l.acquire(ctx)
		if err == nil {
			wait.Reset()
			l.publish(h, nil)
			err = l.hold(ctx, h.session)
			l.publish(nil, err)
			l.destroy(ctx, h.session)
			continue
		}
		l.publish(nil, err)
		pause := wait.NextBackOff()
		var ahead *aheadError
		if errors.As(err, &ahead) {
			pause = min(ahead.wait, maxWait)
		}
		sleep(ctx, pause)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// publish makes h what Grant returns, or err why there is nothing, and tells who waits.
func (l *Lease) publish(h *held, err error) {
	before := l.held.Swap(h)
	l.mu.Lock()
	said := l.err
	l.err = err
	if (h == nil) != (before == nil) {
		close(l.changed)
		l.changed = make(chan struct{})
	}
	l.mu.Unlock()
	switch {
	case h != nil && before == nil:
		l.opts.Logf("snowflake: node number %d is ours", h.grant.Number)
		l.opts.OnChange(true)
	case h == nil && before != nil && errors.Is(err, errClosed):
		l.opts.Logf("snowflake: node number %d is given back", before.grant.Number)
		l.opts.OnChange(false)
	case h == nil && before != nil:
		l.opts.Logf("snowflake: node number %d is lost, no ids until there is one again: %v", before.grant.Number, err)
		l.opts.OnChange(false)
	case h == nil && (said == nil || said.Error() != err.Error()):
		l.opts.Logf("snowflake: no node number yet: %v", err)
	}
}

// aheadError: numbers are free, but our clock is behind the marks of all of them.
type aheadError struct{ wait time.Duration }

func (e *aheadError) Error() string {
	return fmt.Sprintf("the clock is %v behind the last ids of every free node number", e.wait)
}

// candidate is a number that no session holds.
type candidate struct {
	number int64
	index  uint64 // of the key's last change; 0: there is no key
	mark   int64
}

// acquire gets a number with a new session.
func (l *Lease) acquire(ctx context.Context) (*held, error) {
	asked := time.Now()
	session, err := l.createSession(ctx)
	if err != nil {
		return nil, fmt.Errorf("create session: %w", err)
	}
	h, err := l.acquireWith(ctx, session)
	if err != nil {
		l.destroy(ctx, session)
		return nil, err
	}
	h.end = asked.Add(l.opts.lifetime)
	return h, nil
}

func (l *Lease) createSession(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// No checks: the session must not end before its TTL.
	id, _, err := l.client.Session().CreateNoChecks(&api.SessionEntry{
		Name:      strings.TrimSpace("hermod snowflake " + l.opts.Name),
		TTL:       l.opts.TTL.String(),
		LockDelay: l.opts.LockDelay,
		Behavior:  api.SessionBehaviorRelease,
	}, new(api.WriteOptions).WithContext(ctx))
	return id, err
}

// destroy releases the number now; Consul does it by itself if this fails.
func (l *Lease) destroy(ctx context.Context, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if _, err := l.client.Session().Destroy(session, new(api.WriteOptions).WithContext(ctx)); err != nil {
		l.opts.Logf("snowflake: destroy session: %v", err)
	}
}

func (l *Lease) acquireWith(ctx context.Context, session string) (*held, error) {
	candidates, err := l.free(ctx)
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		return nil, fmt.Errorf("all %d node numbers are taken", l.opts.Numbers)
	}
	now := l.opts.clock()
	for _, c := range candidates {
		if c.mark > now {
			return nil, &aheadError{wait: time.Duration(c.mark-now+1) * time.Millisecond}
		}
		until := now + l.opts.Ahead.Milliseconds()
		ok, err := l.lock(ctx, session, c, until)
		if err != nil {
			return nil, fmt.Errorf("lock number %d: %w", c.number, err)
		}
		if ok {
			l.last = c.number
			return &held{session: session, grant: snowflake.Grant{Number: c.number, After: c.mark, Until: until}}, nil
		}
	}
	return nil, errors.New("every free node number was taken meanwhile, or rests after its session's end")
}

// free returns the numbers that no session holds: first those whose mark the clock has passed, our
// last one before others and used ones before new ones, then the others by their marks.
func (l *Lease) free(ctx context.Context) ([]candidate, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pairs, _, err := l.client.KV().List(l.opts.Prefix+"/", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list numbers: %w", err)
	}
	known := make(map[int64]bool)
	var out []candidate
	for _, pair := range pairs {
		number, err := strconv.ParseInt(strings.TrimPrefix(pair.Key, l.opts.Prefix+"/"), 10, 64)
		if err != nil || number < 0 || number >= l.opts.Numbers {
			continue
		}
		known[number] = true
		var m mark
		if err := json.Unmarshal(pair.Value, &m); err != nil {
			l.opts.Logf("snowflake: %s is not a mark, so its number is not used: %v", pair.Key, err)
			continue
		}
		if pair.Session == "" {
			out = append(out, candidate{number: number, index: pair.ModifyIndex, mark: m.Until})
		}
	}
	for number := range l.opts.Numbers {
		if !known[number] {
			out = append(out, candidate{number: number})
		}
	}
	now := l.opts.clock()
	rank := func(c candidate) int64 {
		switch {
		case c.mark > now:
			return c.mark
		case c.number == l.last:
			return 0
		case c.index != 0:
			return 1
		default:
			return 2
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(rank(a), rank(b)) })
	return out, nil
}

// lock takes the number if its key is as it was read, so that no mark is lost.
func (l *Lease) lock(ctx context.Context, session string, c candidate, until int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	check := &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: l.key(c.number)}
	if c.index != 0 {
		check = &api.KVTxnOp{Verb: api.KVCheckIndex, Key: l.key(c.number), Index: c.index}
	}
	ok, _, _, err := l.client.Txn().Txn(api.TxnOps{
		{KV: check},
		{KV: &api.KVTxnOp{Verb: api.KVLock, Key: l.key(c.number), Value: l.value(until), Session: session}},
	}, new(api.QueryOptions).WithContext(ctx))
	return ok, err
}

func (l *Lease) key(number int64) string { return l.opts.Prefix + "/" + strconv.FormatInt(number, 10) }

func (l *Lease) value(until int64) []byte {
	value, err := json.Marshal(mark{Until: until, Node: l.opts.Name})
	if err != nil {
		panic(err) // an integer and a string
	}
	return value
}

var (
	// errLost: Consul says that the session or the lock is gone.
	errLost = errors.New("the lease has been ended in Consul")
	// errClosed: Close was called.
	errClosed = errors.New("closed")
)

// hold renews until the lease is lost, and says why. Renewals are more frequent while they fail.
func (l *Lease) hold(ctx context.Context, session string) error {
	var failure error
	for {
		h := l.held.Load()
		pause := l.opts.interval
		if failure != nil {
			pause /= 5
		}
		sleep(ctx, min(pause, time.Until(h.end)))
		switch {
		case ctx.Err() != nil:
			return errClosed
		case !time.Now().Before(h.end):
			return fmt.Errorf("not renewed in time: %w", failure)
		}
		if failure = l.renew(ctx, session, h.end); errors.Is(failure, errLost) {
			return failure
		}
	}
}

// renew renews the session and raises the mark, giving up when the lease ends.
func (l *Lease) renew(ctx context.Context, session string, end time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	ctx, cancelCall := context.WithTimeout(ctx, callTimeout)
	defer cancelCall()
	sent := time.Now()
	entry, _, err := l.client.Session().Renew(session, new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("renew session: %w", err)
	}
	if entry == nil {
		return errLost
	}
	l.raising.Lock()
	renewed := *l.held.Load()
	renewed.end = sent.Add(l.opts.lifetime)
	l.held.Store(&renewed)
	l.raising.Unlock()
	return l.raise(ctx, l.opts.clock()+l.opts.Ahead.Milliseconds())
}

// raise raises the mark, which Consul takes from the holder of the lock only.
func (l *Lease) raise(ctx context.Context, until int64) error {
	l.raising.Lock()
	defer l.raising.Unlock()
	h := l.held.Load()
	if h == nil {
		return errLost
	}
	if h.grant.Until >= until {
		return nil
	}
	ok, _, err := l.client.KV().Acquire(&api.KVPair{
		Key: l.key(h.grant.Number), Value: l.value(until), Session: h.session,
	}, new(api.WriteOptions).WithContext(ctx))
	switch {
	case err != nil && strings.Contains(err.Error(), "invalid session"):
		return errLost
	case err != nil:
		return fmt.Errorf("raise mark: %w", err)
	case !ok:
		return errLost
	}
	raised := *h
	raised.grant.Until = until
	if !l.held.CompareAndSwap(h, &raised) {
		return errLost // given up meanwhile
	}
	return nil
}
