// Package namingtest is the contract suite of naming.Naming: what every registry must do.
package namingtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hermod-im/hermod/naming"
)

// wait bounds what the suite waits for, in addition to the lease where that matters.
const wait = 20 * time.Second

// Backend is one registry under test.
type Backend struct {
	// Node returns the registry as another node sees it. The suite closes it.
	Node func() naming.Naming
	// Lease is after which time a dead node's instances are gone.
	Lease time.Duration
	// SetDown puts the registry out of reach, and back with its memory. It may be nil: the tests of
	// a registry that is down are left out.
	SetDown func(down bool)
}

// Run runs the suite. open is called once for each test; the registry may hold other tests' instances.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	tests := []struct {
		name string
		f    func(*fixture)
	}{
		{"FindReturnsWhatWasRegistered", findReturnsWhatWasRegistered},
		{"RegisterAgainUpdates", registerAgainUpdates},
		{"RegisterRefusesTheInvalid", registerRefusesTheInvalid},
		{"TwoThatRegisterAndLookCannotMissEachOther", twoCannotMissEachOther},
		{"DeregisterRemovesAtOnce", deregisterRemovesAtOnce},
		{"DeregisteredMayRegisterAgain", deregisteredMayRegisterAgain},
		{"DeadNodeDisappearsWithItsLease", deadNodeDisappears},
		{"SubscribeTellsTheListFirst", subscribeTellsFirst},
		{"SubscribeTellsChangesInOrder", subscribeTellsInOrder},
		{"SubscribeIsQuietWithoutChange", subscribeIsQuiet},
		{"SubscriptionsLiveSideBySide", subscriptionsSideBySide},
		{"UnsubscribeWaitsForTheCall", unsubscribeWaits},
		{"ListsAreCopies", listsAreCopies},
		{"ClosedRefuses", closedRefuses},
		{"DownIsAnErrorAndSubscribersKeepTheirList", downKeepsTheList},
		{"SafeForConcurrentUse", concurrentUse},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.f(&fixture{T: t, Backend: open(t), service: fmt.Sprintf("svc-%x", rand.Uint64())})
		})
	}
}

// fixture is one test with a service name of its own.
type fixture struct {
	*testing.T
	Backend
	service string
}

func (f *fixture) node() naming.Naming {
	n := f.Node()
	f.Cleanup(func() {
		if err := n.Close(); err != nil {
			f.Errorf("Close: %v", err)
		}
	})
	return n
}

// instance returns a valid instance; its id is unique to the test.
func (f *fixture) instance(name string) naming.Instance {
	return naming.Instance{
		ID: f.service + "." + name, Service: f.service, Node: name, Address: "127.0.0.1:8001", State: naming.StateReady,
		Zone: "eu-1", Meta: map[string]string{"url": "wss://gate.example/?a=b&c=<ü>", "load": "0.5", "empty": ""},
	}
}

func (f *fixture) register(n naming.Naming, i naming.Instance) {
	f.Helper()
	if err := n.Register(f.Context(), i); err != nil {
		f.Fatalf("register: %v", err)
	}
}

func (f *fixture) find(n naming.Naming) []naming.Instance {
	f.Helper()
	list, err := n.Find(f.Context(), f.service)
	if err != nil {
		f.Fatalf("find: %v", err)
	}
	return list
}

func (f *fixture) wantFound(n naming.Naming, want ...naming.Instance) {
	f.Helper()
	if diff := cmp.Diff(want, f.find(n)); diff != "" {
		f.Fatalf("Find (-want +got):\n%s", diff)
	}
}

// Recorder is a subscriber that remembers what it was told.
type Recorder struct {
	mu    sync.Mutex
	calls [][]naming.Instance
	news  chan struct{} // closed and replaced at each call
	in    atomic.Int32
	twice atomic.Bool // two calls at a time
}

// NewRecorder returns a Recorder whose Told is to be subscribed.
func NewRecorder() *Recorder { return &Recorder{news: make(chan struct{})} }

