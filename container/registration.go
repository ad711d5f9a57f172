package container

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/naming"
)

// Registration keeps the registry in line with what a node says of itself.
type Registration struct {
	naming naming.Naming
	log    *logrus.Entry
	wake   chan struct{} // capacity 1

	mu        sync.Mutex
	desired   naming.Instance // guarded by mu
	version   uint64          // of desired; guarded by mu
	published uint64          // version that the registry has; guarded by mu
	err       error           // of the last attempt; guarded by mu
	changed   chan struct{}   // closed and replaced when published or err changes; guarded by mu
}

// NewRegistration returns a registration of i that Run will publish.
func NewRegistration(n naming.Naming, i naming.Instance, log *logrus.Entry) *Registration {
	return &Registration{
		naming:  n,
		log:     log,
		wake:    make(chan struct{}, 1),
		desired: i.Clone(),
		version: 1,
		changed: make(chan struct{}),
	}
}

// Update changes what is to be published. Run publishes it, again and again until the registry has it.
func (r *Registration) Update(change func(*naming.Instance)) {
	r.mu.Lock()
	change(&r.desired)
	r.version++
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Instance is what is to be published.
func (r *Registration) Instance() naming.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired.Clone()
}

// Err is why the registry does not have the latest; nil when it has.
func (r *Registration) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.published == r.version {
		return nil
	}
	return r.err
}

// Publish is Update, and waits until the registry has it or ctx ends.
func (r *Registration) Publish(ctx context.Context, change func(*naming.Instance)) error {
	r.Update(change)
	r.mu.Lock()
	version := r.version
	r.mu.Unlock()
	for {
		r.mu.Lock()
		done, changed := r.published >= version, r.changed
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run publishes until ctx ends. It does not deregister: see Deregister.
func (r *Registration) Run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = publishMin, publishMax
	for {
		var retry <-chan time.Time
		if err := r.publish(ctx); err == nil {
			pause.Reset()
		} else {
			retry = time.After(pause.NextBackOff())
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-retry:
		}
	}
}

// publish registers the desired instance if the registry does not have it.
func (r *Registration) publish(ctx context.Context) error {
	r.mu.Lock()
	desired, version, known := r.desired.Clone(), r.version, r.published
	r.mu.Unlock()
	if known == version {
		return nil
	}
	err := r.naming.Register(ctx, desired)
	if err != nil && ctx.Err() == nil {
		r.log.WithError(err).Warn("cannot register; trying again")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if err == nil {
		r.published = version
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return err
}

// Deregister removes the instance from the registry. It returns when that is done, so that the others know before anything else
// happens, or has failed, or after deregisterWait: a registry that hangs must not take the time of what follows. It goes on until ctx
// ends, and closes ended. Call it once, after Run has ended, and wait for ended.
func (r *Registration) Deregister(ctx context.Context) (ended <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.naming.Deregister(ctx, r.Instance().ID); err != nil {
			r.log.WithError(err).Warn("cannot deregister; the registry will notice by itself")
		}
	}()
	select {
	case <-done:
	case <-time.After(deregisterWait):
		r.log.Warn("the registry does not answer; stopping all the same")
	}
	return done
}
