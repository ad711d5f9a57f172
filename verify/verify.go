package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/wire/token"
)

// Options of a run. One of URLs and Router is needed, and Secret; the rest has defaults.
type Options struct {
	// URLs of gateways: ws://, wss://, tcp:// and tls://. With Router, every second device uses them
	// and the others ask the router.
	URLs []string
	// Router is the base URL of the router. May be empty.
	Router string
	// Secret signs the accounts' tokens: that of the cluster.
	Secret []byte
	// App is the tenant. Defaults to "default". The accounts are new ones in every run.
	App string
	// Accounts, Groups and Devices of each account. Default to 200, 50 and 3.
	Accounts, Groups, Devices int
	// OldClients is the share of accounts on which a client of the fixed protocol is on line. 0 is none.
	OldClients float64
	// Rate is messages sent per second by all together. Defaults to 200.
	Rate float64
	// Hostile is how many misbehave. The zero value is nobody.
	Hostile Hostile
	// Seed of every random choice. 0 takes one from the clock; Run.Seed says which.
	Seed uint64
	// DSN of the cluster's MySQL database, read to compare. Empty: what is stored is asked for with chat.history.
	DSN string
	// BackoffMax is the largest ceiling of the random wait between connections. Defaults to the SDK's.
	BackoffMax time.Duration
	// Log says what happens, in lines without an end. May be nil.
	Log func(format string, args ...any)
}

// Hostile are shares of the accounts, 0 to 1, that have one more device, which misbehaves. While a
// row settles they behave, and must have everything as all others do.
type Hostile struct {
	// Drop loses its connection at any byte, every few seconds, and reconnects elsewhere. Now and then
	// its application restarts, with the cursors and the outbox that it has kept. The account's plain
	// and old clients hang up as often.
	Drop float64
	// Resend sends everything again, after each login and in between.
	Resend float64
	// Deaf reads nothing for a while.
	Deaf float64
	// Flap connects, logs in and hangs up 10 times a second.
	Flap float64
}

const (
	// heartbeat is the interval of pings: shorter than the protocol's, for a run is short.
	heartbeat = 10 * time.Second
	// loginsAtOnce bounds the logins under way when a run starts.
	loginsAtOnce = 32
	// startWait bounds Start where its context has no end.
	startWait = 2 * time.Minute
	// tokenLife is how long a run can last.
	tokenLife = 48 * time.Hour
)

// Run is a workload under way. Its methods belong to one goroutine.
type Run struct {
	// Seed is that of the run, and Name is in the names of its accounts.
	Seed uint64
	Name string

	// Static after Start.
	o         Options
	oracle    *oracle.Oracle
	accounts  []account
	topics    []topic
	devices   []*device
	ws, tcp   bool // which transports there are
	directory *directory
	ledger    ledger
	cancel    context.CancelFunc
	ctx       context.Context //nolint:containedctx // the run's life
	working   sync.WaitGroup

	// calm: nobody is to misbehave.
	calm atomic.Bool
	// speaking is held while a message is begun, changing while a membership changes or a late device
	// is opened: who settles holds both.
	speaking, changing sync.Mutex

	row   row
	rows  []Row
	ended bool
}

type account struct {
	name, token string
	senders     []*device
}

// topic is a conversation in which is talked.
type topic struct {
	number  int
	group   string // "" for a conversation of two
	members []int
	weight  float64
}

// outgoing is a message to be sent.
type outgoing struct {
	n              int
	group          bool
	dest           string
	body, clientID string
}

// actor is what a device is: an SDK's or a plain one.
type actor interface {
	run(ctx context.Context)
	// online is closed when it is on line for the first time.
	online() <-chan struct{}
	// free says whether it takes a message to send.
	free() bool
	say(ctx context.Context, m outgoing)
}

type device struct {
	actor
	oracle *oracle.Device
	relay  *relay        // of a bad line; nil
	late   time.Duration // opened so much later
	opened atomic.Bool
}

