package container

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
)

// flaky refuses some registrations and counts them all.
type flaky struct {
	naming.Naming
	mu      sync.Mutex
	refuse  bool
	asked   []time.Time
	entered chan struct{} // not nil: Register waits to be let in
}

func (f *flaky) Register(ctx context.Context, i naming.Instance) error {
	f.mu.Lock()
	f.asked = append(f.asked, time.Now())
	refuse, entered := f.refuse, f.entered
	f.mu.Unlock()
	if entered != nil {
		<-entered
	}
	if refuse {
		return memory.ErrDown
	}
	return f.Naming.Register(ctx, i)
}

func (f *flaky) set(refuse bool) {
	f.mu.Lock()
	f.refuse = refuse
	f.mu.Unlock()
}

func runRegistration(t *testing.T, n naming.Naming) (*Registration, func()) {
	r := NewRegistration(n, instance("logic-1", "logic", naming.StateJoining, "127.0.0.1:1"), quiet())
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	return r, func() { stop(); wg.Wait() }
}

func TestRegistrationRetriesUntilTheRegistryIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		n := &flaky{Naming: registry.Client(), refuse: true}
		r, stop := runRegistration(t, n)
		defer stop()
		time.Sleep(time.Minute) // of the bubble's time
		require.ErrorIs(t, r.Err(), memory.ErrDown)
		tries := len(n.asked)
		require.Greater(t, tries, 5)
		require.Less(t, tries, 60, "with backoff")
		published := make(chan error)
		go func() { published <- r.Publish(t.Context(), setState(naming.StateReady)) }()
		synctest.Wait()
		n.set(false)
		require.NoError(t, <-published)
		require.NoError(t, r.Err())
		list, err := registry.Client().Find(t.Context(), naming.ServiceLogic)
		require.NoError(t, err)
		require.Equal(t, naming.StateReady, list[0].State)

		<-r.Deregister(t.Context())
		list, err = registry.Client().Find(t.Context(), naming.ServiceLogic)
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// What changes while a registration is under way is published after it.
func TestRegistrationPublishesTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		n := &flaky{Naming: registry.Client(), entered: make(chan struct{})}
		r, stop := runRegistration(t, n)
		defer stop()
		synctest.Wait() // in Register
		published := make(chan error)
		go func() { published <- r.Publish(t.Context(), setState(naming.StateReady)) }()
		synctest.Wait()
		n.entered <- struct{}{} // as it was at first
		synctest.Wait()
		select {
		case <-published:
			t.Fatal("what is published is older")
		default:
		}
		n.entered <- struct{}{}
		require.NoError(t, <-published)
		list, err := registry.Client().Find(t.Context(), naming.ServiceLogic)
		require.NoError(t, err)
		require.Equal(t, naming.StateReady, list[0].State)
		require.Equal(t, naming.StateReady, r.Instance().State)
	})
}

func TestPublishEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &flaky{Naming: memory.NewRegistry().Client(), refuse: true}
		r, stop := runRegistration(t, n)
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.Publish(ctx, setState(naming.StateReady)), context.DeadlineExceeded)
	})
}

// hanging is a registry that does not answer who deregisters, for so long.
type hanging struct {
	naming.Naming
	longest time.Duration
}

func (h hanging) Deregister(ctx context.Context, id string) error {
	select {
	case <-time.After(h.longest):
		return h.Naming.Deregister(ctx, id)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A registry that hangs is not waited for by who has clients to move, and is still told what it has not heard.
func TestDeregisterBesideWhatFollows(t *testing.T) {
	for _, test := range []struct {
		longest     time.Duration // of the registry
		waits, ends time.Duration
		stays       bool
	}{
		{0, 0, 0, false},
		{deregisterWait / 2, deregisterWait / 2, deregisterWait / 2, false},
		{2 * deregisterWait, deregisterWait, 2 * deregisterWait, false},
		{time.Hour, deregisterWait, time.Minute, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := hanging{memory.NewRegistry().Client(), test.longest}
			r, stop := runRegistration(t, n)
			synctest.Wait()
			stop()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			ended := r.Deregister(ctx)
			require.Equal(t, test.waits, time.Since(start))
			<-ended
			require.Equal(t, test.ends, time.Since(start))
			list, err := n.Find(t.Context(), naming.ServiceLogic)
			require.NoError(t, err)
			require.Equal(t, test.stays, len(list) == 1)
		})
	}
}
