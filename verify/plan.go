package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

const (
	// backoffMax is the default of Options.BackoffMax: the protocol's.
	backoffMax = client.DefaultBackoffMax
	// lateShare of the accounts open their last device later, by lateMax at most.
	lateShare = 0.1
	lateMax   = 30 * time.Second
	// plainEvery: the last device of every so many accounts is a plain one.
	plainEvery = 4
	// badBackoff is Options.BackoffMax of devices with a bad line: they would be off line most of the time.
	badBackoff = 2 * time.Second
	// maxGroup bounds all groups but the first, which half of the accounts belong to.
	maxGroup = 60
	// pairShare of the messages are in conversations of two.
	pairShare = 0.5
)

// makeTopics plans conversations of two and groups, and creates the groups.
func (r *Run) makeTopics(ctx context.Context, rng *rand.Rand) error {
	met := map[[2]int]bool{}
	for a := range r.accounts {
		b := (a + 1 + rng.IntN(len(r.accounts)-1)) % len(r.accounts)
		if pair := [2]int{min(a, b), max(a, b)}; !met[pair] {
			met[pair] = true
			name := r.accounts[a].name + " and " + r.accounts[b].name
			r.topics = append(r.topics, topic{number: r.oracle.Topic(name, "", a, b), members: []int{a, b}, weight: 1})
		}
	}
	weigh(r.topics, pairShare)
	groups := make([]topic, r.o.Groups)
	for i := range groups {
		size := min(3+int(rng.ExpFloat64()*8), maxGroup, len(r.accounts))
		if i == 0 {
			size = max(3, len(r.accounts)/2)
		}
		groups[i].members = rng.Perm(len(r.accounts))[:size]
		groups[i].weight = 1 / math.Sqrt(float64(size)) // the large ones are not all of the load
	}
	if err := r.createGroups(ctx, groups); err != nil {
		return err
	}
	weigh(groups, 1-pairShare)
	r.topics = append(r.topics, groups...)
	sum := 0.0
	for i := range r.topics {
		sum += r.topics[i].weight
		r.topics[i].weight = sum
	}
	return nil
}

// weigh scales weights to a sum.
func weigh(topics []topic, total float64) {
	sum := 0.0
	for i := range topics {
		sum += topics[i].weight
	}
	for i := range topics {
		topics[i].weight *= total / sum
	}
}

// createGroups creates them all, some at a time.
func (r *Run) createGroups(ctx context.Context, groups []topic) error {
	err := parallel(len(groups), 8, func(i int) error {
		id, err := r.createGroup(ctx, i, groups[i].members)
		groups[i].group = id
		return err
	})
	for i := range groups {
		g := &groups[i]
		g.number = r.oracle.Topic(fmt.Sprintf("group %d (%s)", i, g.group), g.group, g.members...)
	}
	return err
}

