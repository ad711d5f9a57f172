// Package naming says which services run where: the contract of the registry. naming/consul and
// naming/memory implement it and pass one contract suite (naming/namingtest).
package naming

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
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
	// Meta is what else others should know (a gateway's public URLs, its load): up to MaxMeta
	// entries, keys of [A-Za-z0-9_-], values of MaxText bytes of UTF-8. Never nil in what Find returns.
	Meta map[string]string
}

// The limits of an Instance, which are Consul's less what an implementation keeps for itself.
const (
	// MaxText is the length of Node, Zone and a value of Meta, in bytes.
	MaxText = 512
	// MaxMetaKey is the length of a key of Meta, in bytes.
	MaxMetaKey = 64
	// MaxMeta is the number of entries in Meta.
	MaxMeta = 48
)

// Clone returns a copy that shares nothing with i.
func (i Instance) Clone() Instance {
	i.Meta = maps.Clone(i.Meta)
	if i.Meta == nil {
		i.Meta = map[string]string{}
	}
	return i
}

// Equal reports whether the two say the same. A nil Meta equals an empty one.
func (i Instance) Equal(other Instance) bool {
	return i.ID == other.ID && i.Service == other.Service && i.Node == other.Node &&
		i.Address == other.Address && i.State == other.State && i.Zone == other.Zone &&
		maps.Equal(i.Meta, other.Meta)
}

// Validate returns an ErrInvalid that names the first field at fault, or nil.
func (i Instance) Validate() error {
	if !isName(i.Service, "") {
		return fmt.Errorf("%w: service %q is not one or more of [A-Za-z0-9-]", ErrInvalid, i.Service)
	}
	if !isName(i.ID, "._:") || len(i.ID) > MaxText {
		return fmt.Errorf("%w: id %q is not 1 to %d of [A-Za-z0-9._:-]", ErrInvalid, i.ID, MaxText)
	}
	if err := validAddress(i.Address); err != nil {
		return fmt.Errorf("%w: address %q: %w", ErrInvalid, i.Address, err)
	}
	if !slices.Contains([]State{StateJoining, StateReady, StateDraining}, i.State) {
		return fmt.Errorf("%w: state %q", ErrInvalid, i.State)
	}
	if err := validText(i.Node); err != nil {
		return fmt.Errorf("%w: node: %w", ErrInvalid, err)
	}
	if err := validText(i.Zone); err != nil {
		return fmt.Errorf("%w: zone: %w", ErrInvalid, err)
	}
	if len(i.Meta) > MaxMeta {
		return fmt.Errorf("%w: %d entries in meta, above %d", ErrInvalid, len(i.Meta), MaxMeta)
	}
	for k, v := range i.Meta {
		if len(k) > MaxMetaKey || !isName(k, "_") || strings.HasPrefix(k, "consul-") {
			return fmt.Errorf("%w: meta key %q is not 1 to %d of [A-Za-z0-9_-], or begins with consul-", ErrInvalid, k, MaxMetaKey)
		}
		if err := validText(v); err != nil {
			return fmt.Errorf("%w: meta %s: %w", ErrInvalid, k, err)
		}
	}
	return nil
}

// isName reports whether s is one or more of [A-Za-z0-9-] and the extra characters.
func isName(s, extra string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' &&
			!strings.ContainsRune(extra, r)
	})
}

// validText checks what is kept as it is: the registry would replace what is no UTF-8.
func validText(s string) error {
	if len(s) > MaxText {
		return fmt.Errorf("%d bytes, above %d", len(s), MaxText)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%q is not UTF-8", s)
	}
	return nil
}

// validAddress checks that others can connect to it.
func validAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return errors.New("the host is not one to connect to")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port is not a number from 1 to 65535")
	}
	return nil
}

var (
	// ErrInvalid: an instance that Validate refuses. The error's text names the field.
	ErrInvalid = errors.New("naming: invalid instance")
	// ErrClosed: the Naming has been closed.
	ErrClosed = errors.New("naming: closed")
)

// Logger is where an implementation tells what it does by itself: losing and finding the registry
// again. A *logrus.Entry is one.
type Logger interface {
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
}

// Naming is a registry of instances. All methods are safe for concurrent use.
type Naming interface {
	// Register makes the instance visible and keeps it so until Deregister, Close or the death of
	// this process: it renews by itself and registers again when the registry has forgotten it.
	// Registering the same ID again updates the instance.
	//
	// When it has returned nil, every Find that begins later, anywhere, sees the instance as it is:
	// two nodes that both register and then look cannot miss each other (I7). After an error other
	// than ErrInvalid and ErrClosed the instance may become visible later: the renewals go on trying.
	//
	// An instance whose process died disappears from Find within the registry's lease
	// (naming/consul: Options.TTL).
	Register(ctx context.Context, i Instance) error
	// Deregister removes an instance that this Naming registered: when it has returned nil, no later
	// Find sees it. An unknown id is no error. After an error the instance disappears with its lease.
	Deregister(ctx context.Context, id string) error
	// Find returns the live instances of a service in any state, sorted by ID. A registry that
	// cannot be reached is an error, never an empty list; one that has lost its memory is an empty
	// list until the instances have registered again, which only a subscription sees through.
	Find(ctx context.Context, service string) ([]Instance, error)
	// Subscribe calls f with the live instances, sorted by ID: once soon after the call and after
	// every change, from one goroutine at a time, in order. Changes that follow each other closely
	// may be told in one call. The list is f's to keep.
	//
	// While the registry is down f is not called and the subscription goes on by itself afterwards:
	// f's last list stays the truth (flaw 19). Several subscriptions of one service live side by
	// side. f must not call Unsubscribe or Close.
	Subscribe(service string, f func([]Instance)) (Subscription, error)
	// Unsubscribe ends a subscription; f is not called after it returns. Again is no error.
	Unsubscribe(Subscription)
	// Close ends all subscriptions and renewals without deregistering; f is not called after it
	// returns. Further calls of any method but Unsubscribe and Close return ErrClosed.
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