// Start connects everybody, creates the groups and starts sending. It returns when all are on line,
// but for some devices that are opened later. The run ends with Finish, or with ctx.
func Start(ctx context.Context, o Options) (*Run, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Run{Seed: o.Seed, Name: fmt.Sprintf("v%x", time.Now().UnixMilli()), o: o}
	r.ctx, r.cancel = context.WithCancel(ctx)
	if err := r.start(ctx); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (o Options) withDefaults() (Options, error) {
	if len(o.URLs) == 0 && o.Router == "" {
		return o, errors.New("verify: give the router's URL, or those of gateways")
	}
	if len(o.Secret) == 0 {
		return o, errors.New("verify: the secret is missing")
	}
	o.App = cmp.Or(o.App, "default")
	o.Accounts, o.Groups, o.Devices = cmp.Or(o.Accounts, 200), cmp.Or(o.Groups, 50), cmp.Or(o.Devices, 3)
	if o.Accounts < 4 || o.Groups < 0 || o.Devices < 1 || o.Rate < 0 {
		return o, errors.New("verify: at least 4 accounts and one device are needed")
	}
	o.Rate = cmp.Or(o.Rate, 200)
	o.BackoffMax = cmp.Or(o.BackoffMax, backoffMax)
	o.Seed = cmp.Or(o.Seed, uint64(time.Now().UnixNano()))
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o, nil
}

// The streams of random numbers, each of which one goroutine draws from.
const (
	streamPlan = iota
	streamTalk
	streamChurn
	streamDevices // and beyond: each device has two
)

func (r *Run) random(stream int) *rand.Rand { return rand.New(rand.NewPCG(r.Seed, uint64(stream))) }

func (r *Run) start(ctx context.Context) (err error) {
	ctx, cancel := bounded(ctx, startWait)
	defer cancel()
	r.o.Log("run %s, seed %d", r.Name, r.Seed)
	if err := r.makeAccounts(); err != nil {
		return err
	}
	if r.directory, err = newDirectory(); err != nil {
		return err
	}
	if r.ledger, err = r.openLedger(); err != nil {
		return err
	}
	if err := r.findTransports(ctx); err != nil {
		return err
	}
	rng := r.random(streamPlan)
	if err := r.makeTopics(ctx, rng); err != nil {
		return err
	}
	if err := r.makeDevices(rng); err != nil {
		return err
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	r.row.began = time.Now()
	r.working.Go(r.talk)
	r.working.Go(r.churn)
	return nil
}

func (r *Run) makeAccounts() error {
	var names []string
	for i := range r.o.Accounts {
		a := account{name: fmt.Sprintf("%s-%03d", r.Name, i)}
		var err error
		a.token, err = token.Issue(r.o.Secret, token.Claims{Account: a.name, App: r.o.App, Expires: time.Now().Add(tokenLife)})
		if err != nil {
			return err
		}
		r.accounts = append(r.accounts, a)
		names = append(names, a.name)
	}
	r.oracle = oracle.New(r.Name, names)
	return nil
}

// open brings all devices on line, but for the late ones.
func (r *Run) open(ctx context.Context) error {
	for chunk := range slices.Chunk(r.devices, loginsAtOnce) {
		for _, d := range chunk {
			if d.late == 0 {
				r.openDevice(d)
				continue
			}
			r.working.Go(func() {
				pause(r.ctx, d.late)
				r.changing.Lock() // waits while a row settles: what it has not synced yet would be lost
				defer r.changing.Unlock()
				if r.ctx.Err() == nil {
					r.openDevice(d)
				}
			})
		}
		for _, d := range chunk {
			if d.late > 0 {
				continue
			}
			select {
			case <-d.online():
			case <-ctx.Done():
				return fmt.Errorf("verify: %s of %s does not come on line: %w", d.oracle.Name, r.accounts[d.oracle.Account].name, ctx.Err())
			}
		}
	}
	r.o.Log("%d devices of %d accounts, %d conversations", len(r.devices), len(r.accounts), len(r.topics))
	return nil
}

func (r *Run) openDevice(d *device) {
	r.oracle.Open(d.oracle)
	if d.relay != nil {
		r.working.Go(func() { d.relay.run(r.ctx) })
	}
	r.working.Go(func() { d.run(r.ctx) })
	d.opened.Store(true)
}

// GoesOn waits until so many more messages were answered: the cluster works, or works again.
func (r *Run) GoesOn(ctx context.Context, messages int) error {
	for goal := r.oracle.Acked() + int64(messages); r.oracle.Acked() < goal; pause(ctx, pollWait) {
		if err := errors.Join(ctx.Err(), r.ctx.Err()); err != nil {
			return fmt.Errorf("verify: %d more messages were not answered: %w", messages, err)
		}
	}
	return nil
}

// stop ends everything that runs.
func (r *Run) stop() {
	r.cancel()
	r.working.Wait()
	if r.directory != nil {
		r.directory.close()
	}
	if r.ledger != nil {
		r.ledger.close()
	}
}

// talk sends at the rate, until the run ends.
func (r *Run) talk() {
	const tick = 5 * time.Millisecond
	rng := r.random(streamTalk)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for last, owed := time.Now(), 0.0; ; {
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		}
		r.speaking.Lock() // waits while a row settles
		now := time.Now()
		owed = min(owed+r.o.Rate*now.Sub(last).Seconds(), max(1, r.o.Rate/4)) // what was missed is not made up for
		for last = now; owed >= 1; owed-- {
			r.speak(rng)
		}
		r.speaking.Unlock()
	}
}

// speak begins one message, of any device of a member of any topic. If that one has enough to do,
// nothing is said.
func (r *Run) speak(rng *rand.Rand) {
	t := &r.topics[pickWeighted(rng, r.topics)]
	from := t.members[rng.IntN(len(t.members))]
	senders := r.accounts[from].senders
	d := senders[rng.IntN(len(senders))]
	if !d.opened.Load() || !d.free() {
		return
	}
	m := outgoing{group: t.group != "", dest: t.group}
	if !m.group {
		other := t.members[0]
		if other == from {
			other = t.members[1]
		}
		m.dest = r.accounts[other].name
	}
	m.n, m.body, m.clientID = r.oracle.Send(t.number, from, d.oracle.Kind == oracle.IDs)
	d.say(r.ctx, m)
}

func pickWeighted(rng *rand.Rand, topics []topic) int {
	x := rng.Float64() * topics[len(topics)-1].weight // cumulative
	i, _ := slices.BinarySearchFunc(topics, x, func(t topic, x float64) int { return cmp.Compare(t.weight, x) })
	return min(i, len(topics)-1)
}

// bounded gives a context an end if it has none.
func bounded(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, wait)
}
