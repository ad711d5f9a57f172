package container

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
)

// joiner is a logic node as far as its registration and its barrier go. Its connections are a set.
type joiner struct {
	*Barrier
	t            *testing.T
	registry     *memory.Registry
	registration *Registration

	mu     sync.Mutex
	linked []string
	keep   error
	lists  int
}

// join runs a barrier in a synctest bubble, over the Naming that wrap makes of a registry's client.
func join(t *testing.T, registry *memory.Registry, wrap func(naming.Naming) naming.Naming) *joiner {
	var client naming.Naming = registry.Client()
	if wrap != nil {
		client = wrap(client)
	}
	j := &joiner{t: t, registry: registry}
	j.registration = NewRegistration(client, instance("logic-1", "logic", naming.StateJoining, "127.0.0.1:1"), quiet())
	j.Barrier = NewBarrier(BarrierOptions{
		Naming:       client,
		Registration: j.registration,
		Peers:        naming.ServiceGateway,
		Update: func([]naming.Instance) {
			j.mu.Lock()
			j.lists++
			j.mu.Unlock()
		},
		Missing: j.missing,
		Keep: func() error {
			j.mu.Lock()
			defer j.mu.Unlock()
			return j.keep
		},
		Log: quiet(),
	})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { j.registration.Run(ctx) })
	wg.Go(func() { require.ErrorIs(t, j.Barrier.Run(ctx), context.Canceled) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		require.ErrorContains(t, j.Err(), "stopping", "a node that stops said for as long as it drained that it was ready")
		require.NoError(t, client.Close())
	})
	return j
}

func (j *joiner) missing(list []naming.Instance) (out []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, i := range list {
		if !slices.Contains(j.linked, i.ID) {
			out = append(out, i.ID)
		}
	}
	return out
}

// link is a gateway's connection.
func (j *joiner) link(gateway string) {
	j.mu.Lock()
	j.linked = append(j.linked, gateway)
	j.mu.Unlock()
	j.Changed()
}

func (j *joiner) setKeep(err error) {
	j.mu.Lock()
	j.keep = err
	j.mu.Unlock()
	j.Changed()
}

// is waits until nothing moves any more and compares what the node says and what the registry has.
func (j *joiner) is(state naming.State, reason string) {
	j.t.Helper()
	synctest.Wait()
	if reason == "" {
		require.NoError(j.t, j.Err())
	} else {
		require.ErrorContains(j.t, j.Err(), reason)
	}
	list, err := j.registry.Client().Find(j.t.Context(), naming.ServiceLogic)
	require.NoError(j.t, err)
	require.Len(j.t, list, 1)
	require.Equal(j.t, state, list[0].State)
}

func (j *joiner) hasPassed() bool {
	select {
	case <-j.Passed():
		return true
	default:
		return false
	}
}

// register adds a gateway to the registry.
func register(t *testing.T, n naming.Naming, id string) {
	i := naming.Instance{ID: id, Service: naming.ServiceGateway, Node: id, Address: "127.0.0.1:2", State: naming.StateJoining}
	if err := n.Register(t.Context(), i); err != nil && !errors.Is(err, memory.ErrDown) {
		t.Errorf("register %s: %v", id, err)
	}
}

func TestBarrierWaitsForEveryGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		gateways := registry.Client()
		register(t, gateways, "g1")
		register(t, gateways, "g2")
		j := join(t, registry, nil)
		j.is(naming.StateJoining, "waiting for a connection with g1, g2")
		j.link("g2")
		j.is(naming.StateJoining, "waiting for a connection with g1")
		register(t, gateways, "g3")
		j.link("g1")
		j.is(naming.StateJoining, "waiting for a connection with g3")
		require.False(t, j.hasPassed())
		require.NoError(t, gateways.Deregister(t.Context(), "g3"))
		j.is(naming.StateReady, "")
		require.True(t, j.hasPassed())
	})
}

func TestBarrierPassesWithoutGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { join(t, memory.NewRegistry(), nil).is(naming.StateReady, "") })
}

// hooked calls before every registration of the node, and before every look at its peers.
type hooked struct {
	naming.Naming
	register func(naming.Instance)
	find     func() error
}

func (h *hooked) Register(ctx context.Context, i naming.Instance) error {
	h.register(i)
	return h.Naming.Register(ctx, i)
}

func (h *hooked) Find(ctx context.Context, service string) ([]naming.Instance, error) {
	if err := h.find(); err != nil {
		return nil, err
	}
	return h.Naming.Find(ctx, service)
}