// Told takes a list.
func (r *Recorder) Told(list []naming.Instance) {
	if r.in.Add(1) != 1 {
		r.twice.Store(true)
	}
	defer r.in.Add(-1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, list)
	close(r.news)
	r.news = make(chan struct{})
}

// Calls returns the lists so far.
func (r *Recorder) Calls() [][]naming.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Await waits until the last list has exactly these ids, in order, and returns it.
func (r *Recorder) Await(t testing.TB, limit time.Duration, ids ...string) []naming.Instance {
	t.Helper()
	return r.AwaitList(t, limit, fmt.Sprintf("%q", ids), func(list []naming.Instance) bool {
		return slices.Equal(IDs(list), ids)
	})
}

// AwaitList waits until the last list is as it should be, and returns it.
func (r *Recorder) AwaitList(t testing.TB, limit time.Duration, what string, ok func([]naming.Instance) bool) []naming.Instance {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		told, news := len(r.calls) > 0, r.news
		var last []naming.Instance
		if told {
			last = r.calls[len(r.calls)-1]
		}
		r.mu.Unlock()
		if told && ok(last) {
			return last
		}
		select {
		case <-news:
		case <-deadline.C:
			t.Fatalf("after %v told %v (in %v calls), want %s", limit, IDs(last), len(r.Calls()), what)
		}
	}
}

// Check fails the test if calls overlapped, or said the same twice, or were not sorted.
func (r *Recorder) Check(t testing.TB) {
	t.Helper()
	if r.twice.Load() {
		t.Error("the subscriber was called while a call was running")
	}
	calls := r.Calls()
	for n, list := range calls {
		if !slices.IsSorted(IDs(list)) {
			t.Errorf("call %d is not sorted: %v", n, IDs(list))
		}
		if n > 0 && slices.EqualFunc(list, calls[n-1], naming.Instance.Equal) {
			t.Errorf("call %d says nothing new: %v", n, IDs(list))
		}
	}
}

