package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// connectRun is one run of Connect: workers have the connections, and are asked to count at the
// moments at which the run reads what the servers have used.
type connectRun struct {
	o       ConnectOptions
	shares  []share
	workers []*worker
	// connected is the sum of what the workers have said while they connect.
	connected atomic.Int64
}

// Connect makes the connections and returns what they cost. An error means that the run says nothing.
func Connect(ctx context.Context, o ConnectOptions) (_ *ConnectResult, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, err := parseTargets(o.URLs); err != nil {
		return nil, err
	}
	if o.Workers == 0 {
		if o.Workers, err = o.workers(); err != nil {
			return nil, err
		}
	}
	if o.Workers == 1 {
		o.Spawn = nil
	}
	r := &connectRun{o: o, shares: o.shares()}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel() // ends those that are still there after an error
		var wg sync.WaitGroup
		for _, w := range r.workers {
			wg.Go(w.close)
		}
		wg.Wait()
	}()
	return r.measure(ctx)
}

// workers is how many processes are needed.
func (o ConnectOptions) workers() (int, error) {
	if o.Spawn == nil {
		return 1, enoughDescriptors(o.Connections, o.Parallel)
	}
	most, err := maxConnections(o.Parallel)
	return (o.Connections + most - 1) / max(1, most), err
}

// shares divides the load among the workers.
func (o ConnectOptions) shares() []share {
	id, list, first := runID(), make([]share, o.Workers), 0
	for i := range list {
		n := o.Connections / o.Workers
		if i < o.Connections%o.Workers {
			n++
		}
		list[i] = share{
			Run: id, URLs: o.URLs, Secret: o.Secret, App: o.App, Sources: o.Sources, Heartbeat: o.Heartbeat,
			First: first, Connections: n,
			Rate:     o.Rate / float64(o.Workers),
			Parallel: max(1, o.Parallel/o.Workers),
		}
		if o.InTurn {
			list[i].InTurnOf, list[i].Rate, list[i].Parallel = o.Connections, o.Rate, o.Parallel
		}
		first += n
	}
	return list
}

func (r *connectRun) measure(ctx context.Context) (*ConnectResult, error) {
	for range r.shares {
		w, err := startWorker(ctx, r.o.Spawn)
		if err != nil {
			return nil, err
		}
		r.workers = append(r.workers, w)
	}
	empty, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	logins, login, err := r.connect()
	if err != nil {
		return nil, err
	}
	full, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	held, before, err := r.hold(ctx)
	if err != nil {
		return nil, err
	}
	after, counted, err := r.hold(ctx)
	if err != nil {
		return nil, err
	}
	end, err := r.all(askEnd)
	if err != nil {
		return nil, err
	}
	own, err := ownMemory()
	if err != nil {
		return nil, err
	}
	if r.o.Spawn != nil {
		own += counted.Memory
	}
	n := max(1, logins.Joined)
	return &ConnectResult{
		Connections: int(logins.Joined), Parallel: r.o.Parallel, Failed: int(logins.Failed), Failure: logins.Failure,
		LoginRate: float64(logins.Joined) / full.at.Sub(empty.at).Seconds(), Login: login,
		LoginCPU:     full.cpuSince(empty, r.o.Processes, n),
		Memory:       held.memorySince(empty, r.o.Processes, n),
		HeartbeatCPU: after.cpuSince(held, r.o.Processes, counted.Pings-before.Pings),
		Pings:        end.Pings, Pongs: end.Pongs, Dropped: end.Dropped, Dropage: end.Dropage,
		Workers: len(r.workers), OwnMemory: float64(own) / float64(n),
	}, nil
}

// hold waits, and then reads what the servers have used and has everything counted.
func (r *connectRun) hold(ctx context.Context) (reading, crowdReport, error) {
	if err := pause(ctx, r.o.Hold); err != nil {
		return reading{}, crowdReport{}, err
	}
	used, err := read(r.o.Processes)
	if err != nil {
		return reading{}, crowdReport{}, err
	}
	counted, err := r.all(askCount)
	return used, counted, err
}

// connect has every worker make its connections, and returns how long the logins took, too.
func (r *connectRun) connect() (crowdReport, Latency, error) {
	all := newHistogram()
	var mu sync.Mutex // guards all
	turns := make(chan struct{}, len(r.workers))
	for range cap(turns) {
		if turns <- struct{}{}; r.o.InTurn {
			break
		}
	}
	sum, err := r.each(func(i int, w *worker) (crowdReport, error) {
		<-turns
		defer func() { turns <- struct{}{} }()
		report, err := w.connect(r.shares[i], r.progress)
		if err != nil {
			return report, err
		}
		h, err := hdrhistogram.Decode(report.Logins)
		if err != nil {
			return report, fmt.Errorf("histogram of logins: %w", err)
		}
		mu.Lock()
		all.Merge(h)
		mu.Unlock()
		return report, nil
	})
	return sum, latencyOf(all), err
}

// progress is told how many connections a worker has made since it last said so.
func (r *connectRun) progress(more int64) { r.o.Progress(int(r.connected.Add(more))) }

// all asks every worker, and adds up the answers.
func (r *connectRun) all(what request) (crowdReport, error) {
	return r.each(func(_ int, w *worker) (crowdReport, error) { return w.ask(what) })
}

// each calls f with every worker at once, and adds up the reports.
func (r *connectRun) each(f func(i int, w *worker) (crowdReport, error)) (sum crowdReport, err error) {
	var wg sync.WaitGroup
	reports, errs := make([]crowdReport, len(r.workers)), make([]error, len(r.workers))
	for i, w := range r.workers {
		wg.Go(func() { reports[i], errs[i] = f(i, w) })
	}
	wg.Wait()
	for _, report := range reports {
		sum.add(report)
	}
	return sum, firstOf(errs)
}
