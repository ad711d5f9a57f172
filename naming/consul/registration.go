package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/naming"
)

const (
	// renewalsPerTTL is how often a lease is renewed while it runs: two may fail.
	renewalsPerTTL = 3
	// retryMin is the first pause after a failed renewal.
	retryMin = 100 * time.Millisecond
	// retriesPerTTL bounds the later ones: a lease begins when the agent starts, and it answers only
	// some time after that.
	retriesPerTTL = 10
)

// registration keeps one instance in the registry.
type registration struct {
	client *Client
	cancel context.CancelFunc
	done   chan struct{} // closed when keep has returned

	mu       sync.Mutex      // also held during calls of the agent: they must not overtake each other
	instance naming.Instance // as it should be; without ID before the first put
	stored   bool            // the agent took it, as far as we know
}

// put makes the instance what it should be, and tells the agent.
func (r *registration) put(ctx context.Context, i naming.Instance) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instance, r.stored = i, false
	return r.storeLocked(ctx)
}

// keep renews the lease until ctx ends, and stores the instance again when the agent has lost it.
func (r *registration) keep(ctx context.Context) {
	defer close(r.done)
	interval := r.client.opts.TTL / renewalsPerTTL
	retry := &backoff.ExponentialBackOff{
		InitialInterval: retryMin, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: r.client.opts.TTL / retriesPerTTL,
	}
	retry.Reset()
	failing := false
	next := time.NewTimer(jitter(interval))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		err := r.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if failing {
				r.client.opts.Logger.Infof("consul: the lease of %s is renewed again", r.id())
			}
			failing = false
			retry.Reset()
			next.Reset(jitter(interval))
		default:
			if !failing {
				r.client.opts.Logger.Warnf("consul: cannot renew the lease of %s, trying again: %v", r.id(), err)
			}
			failing = true
			next.Reset(retry.NextBackOff())
		}
	}
}

// jitter spreads the renewals of many instances; it never makes them later.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10) }

func (r *registration) id() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.instance.ID
}

// renew makes the lease start again. An agent that refuses has forgotten the instance.
func (r *registration) renew(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.instance.ID == "" {
		return nil // the first put is about to come
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if !r.stored {
		return r.storeLocked(ctx)
	}
	refusal := r.passLocked(ctx)
	if refusal == nil || !isAnswer(refusal) {
		return refusal
	}
	r.stored = false
	if err := r.storeLocked(ctx); err != nil {
		return err
	}
	r.client.opts.Logger.Infof("consul: registered %s again, which the agent had lost: %v", r.instance.ID, refusal)
	return nil
}

// storeLocked registers the instance as it should be. Its checks keep their status when the agent
// knew it already, so they are set too.
func (r *registration) storeLocked(ctx context.Context) error {
	opts := api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx)
	if err := r.client.api.Agent().ServiceRegisterOpts(r.client.service(r.instance), opts); err != nil {
		return err
	}
	if err := r.passLocked(ctx); err != nil {
		return err
	}
	r.stored = true
	return nil
}

// passLocked sets both checks to what they should be, which renews the lease.
func (r *registration) passLocked(ctx context.Context) error {
	i := r.instance
	if err := r.client.setCheck(ctx, readyCheck(i.ID), string(i.State), readyStatus(i.State)); err != nil {
		return err
	}
	return r.client.setCheck(ctx, aliveCheck(i.ID), "", aliveStatus(i.State))
}

// bury turns the instance into a tombstone: not live for anyone, and not merely lost.
func (r *registration) bury(ctx context.Context) (service string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.instance.ID == "" {
		return "", errors.New("its registration has not begun")
	}
	r.instance.State = stateGone
	return r.instance.Service, r.storeLocked(ctx)
}

func (c *Client) setCheck(ctx context.Context, id, output, status string) error {
	return c.api.Agent().UpdateTTLOpts(id, output, status, (&api.QueryOptions{}).WithContext(ctx))
}

func aliveCheck(id string) string { return "alive:" + id }
func readyCheck(id string) string { return "ready:" + id }

// readyStatus is what the ready check of an instance in this state says.
func readyStatus(s naming.State) string {
	if s == naming.StateReady {
		return api.HealthPassing
	}
	return api.HealthCritical
}

// aliveStatus is what the alive check of an instance in this state says.
func aliveStatus(s naming.State) string {
	if s == stateGone {
		return api.HealthCritical
	}
	return api.HealthPassing
}

// service is the instance as Consul keeps it.
func (c *Client) service(i naming.Instance) *api.AgentServiceRegistration {
	host, port, _ := net.SplitHostPort(i.Address) // valid: Register has checked
	number, _ := strconv.Atoi(port)
	meta := maps.Clone(i.Meta)
	meta[metaNode], meta[metaZone], meta[metaState] = i.Node, i.Zone, string(i.State)
	return &api.AgentServiceRegistration{
		ID: i.ID, Name: c.opts.Prefix + i.Service, Address: host, Port: number, Meta: meta,
		Checks: api.AgentServiceChecks{
			{
				CheckID: aliveCheck(i.ID), Name: "alive", TTL: c.opts.TTL.String(), Status: aliveStatus(i.State),
				DeregisterCriticalServiceAfter: c.opts.DeregisterAfter.String(),
				Notes:                          "The lease of the instance: critical when its process has stopped renewing it, or has deregistered.",
			},
			{
				CheckID: readyCheck(i.ID), Name: "ready", TTL: c.opts.TTL.String(), Status: readyStatus(i.State),
				Notes: fmt.Sprintf("Passes while the instance takes traffic, that is in state %q.", naming.StateReady),
			},
		},
	}
}