// IDs returns the ids of a list.
func IDs(list []naming.Instance) []string {
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

func (f *fixture) subscribe(n naming.Naming) (*Recorder, naming.Subscription) {
	f.Helper()
	r := NewRecorder()
	sub, err := n.Subscribe(f.service, r.Told)
	if err != nil {
		f.Fatalf("subscribe: %v", err)
	}
	if sub.Service() != f.service {
		f.Errorf("subscription of %q, want %q", sub.Service(), f.service)
	}
	f.Cleanup(func() { r.Check(f) })
	return r, sub
}

func findReturnsWhatWasRegistered(f *fixture) {
	a, b := f.node(), f.node()
	f.wantFound(b)
	want := []naming.Instance{f.instance("1"), f.instance("2"), f.instance("3")}
	want[0].State, want[1].State = naming.StateDraining, naming.StateJoining
	want[1].Zone, want[1].Node, want[1].Meta = "", "", map[string]string{}
	want[2].Address = "[::1]:65535"
	for _, n := range []int{2, 0, 1} {
		f.register(a, want[n])
		other := f.instance("other")
		other.Service += "x"
		f.register(a, other)
	}
	f.wantFound(b, want...)
	f.wantFound(a, want...)

	bare := f.instance("4")
	bare.Meta = nil
	f.register(b, bare)
	if list := f.find(a); len(list) != 4 || list[3].Meta == nil {
		f.Errorf("an instance without meta is found as %v", list)
	}
}

func registerAgainUpdates(f *fixture) {
	a, b := f.node(), f.node()
	i := f.instance("1")
	for _, state := range []naming.State{naming.StateJoining, naming.StateReady, naming.StateDraining, naming.StateReady} {
		i.State = state
		i.Meta["load"] = string(state)
		f.register(a, i)
		f.wantFound(b, i)
	}
	i.Address, i.Zone, i.Node = "localhost:1", "", "other"
	delete(i.Meta, "url")
	f.register(a, i)
	f.wantFound(b, i)
}

func registerRefusesTheInvalid(f *fixture) {
	n := f.node()
	tests := []struct {
		field  string // what the error must name
		change func(*naming.Instance)
	}{
		{"id", func(i *naming.Instance) { i.ID = "" }},
		{"id", func(i *naming.Instance) { i.ID = "a/b" }},
		{"id", func(i *naming.Instance) { i.ID = "a?b" }},
		{"service", func(i *naming.Instance) { i.Service = "" }},
		{"service", func(i *naming.Instance) { i.Service = "a.b" }},
		{"address", func(i *naming.Instance) { i.Address = "" }},
		{"address", func(i *naming.Instance) { i.Address = "host" }},
		{"address", func(i *naming.Instance) { i.Address = ":80" }},
		{"address", func(i *naming.Instance) { i.Address = "0.0.0.0:80" }},
		{"address", func(i *naming.Instance) { i.Address = "host:0" }},
		{"address", func(i *naming.Instance) { i.Address = "host:http" }},
		{"address", func(i *naming.Instance) { i.Address = "host:65536" }},
		{"state", func(i *naming.Instance) { i.State = "" }},
		{"state", func(i *naming.Instance) { i.State = "gone" }},
		{"zone", func(i *naming.Instance) { i.Zone = strings.Repeat("z", naming.MaxText+1) }},
		{"node", func(i *naming.Instance) { i.Node = "\xff" }},
		{"meta", func(i *naming.Instance) { i.Meta["a key"] = "v" }},
		{"meta", func(i *naming.Instance) { i.Meta[""] = "v" }},
		{"meta", func(i *naming.Instance) { i.Meta["consul-x"] = "v" }},
		{"meta url", func(i *naming.Instance) { i.Meta["url"] = "\xc3\x28" }},
		{"meta url", func(i *naming.Instance) { i.Meta["url"] = strings.Repeat("u", naming.MaxText+1) }},
		{"meta", func(i *naming.Instance) {
			for n := range naming.MaxMeta {
				i.Meta[fmt.Sprint(n)] = ""
			}
		}},
	}
	for _, test := range tests {
		i := f.instance("1")
		test.change(&i)
		err := n.Register(f.Context(), i)
		if !errors.Is(err, naming.ErrInvalid) || !strings.Contains(err.Error(), test.field) {
			f.Errorf("%+v: error %v, want one that names %s", i, err, test.field)
		}
	}
	f.wantFound(n)

	largest := f.instance("1")
	largest.Zone = strings.Repeat("z", naming.MaxText)
	largest.Meta = map[string]string{}
	for n := range naming.MaxMeta {
		largest.Meta[fmt.Sprintf("%0*d", naming.MaxMetaKey, n)] = strings.Repeat("v", naming.MaxText)
	}
	f.register(n, largest)
	f.wantFound(n, largest)
}

// The readiness barrier rests on this (I7): whoever registers second sees the first.
func twoCannotMissEachOther(f *fixture) {
	nodes := []naming.Naming{f.node(), f.node()}
	for round := range 10 {
		var wg sync.WaitGroup
		var saw [2]bool
		for me, n := range nodes {
			wg.Go(func() {
				mine, other := fmt.Sprintf("%d.%d", round, me), fmt.Sprintf("%s.%d.%d", f.service, round, 1-me)
				if err := n.Register(f.Context(), f.instance(mine)); err != nil {
					f.Errorf("register: %v", err)
				}
				list, err := n.Find(f.Context(), f.service)
				if err != nil {
					f.Errorf("find: %v", err)
				}
				saw[me] = slices.Contains(IDs(list), other)
			})
		}
		wg.Wait()
		if !saw[0] && !saw[1] {
			f.Fatalf("round %d: neither saw the other", round)
		}
	}
}

func deregisterRemovesAtOnce(f *fixture) {
	a, b := f.node(), f.node()
	one, two := f.instance("1"), f.instance("2")
	f.register(a, one)
	f.register(b, two)
	r, _ := f.subscribe(b)
	r.Await(f, wait, one.ID, two.ID)
	begin := time.Now()
	if err := a.Deregister(f.Context(), one.ID); err != nil {
		f.Fatalf("deregister: %v", err)
	}
	f.wantFound(b, two)
	r.Await(f, wait, two.ID)
	if took := time.Since(begin); took > max(f.Lease/2, time.Second) {
		f.Errorf("the subscriber heard after %v: that was the lease, not Deregister", took)
	}
	for _, id := range []string{one.ID, "unknown"} {
		if err := a.Deregister(f.Context(), id); err != nil {
			f.Errorf("deregister %s, which is not there: %v", id, err)
		}
	}
	if err := a.Deregister(f.Context(), two.ID); err != nil {
		f.Errorf("deregister what another node registered: %v", err)
	}
	f.wantFound(b, two)
}

func deregisteredMayRegisterAgain(f *fixture) {
	a, b := f.node(), f.node()
	i := f.instance("1")
	r, _ := f.subscribe(b)
	for range 3 {
		f.register(a, i)
		f.wantFound(b, i)
		r.Await(f, wait, i.ID)
		if err := a.Deregister(f.Context(), i.ID); err != nil {
			f.Fatalf("deregister: %v", err)
		}
		f.wantFound(b)
		r.Await(f, wait)
	}
}

func deadNodeDisappears(f *fixture) {
	a, b := f.Node(), f.node()
	one, two := f.instance("1"), f.instance("2")
	f.register(a, one)
	f.register(b, two)
	r, _ := f.subscribe(b)
	r.Await(f, wait, one.ID, two.ID)
	if err := a.Close(); err != nil {
		f.Fatalf("close: %v", err)
	}
	r.Await(f, f.Lease+wait, two.ID)
	f.wantFound(b, two)
}

func subscribeTellsFirst(f *fixture) {
	a, b := f.node(), f.node()
	empty, _ := f.subscribe(b)
	empty.Await(f, wait)
	i := f.instance("1")
	f.register(a, i)
	r, _ := f.subscribe(b)
	list := r.Await(f, wait, i.ID)
	if diff := cmp.Diff([]naming.Instance{i}, list); diff != "" {
		f.Errorf("told (-want +got):\n%s", diff)
	}
	if n := len(r.Calls()); n != 1 {
		f.Errorf("told in %d calls, want 1", n)
	}
}

func subscribeTellsInOrder(f *fixture) {
	a, b := f.node(), f.node()
	r, _ := f.subscribe(b)
	r.Await(f, wait)
	var ids []string
	for n := range 12 {
		i := f.instance(fmt.Sprintf("%02d", n))
		f.register(a, i)
		ids = append(ids, i.ID)
	}
	r.Await(f, wait, ids...)
	seen := 0
	for _, list := range r.Calls() {
		if len(list) < seen {
			f.Errorf("after %d instances a list of %d: out of order", seen, len(list))
		}
		seen = len(list)
	}
	i := f.instance("00")
	i.State = naming.StateDraining
	f.register(a, i)
	r.AwaitList(f, wait, "the new state", func(list []naming.Instance) bool {
		return len(list) == 12 && list[0].State == naming.StateDraining
	})
}

func subscribeIsQuiet(f *fixture) {
	a, b := f.node(), f.node()
	one, two := f.instance("1"), f.instance("2")
	f.register(a, one)
	r, _ := f.subscribe(b)
	r.Await(f, wait, one.ID)
	for range 3 {
		f.register(a, one)
	}
	f.register(a, two)
	r.Await(f, wait, one.ID, two.ID)
	if n := len(r.Calls()); n != 2 {
		f.Errorf("told in %d calls, want 2", n)
	}
}

func subscriptionsSideBySide(f *fixture) {
	a, b := f.node(), f.node()
	r1, s1 := f.subscribe(b)
	r2, s2 := f.subscribe(b)
	r3, _ := f.subscribe(a)
	for _, r := range []*Recorder{r1, r2, r3} {
		r.Await(f, wait)
	}
	b.Unsubscribe(s1)
	b.Unsubscribe(s1)
	told := len(r1.Calls())
	i := f.instance("1")
	f.register(a, i)
	r2.Await(f, wait, i.ID)
	r3.Await(f, wait, i.ID)
	b.Unsubscribe(s2)
	if n := len(r1.Calls()); n != told {
		f.Errorf("called after Unsubscribe")
	}
}

func unsubscribeWaits(f *fixture) {
	n := f.node()
	begun, leave := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	sub, err := n.Subscribe(f.service, func([]naming.Instance) {
		close(begun)
		<-leave
		ended.Store(true)
	})
	if err != nil {
		f.Fatal(err)
	}
	<-begun
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Unsubscribe(sub)
		if !ended.Load() {
			f.Error("Unsubscribe returned while the subscriber was running")
		}
	}()
	close(leave)
	<-done
}

