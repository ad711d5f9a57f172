package faults

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/cluster"
)

const (
	// killedFor is how long a killed process stays away.
	killedFor = 5 * time.Second
	// pausedFor is how long a stopped process stands still: longer than a lease, a registration and
	// the silence after which a link is given up.
	pausedFor = 20 * time.Second
)

// killedNodes are SIGKILL and restart of hermod's processes.
func (s *Site) killedNodes() []Row {
	kill := func(n *cluster.Node) Fault {
		return Fault{
			Name: "SIGKILL of " + n.Name, On: []string{n.Name}, Lasts: killedFor,
			Inject: func(context.Context) error { return n.Kill() },
			Heal:   revive(n),
		}
	}
	return []Row{
		each("SIGKILL of each logic node", s.Logics, kill),
		each("SIGKILL of each gateway", s.Gateways, kill),
		each("SIGKILL of each router", s.Routers, kill),
	}
}

// pausedNodes are SIGSTOP and SIGCONT of hermod's processes.
func (s *Site) pausedNodes() []Row {
	pause := func(n *cluster.Node) Fault {
		return Fault{
			Name: "SIGSTOP of " + n.Name, On: []string{n.Name}, Lasts: pausedFor,
			Inject: func(context.Context) error { return n.Signal(syscall.SIGSTOP) },
			Heal: func(ctx context.Context) error {
				if err := n.Signal(syscall.SIGCONT); err != nil {
					return err
				}
				return n.AwaitReady(ctx)
			},
		}
	}
	return []Row{
		each("SIGSTOP of each logic node", s.Logics, pause),
		each("SIGSTOP of each gateway", s.Gateways, pause),
		each("SIGSTOP of each router", s.Routers, pause),
	}
}

// rolling is a restart of everything in order, as for an upgrade: nobody notices.
func (s *Site) rolling() []Row {
	restart := func(n *cluster.Node) Fault {
		return Fault{
			Name: "restart of " + n.Name, On: []string{n.Name},
			Inject: func(context.Context) error { return n.Stop() },
			Heal:   revive(n),
		}
	}
	return []Row{each("rolling restart of all services", s.Nodes(), restart)}
}

// revivalPause is how long a supervisor waits before it starts again what has ended at once.
const revivalPause = 200 * time.Millisecond

// revive starts a node as a supervisor would: one that ends because what it needs is not there is started
// again, until it is ready.
func revive(n *cluster.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			err := n.Start(ctx)
			if err == nil || n.Running() || ctx.Err() != nil {
				return err
			}
			if held := hold(ctx, revivalPause); held != nil {
				return errors.Join(err, held)
			}
		}
	}
}
