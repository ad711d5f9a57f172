// Package naming says which services run where: the contract of the registry. naming/consul and
// naming/memory implement it and pass one contract suite (naming/namingtest).
package naming

import (
	"context"
	"errors"
	"maps"
)

// The services of hermod, as registered.
const (
	ServiceGateway = "gateway"
	ServiceLogic   = "logic"
	ServiceRouter  = "router"
)

// State is what an instance says of itself.
type State string

// The states of an instance. Only StateReady instances take new work; all are to be connected to.
const (
	// StateJoining: registered and reachable, not all of its peers are connected yet.
	StateJoining State = "joining"
	// StateReady: takes traffic.
	StateReady State = "ready"
	// StateDraining: finishes what it has, takes nothing new.
	StateDraining State = "draining"
)

// Instance is one running node of a service.
type Instance struct {
	// ID is unique among all instances of all services and of all runs: a restarted node has a new one.
	ID string
	// Service is the name under which it is found.
	Service string
	// Node is the configured name, the same after a restart.
	Node string
	// Address is host:port where peers (logic) or the registry's DNS clients (gateway) connect.
	Address string
	State   State
	// Zone is where it runs, for the router. May be empty.
	Zone string
	// Meta is what else others should know (a gateway's public URLs, its load). Keys are
	// [A-Za-z0-9_-], values up to 512 bytes. Never nil in what Find returns.
	Meta map[string]string
}

// Clone returns a copy that shares nothing with i.
func (i Instance) Clone() Instance {
	i.Meta = maps.Clone(i.Meta)
	if i.Meta == nil {
		i.Meta = map[string]string{}
	}
	return i
}

// ErrInvalid: an instance without ID, service or a valid address. The error's text names the field.
var ErrInvalid = errors.New("naming: invalid instance")

// Naming is a registry of instances. All methods are safe for concurrent use.
type Naming interface {
	// Register makes the instance visible and keeps it so until Deregister, Close or the death of
	// this process: it renews by itself and registers again when the registry has forgotten it.
	// Registering the same ID again updates the instance. An instance whose process died
	// disappears from Find within the registry's lease (naming/consul: Options.TTL).
	Register(ctx context.Context, i Instance) error
	// Deregister removes it at once; an unknown id is no error.
	Deregister(ctx context.Context, id string) error
	// Find returns the live instances of a service in any state, sorted by ID. A registry that
	// cannot be reached is an error, never an empty list.
	Find(ctx context.Context, service string) ([]Instance, error)
	// Subscribe calls f with the live instances: once soon after the call and after every change,
	// from one goroutine at a time, in order. While the registry is down f is not called and the
	// subscription goes on by itself afterwards: f's last list stays the truth (flaw 19). Several
	// subscriptions of one service live side by side. f must not call Unsubscribe.
	Subscribe(service string, f func([]Instance)) (Subscription, error)
	// Unsubscribe ends a subscription; f is not called after it returns.
	Unsubscribe(Subscription)
	// Close ends all subscriptions and renewals without deregistering.
	Close() error
}

// Subscription identifies what Subscribe started.
type Subscription interface{ Service() string }

// Ready returns those of the list that are in StateReady.
func Ready(list []Instance) []Instance {
	var out []Instance
	for _, i := range list {
		if i.State == StateReady {
			out = append(out, i)
		}
	}
	return out
}