func listsAreCopies(f *fixture) {
	n := f.node()
	i := f.instance("1")
	f.register(n, i)
	want := i.Clone()
	i.Meta["url"] = "changed after Register"
	f.find(n)[0].Meta["url"] = "changed after Find"
	r, _ := f.subscribe(n)
	r.Await(f, wait, i.ID)[0].Meta["url"] = "changed by a subscriber"
	f.wantFound(n, want)
	other := f.instance("2")
	f.register(n, other)
	if list := r.Await(f, wait, i.ID, other.ID); list[0].Meta["url"] != want.Meta["url"] {
		f.Errorf("a subscriber's change came back: %v", list[0])
	}
}

func closedRefuses(f *fixture) {
	n := f.Node()
	r, sub := f.subscribe(n)
	r.Await(f, wait)
	for range 2 {
		if err := n.Close(); err != nil {
			f.Errorf("Close: %v", err)
		}
	}
	n.Unsubscribe(sub)
	_, findErr := n.Find(f.Context(), f.service)
	_, subErr := n.Subscribe(f.service, r.Told)
	for name, err := range map[string]error{
		"Register":   n.Register(f.Context(), f.instance("1")),
		"Deregister": n.Deregister(f.Context(), "1"),
		"Find":       findErr,
		"Subscribe":  subErr,
	} {
		if !errors.Is(err, naming.ErrClosed) {
			f.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
}

func downKeepsTheList(f *fixture) {
	if f.SetDown == nil {
		return
	}
	a, b := f.node(), f.node()
	one, two := f.instance("1"), f.instance("2")
	f.register(a, one)
	r, _ := f.subscribe(b)
	r.Await(f, wait, one.ID)

	f.SetDown(true)
	if list, err := b.Find(f.Context(), f.service); err == nil {
		f.Errorf("Find while the registry is down: %v, want an error", list)
	}
	if err := a.Register(f.Context(), two); err == nil || errors.Is(err, naming.ErrInvalid) {
		f.Errorf("Register while the registry is down: %v", err)
	}
	late, _ := f.subscribe(b)
	if n := len(r.Calls()) + len(late.Calls()); n != 1 {
		f.Errorf("%d calls, want the first one only", n)
	}
	f.SetDown(false)

	// What was asked of a registry that was down comes to pass without being asked again.
	r.Await(f, f.Lease+wait, one.ID, two.ID)
	late.Await(f, wait, one.ID, two.ID)
	for _, list := range r.Calls() {
		if len(list) == 0 {
			f.Error("the subscriber was told of an empty list")
		}
	}
}

func concurrentUse(f *fixture) {
	nodes := []naming.Naming{f.node(), f.node()}
	var wg sync.WaitGroup
	for worker := range 4 {
		n := nodes[worker%2]
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(f.Context(), wait)
			defer cancel()
			i := f.instance(fmt.Sprint(worker))
			for range 5 {
				sub, err := n.Subscribe(f.service, func([]naming.Instance) {})
				_, findErr := n.Find(ctx, f.service)
				if err := errors.Join(err, findErr, n.Register(ctx, i), n.Deregister(ctx, i.ID), n.Register(ctx, i)); err != nil {
					f.Error(err)
				}
				n.Unsubscribe(sub)
			}
		})
	}
	wg.Wait()
	if list := f.find(nodes[0]); len(list) != 4 {
		f.Errorf("found %v, want 4", IDs(list))
	}
}