// A gateway that registers between the last look and the publication of "ready" has seen no ready
// node: the node goes back to joining until it is connected.
func TestBarrierLooksAgainAfterPublishing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		gateways := registry.Client()
		var published []string
		j := join(t, registry, func(n naming.Naming) naming.Naming {
			return &hooked{Naming: n, find: func() error { return nil }, register: func(i naming.Instance) {
				if state := string(i.State); len(published) == 0 || published[len(published)-1] != state {
					published = append(published, state)
				}
				if i.State == naming.StateReady && len(published) == 2 {
					register(t, gateways, "late")
				}
			}}
		})
		j.is(naming.StateJoining, "waiting for a connection with late")
		require.False(t, j.hasPassed())
		j.link("late")
		j.is(naming.StateReady, "")
		require.Equal(t, "joining ready joining ready", strings.Join(published, " "))
	})
}

// A registry that fails between the publication and the second look leaves the node joining, until it
// is back.
func TestBarrierNeedsTheRegistryToPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		failures := 3
		j := join(t, registry, func(n naming.Naming) naming.Naming {
			return &hooked{Naming: n, register: func(naming.Instance) {}, find: func() error {
				if failures--; failures >= 0 {
					return memory.ErrDown
				}
				return nil
			}}
		})
		j.is(naming.StateJoining, "the registry is down")
		time.Sleep(10 * publishMin) // of the bubble's time
		j.is(naming.StateReady, "")
	})
}

func TestBarrierStartsWithoutARegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		registry.SetDown(true)
		j := join(t, registry, nil)
		synctest.Wait()
		require.ErrorContains(t, j.Err(), "waiting for the registry")
		require.ErrorIs(t, j.registration.Err(), memory.ErrDown)
		registry.SetDown(false)
		time.Sleep(2 * publishMax) // of the bubble's time
		j.is(naming.StateReady, "")
		require.NoError(t, j.registration.Err())
	})
}

// Once ready, neither the registry nor a gateway that comes, goes or is not connected stops a node.
func TestBarrierOncePassedStaysReady(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, j *joiner, gateways naming.Naming)
	}{
		{"a gateway dies", func(t *testing.T, j *joiner, gateways naming.Naming) {
			j.mu.Lock()
			j.linked = nil
			j.mu.Unlock()
			j.Changed()
		}},
		{"a gateway leaves", func(t *testing.T, _ *joiner, gateways naming.Naming) {
			require.NoError(t, gateways.Deregister(t.Context(), "g1"))
		}},
		{"a gateway comes", func(t *testing.T, _ *joiner, gateways naming.Naming) { register(t, gateways, "g2") }},
		{"the registry is down for long", func(t *testing.T, j *joiner, gateways naming.Naming) {
			j.registry.SetDown(true)
			register(t, gateways, "g2")
			j.Changed()
			time.Sleep(time.Hour) // of the bubble's time
			require.NoError(t, j.Err())
			j.registry.SetDown(false)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				registry := memory.NewRegistry()
				gateways := registry.Client()
				register(t, gateways, "g1")
				j := join(t, registry, nil)
				j.link("g1")
				j.is(naming.StateReady, "")
				test.change(t, j, gateways)
				j.is(naming.StateReady, "")
			})
		})
	}
}

func TestBarrierFollowsKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, memory.NewRegistry(), nil)
		j.is(naming.StateReady, "")
		j.setKeep(errors.New("no message ids"))
		j.is(naming.StateJoining, "no message ids")
		j.setKeep(nil)
		j.is(naming.StateReady, "")
	})
}

// A node that may not take traffic does not even say that it is ready.
func TestBarrierAsksKeepFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := memory.NewRegistry()
		registry.SetDown(true)
		j := join(t, registry, func(n naming.Naming) naming.Naming {
			return &hooked{Naming: n, find: func() error { return nil }, register: func(i naming.Instance) {
				if i.State == naming.StateReady {
					t.Error("published as ready")
				}
			}}
		})
		j.setKeep(errors.New("no message ids"))
		registry.SetDown(false)
		time.Sleep(2 * publishMax) // of the bubble's time
		j.is(naming.StateJoining, "no message ids")
	})
}

// Both sides at once, again and again: whenever a logic node is ready and a gateway has passed its
// own look, they are connected (I7). What one registers before it looks, the other cannot miss.
func TestBarrierRace(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			registry := memory.NewRegistry()
			j := &joiner{}
			gateway := registry.Client()
			var connected, seen bool
			start := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				<-start
				register(t, gateway, "g")
				list, err := gateway.Find(t.Context(), naming.ServiceLogic)
				require.NoError(t, err)
				seen = len(list) == 1
				if seen && list[0].State == naming.StateReady {
					connected = true // before it takes clients
				}
			})
			wg.Go(func() {
				<-start
				j = join(t, registry, nil)
			})
			close(start)
			wg.Wait()
			synctest.Wait()
			switch {
			case j.Err() == nil:
				require.True(t, connected, "a ready node that the gateway does not know")
			default:
				require.ErrorContains(t, j.Err(), "waiting for a connection with g")
			}
			require.True(t, seen || j.Err() != nil)
		})
	}
}
