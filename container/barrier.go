package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/naming"
)

// BarrierOptions are the collaborators of a Barrier. All are required.
type BarrierOptions struct {
	Naming       naming.Naming
	Registration *Registration
	// Peers is the service whose instances this node must be connected to.
	Peers string
	// Update is told every list of the peers, before Missing is asked about it.
	Update func([]naming.Instance)
	// Missing names those of the list to which a connection is due and lacking.
	Missing func([]naming.Instance) []string
	// Keep is asked once the node has been ready: the reason why it may not take traffic now, or nil.
	Keep func() error
	Log  *logrus.Entry
}

// Barrier lets a node take traffic only when it is connected to its peers (I7):
//
//  1. publish "joining", so that every peer that comes later sees this node;
//  2. follow the peers; when none is missing publish "ready";
//  3. look again: a peer that registered between the last look and the publication has not seen a
//     ready node. If one is missing, back to "joining".
//
// Once through, the state follows Keep alone: a peer that dies must not stop the others.
type Barrier struct {
	opts   BarrierOptions
	wake   chan struct{} // capacity 1
	passed chan struct{} // closed when the node is ready for the first time

	mu     sync.Mutex
	list   []naming.Instance // the peers, last heard; guarded by mu
	listed bool              // list has been heard once; guarded by mu
	reason error             // why not ready; nil: ready; guarded by mu
}

// NewBarrier returns a barrier that Run works.
func NewBarrier(opts BarrierOptions) *Barrier {
	return &Barrier{
		opts:   opts,
		wake:   make(chan struct{}, 1),
		passed: make(chan struct{}),
		reason: errors.New("starting"),
	}
}

// Changed makes the barrier look again: a connection came or went.
func (b *Barrier) Changed() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Passed is closed when the node is ready for the first time: until then it may lack a peer.
func (b *Barrier) Passed() <-chan struct{} { return b.passed }

// Err is why the node takes no traffic; nil when it does.
func (b *Barrier) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reason
}

// Run works the barrier until ctx ends. From then on Err says that the node stops.
func (b *Barrier) Run(ctx context.Context) error {
	defer func() {
		if ctx.Err() != nil {
			b.setReason(errors.New("stopping"))
		}
	}()
	b.setReason(errors.New("waiting for the registry"))
	if err := b.opts.Registration.Publish(ctx, setState(naming.StateJoining)); err != nil {
		return err
	}
	sub, err := b.opts.Naming.Subscribe(b.opts.Peers, b.update)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", b.opts.Peers, err)
	}
	defer b.opts.Naming.Unsubscribe(sub)
	if err := b.pass(ctx); err != nil {
		return err
	}
	return b.follow(ctx)
}

func setState(s naming.State) func(*naming.Instance) {
	return func(i *naming.Instance) { i.State = s }
}

func (b *Barrier) update(list []naming.Instance) {
	b.opts.Update(list)
	b.mu.Lock()
	b.list, b.listed = list, true
	b.mu.Unlock()
	b.Changed()
}

// pass returns when the node is published as ready with no peer missing.
func (b *Barrier) pass(ctx context.Context) error {
	for {
		if b.look() {
			if err := b.opts.Registration.Publish(ctx, setState(naming.StateReady)); err != nil {
				return err
			}
			if b.confirm(ctx) {
				b.setReason(nil)
				close(b.passed)
				b.opts.Log.Info("ready")
				return nil
			}
			if err := b.opts.Registration.Publish(ctx, setState(naming.StateJoining)); err != nil {
				return err
			}
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look reports whether nothing is missing, and notes the reason otherwise.
func (b *Barrier) look() bool {
	b.mu.Lock()
	list, listed := b.list, b.listed
	b.mu.Unlock()
	if !listed {
		b.setReason(fmt.Errorf("waiting for the registry's list of %s", b.opts.Peers))
		return false
	}
	if missing := b.opts.Missing(list); len(missing) > 0 {
		b.setReason(fmt.Errorf("waiting for a connection with %s", strings.Join(missing, ", ")))
		return false
	}
	if err := b.opts.Keep(); err != nil {
		b.setReason(err)
		return false
	}
	return true
}

// confirm looks at the registry itself, after this node was published as ready.
func (b *Barrier) confirm(ctx context.Context) bool {
	list, err := b.opts.Naming.Find(ctx, b.opts.Peers)
	if err != nil {
		b.setReason(fmt.Errorf("registry: %w", err))
		time.AfterFunc(publishMin, b.Changed)
		return false
	}
	missing := b.opts.Missing(list)
	if len(missing) > 0 {
		b.setReason(fmt.Errorf("waiting for a connection with %s", strings.Join(missing, ", ")))
	}
	return len(missing) == 0
}

// follow publishes ready or joining as Keep says.
func (b *Barrier) follow(ctx context.Context) error {
	for {
		select {
		case <-b.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := b.opts.Keep()
		was := b.Err()
		b.setReason(err)
		switch {
		case err != nil && was == nil:
			b.opts.Log.WithError(err).Warn("no longer ready")
			b.opts.Registration.Update(setState(naming.StateJoining))
		case err == nil && was != nil:
			b.opts.Log.Info("ready again")
			b.opts.Registration.Update(setState(naming.StateReady))
		}
	}
}

func (b *Barrier) setReason(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reason = err
}