func (r *Run) createGroup(ctx context.Context, i int, members []int) (id string, err error) {
	var names []string
	for _, m := range members[1:] {
		names = append(names, r.accounts[m].name)
	}
	err = r.visit(ctx, members[0], fmt.Sprint("founder", i), func(c *oldclient.Client) error {
		id, err = c.CreateGroup(fmt.Sprintf("%s %d", r.Name, i), names...)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("verify: create a group: %w", err)
	}
	return id, nil
}

// visit is an account's errand, on a connection of its own.
func (r *Run) visit(ctx context.Context, account int, device string, errand func(c *oldclient.Client) error) error {
	g := &gateways{o: &r.o, token: r.accounts[account].token, router: r.o.Router != "", rng: rand.New(rand.NewPCG(r.Seed, uint64(account)))}
	url, err := g.pick(ctx)
	if err != nil {
		return err
	}
	c, err := oldclient.Dial(url)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // done with it
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := c.LoginAs(r.accounts[account].token, oldclient.Device{Name: device, Platform: "verify"}); err != nil {
		return err
	}
	return errand(c)
}

// parallel does n things, some at a time, and returns an error of one of them.
func parallel(n, atOnce int, do func(i int) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	next := make(chan int)
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	if len(errs) > 3 {
		errs = append(errs[:3:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// makeDevices plans the devices of all accounts.
func (r *Run) makeDevices(rng *rand.Rand) error {
	for a := range r.accounts {
		normal, plainHabit := r.o.Devices, behaves
		if rng.Float64() < r.o.Hostile.Drop {
			plainHabit = drops
			if err := r.addSDK(a, "drop", true); err != nil {
				return err
			}
		}
		if rng.Float64() < r.o.OldClients {
			r.addPlain(a, "", oracle.IDs, plainHabit)
			if normal--; a%2 == 0 {
				normal = 0
			}
		}
		for i := range normal {
			if i == normal-1 && a%plainEvery == 0 {
				r.addPlain(a, "plain", oracle.Seqs, plainHabit)
				continue
			}
			if err := r.addSDK(a, fmt.Sprintf("sdk%d", i), false); err != nil {
				return err
			}
			if i > 0 && i == normal-1 && rng.Float64() < lateShare {
				late := r.devices[len(r.devices)-1]
				late.late = time.Second + time.Duration(rng.Int64N(int64(lateMax)))
				late.oracle.Steady = false
			}
		}
		if rng.Float64() < r.o.Hostile.Resend {
			r.addPlain(a, "resend", oracle.Seqs, resends)
		}
		if rng.Float64() < r.o.Hostile.Deaf {
			r.addPlain(a, "deaf", oracle.Seqs, deafens)
		}
		if rng.Float64() < r.o.Hostile.Flap {
			r.addPlain(a, "flap", oracle.Seqs, flaps)
		}
	}
	return nil
}

// gatewaysOf are those of the device that comes next.
func (r *Run) gatewaysOf(account int, rng *rand.Rand) *gateways {
	i := len(r.devices)
	return &gateways{
		o: &r.o, token: r.accounts[account].token, rng: rng,
		tcp:    rng.IntN(2) == 0 && r.tcp || !r.ws,
		router: r.o.Router != "" && (len(r.o.URLs) == 0 || i%2 == 0),
	}
}

func (r *Run) deviceRandom() *rand.Rand { return r.random(streamDevices + 2*len(r.devices)) }

// addSDK adds a device with the SDK. One with a bad line restarts its application, too.
func (r *Run) addSDK(a int, name string, bad bool) error {
	rng := r.deviceRandom()
	g := r.gatewaysOf(a, rng)
	s := &sdkDevice{
		device: &oracle.Device{Account: a, Name: name, Steady: !bad},
		oracle: r.oracle,
		queues: bad || rng.IntN(2) == 0,
		calm:   r.calm.Load,
		opts: client.Options{
			Token: client.StaticToken(r.accounts[a].token), Platform: "verify", EchoOwn: bad || rng.IntN(2) == 0,
			Heartbeat: heartbeat, BackoffMax: r.o.BackoffMax,
		},
	}
	d := &device{actor: s, oracle: s.device}
	switch {
	case bad:
		if err := r.spoil(d, s, g); err != nil {
			return err
		}
	case g.router && !g.tcp:
		s.opts.Router = r.o.Router
	default:
		s.opts.Router = r.directory.add(g.pick)
	}
	if err := s.begin(); err != nil {
		return err
	}
	r.add(d, true)
	return nil
}

// spoil gives a device a bad line.
func (r *Run) spoil(d *device, s *sdkDevice, g *gateways) (err error) {
	if r.secure() {
		return errors.New("verify: Hostile.Drop needs gateways without TLS")
	}
	scheme := "ws"
	if g.tcp {
		scheme = "tcp"
	}
	rng := r.random(streamDevices + 2*len(r.devices) + 1)
	restarts := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())) // of another goroutine
	s.restartAfter = func() time.Duration { return time.Duration(restarts.ExpFloat64() * float64(restartMean)) }
	if d.relay, err = newRelay(scheme, g.pick, r.calm.Load, rng); err != nil {
		return err
	}
	s.opts.Router = r.directory.add(d.relay.url)
	s.opts.BackoffMax = min(s.opts.BackoffMax, badBackoff)
	return nil
}

// secure: some gateway has TLS. Routers' are known only when they are asked.
func (r *Run) secure() bool {
	for _, u := range r.o.URLs {
		if strings.HasPrefix(u, "wss") || strings.HasPrefix(u, "tls") {
			return true
		}
	}
	return false
}

func (r *Run) addPlain(a int, name string, kind oracle.Kind, h habit) {
	rng := r.deviceRandom()
	d := &device{oracle: &oracle.Device{Account: a, Name: name, Kind: kind, Steady: h == behaves}}
	p := &plainDevice{
		device: d.oracle, oracle: r.oracle, token: r.accounts[a].token, gateways: r.gatewaysOf(a, rng), habit: h, calm: r.calm.Load,
		ping: heartbeat, backoff: r.o.BackoffMax, rng: r.random(streamDevices + 2*len(r.devices) + 1),
		work: make(chan outgoing, plainQueue), up: make(chan struct{}),
	}
	if kind == oracle.IDs {
		d.oracle.Name = "old"
		p.inbox = newIDInbox(d.oracle, r.oracle)
	} else {
		p.login = oldclient.Device{Name: name, Platform: "verify", Features: []string{oldclient.FeatureSync}, Instance: r.Name + name}
		p.inbox = newSeqInbox(d.oracle, r.oracle)
	}
	d.actor = p
	r.add(d, h != deafens && h != flaps)
}

func (r *Run) add(d *device, sends bool) {
	r.devices = append(r.devices, d)
	if sends {
		a := &r.accounts[d.oracle.Account]
		a.senders = append(a.senders, d)
	}
}
