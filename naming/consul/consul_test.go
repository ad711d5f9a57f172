package consul_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/consul"
	"github.com/hermod-im/hermod/naming/namingtest"
	"github.com/hermod-im/hermod/test/component"
)

const (
	// ttl is the lease in these tests: short, so that its end is not long to wait for.
	ttl = 2 * time.Second
	// wait bounds what is waited for, beyond leases and graces.
	wait = 20 * time.Second
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(envRegistrant); addr != "" {
		registrant(addr)
	}
	goleak.VerifyTestMain(m)
}

// agent starts a private agent: these tests stop and kill it.
func agent(t *testing.T, opts component.ConsulOptions) *component.Process {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Consul agent")
	}
	p, err := component.StartConsul(t.Context(), "", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// client returns a client that the test closes at its end, after what was deferred.
func client(t *testing.T, p *component.Process, change ...func(*consul.Options)) *consul.Client {
	t.Helper()
	opts := consul.Options{Address: p.Addr, TTL: ttl}
	for _, f := range change {
		f(&opts)
	}
	c, err := consul.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// instance returns a valid instance of a service.
func instance(service, id string, state naming.State) naming.Instance {
	return naming.Instance{
		ID: id, Service: service, Node: "node-" + id, Address: "127.0.0.1:8001", State: state,
		Meta: map[string]string{"url": "ws://127.0.0.1:8000"},
	}
}

func register(t *testing.T, n naming.Naming, i naming.Instance) {
	t.Helper()
	if err := n.Register(t.Context(), i); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t *testing.T, n naming.Naming, service string) *namingtest.Recorder {
	t.Helper()
	r := namingtest.NewRecorder()
	if _, err := n.Subscribe(service, r.Told); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Check(t) })
	return r
}

