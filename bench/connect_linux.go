package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/wire/token"
)

// connectRun is one run of Connect.
type connectRun struct {
	o       ConnectOptions
	id      string
	targets []target
	swarm   *swarm
	login   *recorder

	next, failed atomic.Int64
	failure      atomic.Pointer[string]
}

// Connect makes the connections and returns what they cost. An error means that the run says nothing.
func Connect(ctx context.Context, o ConnectOptions) (*ConnectResult, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &connectRun{o: o, id: runID(), login: newRecorder()}
	if r.targets, err = parseTargets(o.URLs); err != nil {
		return nil, err
	}
	if err := enoughDescriptors(o.Connections); err != nil {
		return nil, err
	}
	if r.swarm, err = newSwarm(o.Connections, r.targets[0].websocket, o.Heartbeat, func(int, []byte) {}); err != nil {
		return nil, err
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.swarm.run(stop) }()
	result, err := r.measure(ctx)
	close(stop)
	return result, errors.Join(err, <-ended)
}

func (r *connectRun) measure(ctx context.Context) (*ConnectResult, error) {
	empty, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	if err := r.connectAll(ctx); err != nil {
		return nil, err
	}
	full, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, r.o.Hold); err != nil {
		return nil, err
	}
	held, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	pings := r.swarm.pings.Load()
	if err := pause(ctx, r.o.Hold); err != nil {
		return nil, err
	}
	after, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	pings = r.swarm.pings.Load() - pings

	n := r.swarm.joined.Load()
	result := &ConnectResult{
		Connections: int(n), Failed: int(r.failed.Load()),
		LoginRate: float64(n) / full.at.Sub(empty.at).Seconds(), Login: r.login.latency(),
		LoginCPU:     full.cpuSince(empty, r.o.Processes, n),
		Memory:       held.memorySince(empty, r.o.Processes, n),
		HeartbeatCPU: after.cpuSince(held, r.o.Processes, pings),
		Dropped:      r.swarm.dropped.Load(),
	}
	r.swarm.quiet.Store(true)
	if err := pause(ctx, pongWait); err != nil {
		return nil, err
	}
	result.Pings, result.Pongs = r.swarm.pings.Load(), r.swarm.pongs.Load()
	for text, why := range map[*string]*string{&result.Failure: r.failure.Load(), &result.Dropage: r.swarm.failure.Load()} {
		if why != nil {
			*text = *why
		}
	}
	return result, nil
}

// pongWait is how long the last pings may take to be answered.
const pongWait = time.Second

// connectAll logs all connections in, and goes on without those that fail.
func (r *connectRun) connectAll(ctx context.Context) error {
	begun := time.Now()
	var wg sync.WaitGroup
	for range r.o.Parallel {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(r.next.Add(1)) - 1
				if i >= r.o.Connections {
					return
				}
				if r.o.Rate > 0 {
					_ = pause(ctx, time.Until(begun.Add(time.Duration(float64(i)/r.o.Rate*float64(time.Second))))) // ctx is looked at next
				}
				if err := r.connect(i); err != nil {
					r.failed.Add(1)
					text := err.Error()
					r.failure.CompareAndSwap(nil, &text)
				}
				if done := i + 1; done%1000 == 0 {
					r.o.Progress(done)
				}
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// connect makes the i-th connection.
func (r *connectRun) connect(i int) error {
	t := r.targets[i%len(r.targets)]
	account := fmt.Sprintf("bench-%s-%d", r.id, i)
	jwt, err := token.Issue(r.o.Secret, token.Claims{Account: account, App: r.o.App, Expires: time.Now().Add(tokenTTL)})
	if err != nil {
		return err
	}
	begun := time.Now()
	source, _ := t.sourceAddress(i/len(r.targets), r.o.Sources)
	s, err := dialSocket(t, source)
	if err != nil {
		return err
	}
	if err := s.signIn(jwt, "bench"); err != nil {
		s.close()
		return err
	}
	r.login.record(i, time.Since(begun))
	return r.swarm.add(i, s)
}