func TestContract(t *testing.T) {
	p := agent(t, component.ConsulOptions{})
	namingtest.Run(t, func(t *testing.T) namingtest.Backend {
		return namingtest.Backend{
			Node: func() naming.Naming {
				c, err := consul.New(consul.Options{Address: p.Addr, TTL: ttl, Prefix: "test-"})
				if err != nil {
					t.Fatal(err)
				}
				return c
			},
			Lease: ttl,
			SetDown: func(down bool) {
				var err error
				if down {
					err = p.Kill()
				} else {
					err = p.Restart(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func TestDNSNamesReadyGatewaysOnly(t *testing.T) {
	t.Parallel()
	p := agent(t, component.ConsulOptions{Dev: true})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, p.DNSAddr)
	}}
	lookup := func() []string {
		t.Helper()
		_, records, err := resolver.LookupSRV(t.Context(), "", "", "gateway.service.consul")
		var notFound *net.DNSError
		if errors.As(err, &notFound) && notFound.IsNotFound {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range records {
			hosts, err := resolver.LookupHost(t.Context(), r.Target)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range hosts {
				out = append(out, fmt.Sprintf("%s:%d", h, r.Port))
			}
		}
		slices.Sort(out)
		return out
	}

	c := client(t, p)
	for n, state := range []naming.State{naming.StateReady, naming.StateJoining, naming.StateDraining, naming.StateReady} {
		i := instance(naming.ServiceGateway, fmt.Sprint(n), state)
		i.Address = fmt.Sprintf("127.0.0.%d:80%d", n+1, n)
		register(t, c, i)
	}
	if got := lookup(); !slices.Equal(got, []string{"127.0.0.1:800", "127.0.0.4:803"}) {
		t.Fatalf("with gateways 0 and 3 ready DNS names %v", got)
	}

	changed := instance(naming.ServiceGateway, "0", naming.StateDraining)
	changed.Address = "127.0.0.1:800"
	register(t, c, changed)
	changed = instance(naming.ServiceGateway, "1", naming.StateReady)
	changed.Address = "127.0.0.2:801"
	register(t, c, changed)
	if err := c.Deregister(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	if got := lookup(); !slices.Equal(got, []string{"127.0.0.2:801"}) {
		t.Fatalf("with gateway 1 ready DNS names %v", got)
	}
}

// envRegistrant makes this test binary a process that registers an instance and waits to be killed.
const envRegistrant = "HERMOD_TEST_REGISTRANT"

func registrant(addr string) {
	c, err := consul.New(consul.Options{Address: addr, TTL: ttl})
	if err == nil {
		err = c.Register(context.Background(), instance("killed", "1", naming.StateReady))
	}
	fmt.Println(err)
	select {}
}

func TestKilledProcessDisappearsWithinItsLease(t *testing.T) {
	p := agent(t, component.ConsulOptions{})
	c := client(t, p)
	r := subscribe(t, c, "killed")
	r.Await(t, wait)

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envRegistrant+"="+p.Addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	r.Await(t, wait, "1")

	begin := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.Await(t, wait)
	// The subscriber must not wait for its grace too: the agent saw the lease end.
	if took, limit := time.Since(begin), ttl+time.Second; took > limit {
		t.Errorf("gone after %v, want at most %v", took, limit)
	}
	if list, err := c.Find(t.Context(), "killed"); err != nil || len(list) != 0 {
		t.Errorf("found %v, %v", list, err)
	}
}

func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	p := agent(t, component.ConsulOptions{Dev: true})
	c := client(t, p)
	register(t, c, instance("s", "1", naming.StateReady))
	r := subscribe(t, client(t, p), "s")
	r.Await(t, wait, "1")
	// A second instance that nobody renews marks that a lease has passed.
	dead := client(t, p)
	register(t, dead, instance("s", "2", naming.StateReady))
	r.Await(t, wait, "1", "2")
	for range 2 {
		if err := dead.Close(); err != nil {
			t.Fatal(err)
		}
		r.Await(t, wait, "1")
		dead = client(t, p)
		register(t, dead, instance("s", "2", naming.StateReady))
		r.Await(t, wait, "1", "2")
	}
}

// A restarted agent has forgotten everything (dev), or finds every lease expired because it was
// away for longer (with state). In both cases nobody died: subscribers must hear nothing, until
// something does change.
func TestRestartOfConsulIsNotNoticed(t *testing.T) {
	for _, dev := range []bool{true, false} {
		t.Run(fmt.Sprintf("dev=%v", dev), func(t *testing.T) {
			t.Parallel()
			p := agent(t, component.ConsulOptions{Dev: dev})
			c, other := client(t, p), client(t, p)
			register(t, c, instance("s", "1", naming.StateReady))
			register(t, other, instance("s", "2", naming.StateJoining))
			r := subscribe(t, c, "s")
			r.Await(t, wait, "1", "2")

			for range 2 {
				if err := p.Kill(); err != nil {
					t.Fatal(err)
				}
				away(t, ttl+500*time.Millisecond)
				if err := p.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				awaitFound(t, c, "s", "1", "2")
			}
			if n := len(r.Calls()); n != 1 {
				t.Errorf("told %d times, want once: %v", n, ids(r))
			}

			// The subscription is alive: it tells of what comes, changes and goes.
			register(t, c, instance("s", "3", naming.StateReady))
			r.Await(t, wait, "1", "2", "3")
			if err := other.Deregister(t.Context(), "2"); err != nil {
				t.Fatal(err)
			}
			r.Await(t, wait, "1", "3")
		})
	}
}

// An instance that died while Consul was away is kept for the grace, or the lease that begins when
// the agent is back, and no longer.
func TestDiedWhileConsulWasAway(t *testing.T) {
	for _, dev := range []bool{true, false} {
		t.Run(fmt.Sprintf("dev=%v", dev), func(t *testing.T) {
			t.Parallel()
			p := agent(t, component.ConsulOptions{Dev: dev})
			c, dead := client(t, p), client(t, p)
			register(t, c, instance("s", "1", naming.StateReady))
			register(t, dead, instance("s", "2", naming.StateReady))
			r := subscribe(t, c, "s")
			r.Await(t, wait, "1", "2")
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := dead.Close(); err != nil {
				t.Fatal(err)
			}
			away(t, ttl+500*time.Millisecond)
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.Await(t, wait, "1")
			if n := len(r.Calls()); n != 2 {
				t.Errorf("told %d times, want twice: %v", n, ids(r))
			}
		})
	}
}

func TestLoggerHearsOfLosingAndFindingTheRegistryOnce(t *testing.T) {
	t.Parallel()
	p := agent(t, component.ConsulOptions{})
	var log logger
	c := client(t, p, func(o *consul.Options) { o.Logger = &log })
	register(t, c, instance("s", "1", naming.StateReady))
	r := subscribe(t, c, "s")
	r.Await(t, wait, "1")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	away(t, ttl)
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	register(t, client(t, p), instance("s", "2", naming.StateReady))
	r.Await(t, wait, "1", "2")
	awaitFound(t, c, "s", "1", "2")
	for _, want := range []string{"cannot watch s", "watching s again", "cannot renew the lease of 1"} {
		if n := log.count(want); n != 1 {
			t.Errorf("%q was logged %d times, want once:\n%s", want, n, log.String())
		}
	}
}

func TestServiceOfOthersIsIgnored(t *testing.T) {
	t.Parallel()
	p := agent(t, component.ConsulOptions{Dev: true})
	c := client(t, p)
	foreign, err := api.NewClient(&api.Config{Address: p.Addr, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "s", Port: 1}); err != nil {
		t.Fatal(err)
	}
	register(t, c, instance("s", "1", naming.StateReady))
	subscribe(t, c, "s").Await(t, wait, "1")
	awaitFound(t, c, "s", "1")
}

func TestPrefixSeparatesClusters(t *testing.T) {
	t.Parallel()
	p := agent(t, component.ConsulOptions{Dev: true})
	blue := client(t, p, func(o *consul.Options) { o.Prefix = "blue-" })
	green := client(t, p, func(o *consul.Options) { o.Prefix = "green-" })
	register(t, blue, instance("s", "b", naming.StateReady))
	register(t, green, instance("s", "g", naming.StateReady))
	list, err := blue.Find(t.Context(), "s")
	if err != nil || len(list) != 1 || list[0].ID != "b" || list[0].Service != "s" {
		t.Errorf("blue found %v, %v", list, err)
	}
}

func TestReservedMetaIsRefused(t *testing.T) {
	c, err := consul.New(consul.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	i := instance("s", "1", naming.StateReady)
	i.Meta["hermod-state"] = "ready"
	if err := c.Register(t.Context(), i); !errors.Is(err, naming.ErrInvalid) || !strings.Contains(err.Error(), "hermod-state") {
		t.Errorf("error %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for field, opts := range map[string]consul.Options{
		"TTL":             {TTL: time.Millisecond},
		"DeregisterAfter": {DeregisterAfter: time.Second},
		"Grace":           {Grace: time.Second},
	} {
		if _, err := consul.New(opts); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: error %v does not name %s", opts, err, field)
		}
	}
}

// away lets time pass while the registry is down: leases end by the clock, there is no event to wait for.
func away(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// awaitFound waits until Find returns exactly these ids. There is no event for that: a subscription
// is what is being tested.
func awaitFound(t *testing.T, n naming.Naming, service string, want ...string) {
	t.Helper()
	deadline := time.Now().Add(wait)
	for {
		list, err := n.Find(t.Context(), service)
		if err == nil && slices.Equal(namingtest.IDs(list), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("found %v, %v; want %v", namingtest.IDs(list), err, want)
		}
		away(t, time.Duration(rand.Int64N(int64(50*time.Millisecond))))
	}
}

// ids are those of all calls.
func ids(r *namingtest.Recorder) [][]string {
	var out [][]string
	for _, list := range r.Calls() {
		out = append(out, namingtest.IDs(list))
	}
	return out
}

// logger remembers what it is told.
type logger struct {
	mu    sync.Mutex
	lines []string
}

func (l *logger) Infof(format string, args ...any) { l.Warnf(format, args...) }

func (l *logger) Warnf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *logger) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func (l *logger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
