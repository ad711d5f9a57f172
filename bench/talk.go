// Package bench puts load on a running system from outside, over its public protocol, and counts
// what every message costs and whether each arrived once and in order.
package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/transport"
)

// TalkOptions are the load of Talk: pairs of accounts, in each of which one sends to the other, in a
// closed loop with at most Window messages that are not both acknowledged and delivered, or at a rate.
type TalkOptions struct {
	// URLs of gateways (ws:// or tcp://); sender and receiver of a pair are at neighbouring ones.
	URLs   []string
	Secret []byte
	// App is the tenant. Defaults to "default".
	App   string
	Pairs int
	// Conversations is how many there are in all: each sender takes turns with as many receivers as it
	// takes, its pair's first. Defaults to Pairs, and is rounded up to a multiple of it; at most its square.
	Conversations int
	// Window is of one sender.
	Window int
	// Rate is messages a second of all pairs together, sent whether or not the last ones have
	// arrived; latencies count from when a message was due. 0: a closed loop.
	Rate float64
	// Size of a message's body in bytes, at least MinSize.
	Size     int
	Duration time.Duration
	// Until, when it is closed, ends the run as if Duration were over. May be nil.
	Until <-chan struct{}
	// Warmup is how long the load runs before anything is measured, at least: every conversation has
	// begun, too, for that costs more than what follows.
	Warmup    time.Duration
	Processes []Process
	// Progress is told how many pairs are logged in, and then every second how many messages have
	// arrived. May be nil.
	Progress func(pairs int, delivered int64)
}

// MinSize is the smallest body: the number of the message, in hexadecimal.
const MinSize = 8

// settleWait is how long messages under way may take to arrive when sending has ended.
const settleWait = 10 * time.Second

// TalkResult is what Talk measured. Counts of trouble are over the whole run; rates and CPU time are over the
// measured part, and latencies are of the messages that were sent in it, or due in an open loop.
type TalkResult struct {
	Pairs int `json:"pairs"`
	// Conversations is as many as Pairs or more.
	Conversations int     `json:"conversations"`
	Window        int     `json:"window,omitempty"`
	DueRate       float64 `json:"due_rate,omitempty"` // of an open loop
	Size          int     `json:"size"`
	Seconds       float64 `json:"seconds"`
	Messages      int64   `json:"messages"` // delivered while measuring
	Rate          float64 `json:"rate"`     // of those, per second

	Ack     Latency `json:"ack"`     // send → answer
	Deliver Latency `json:"deliver"` // send → receiver

	// CPU is µs per delivered message.
	CPU Cost `json:"cpu_us_per_message"`

	Sent       int64    `json:"sent"`
	Acked      int64    `json:"acked"`
	Lost       int64    `json:"lost"`       // acknowledged and not delivered
	Doubled    int64    `json:"doubled"`    // delivered again
	Reordered  int64    `json:"reordered"`  // delivered after one that was sent later
	Unanswered int64    `json:"unanswered"` // neither acknowledged nor refused
	Refused    Refusals `json:"refused,omitempty"`

	Misdirected  int64  `json:"misdirected,omitempty"`  // given to an account that they are not for
	Misdirection string `json:"misdirection,omitempty"` // the first of those
}

// Err is why the run is not clean. It is nil if something was measured, nothing was lost, doubled, reordered,
// left unanswered or misdirected, and nothing was refused, but for what was too much in an open loop.
func (r *TalkResult) Err() error {
	var trouble error
	if r.Lost+r.Doubled+r.Reordered+r.Unanswered+r.Misdirected > 0 {
		trouble = errTrouble
	}
	return errors.Join(trouble, r.Refused.err(r.Messages, r.DueRate > 0))
}

// Clean reports whether Err is nil.
func (r *TalkResult) Clean() bool { return r.Err() == nil }

// talkRun is one run of Talk.
type talkRun struct {
	o     TalkOptions
	id    string
	pairs []*pair
	pool  *transport.Pool
	// senders are the pairs by the account that sends. Static once all are connected.
	senders   map[string]*pair
	ack       *recorder
	deliver   *recorder
	measured  interval
	delivered atomic.Int64

	misdirected  atomic.Int64
	misdirection atomic.Pointer[string] // the first

	// warm has capacity for every pair: each has sent to all of its receivers.
	warm   chan struct{}
	failed chan error // capacity 1: the first
}

func (o TalkOptions) withDefaults() (TalkOptions, error) {
	if o.App == "" {
		o.App = "default"
	}
	if o.Rate > 0 {
		o.Window = 0
	}
	if o.Progress == nil {
		o.Progress = func(int, int64) {}
	}
	if len(o.URLs) == 0 || o.Pairs < 1 || (o.Window < 1 && o.Rate <= 0) || o.Size < MinSize || o.Duration <= 0 {
		return o, fmt.Errorf("give a URL, at least 1 pair, a window of at least 1 or a rate, a size of at least %d and a duration", MinSize)
	}
	o.Conversations = max(o.Conversations, o.Pairs)
	o.Conversations += (o.Pairs - o.Conversations%o.Pairs) % o.Pairs
	if o.Conversations > o.Pairs*o.Pairs {
		return o, fmt.Errorf("%d pairs can have %d conversations at most", o.Pairs, o.Pairs*o.Pairs)
	}
	return o, nil
}

// Talk runs the load and returns what was measured. An error means that the run says nothing.
func Talk(ctx context.Context, o TalkOptions) (*TalkResult, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &talkRun{o: o, id: runID(), ack: &recorder{}, deliver: &recorder{}, warm: make(chan struct{}, o.Pairs), failed: make(chan error, 1)}
	if r.pool, err = transport.NewPool(pollersOfLoad(), userOptions); err != nil {
		return nil, err
	}
	defer r.pool.Close()
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx)
}

// pollersOfLoad is how many of the cores the load reads and writes on: half of them are the servers'.
func pollersOfLoad() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// close ends the connections, and waits until they are closed.
func (r *talkRun) close() {
	for _, p := range r.pairs {
		p.from.Close()
		p.to.Close()
	}
	for _, p := range r.pairs {
		<-p.from.Done()
		<-p.to.Done()
	}
}

// connect logs all accounts in, some at a time.
func (r *talkRun) connect(ctx context.Context) error {
	const parallel = 32
	var (
		wg        sync.WaitGroup
		connected atomic.Int64
		slots     = make(chan struct{}, parallel)
		pairs     = make([]*pair, r.o.Pairs)
		errs      = make([]error, r.o.Pairs)
	)
	for i := range pairs {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			pairs[i], errs[i] = r.newPair(i)
			r.o.Progress(int(connected.Add(1)), 0)
			<-slots
		})
	}
	wg.Wait()
	r.senders = make(map[string]*pair, len(pairs))
	for _, p := range pairs {
		if p != nil {
			r.pairs = append(r.pairs, p)
			r.senders[p.from.account] = p
		}
	}
	return firstOf(append(errs, ctx.Err()))
}

// firstOf is the first error of many that mostly say the same, and how many there are.
func firstOf(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	default:
		return fmt.Errorf("%w (and %d more like it)", errs[0], len(errs)-1)
	}
}

func (r *talkRun) run(ctx context.Context) (*TalkResult, error) {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders, readers sync.WaitGroup
	for i, p := range r.pairs {
		readers.Go(func() { r.check(p.from.deliver(p.answer)) })
		readers.Go(func() { r.check(p.to.deliver(p.push)) })
		if r.o.Rate > 0 {
			pace := newPacer(r.o.Rate/float64(len(r.pairs)), float64(i)/float64(len(r.pairs)))
			senders.Go(func() { r.check(p.pace(sending, pace)) })
		} else {
			p.begin()
		}
	}
	result, err := r.measure(sending)
	stop()
	for _, p := range r.pairs {
		p.stop()
	}
	senders.Wait()
	if err == nil {
		r.settle()
	}
	r.close()
	readers.Wait()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.sum(result)
	return result, nil
}

// sum adds up what the pairs have counted, once all that still arrives has arrived.
func (r *talkRun) sum(res *TalkResult) {
	res.Ack, res.Deliver = r.ack.latency(), r.deliver.latency()
	for _, p := range r.pairs {
		p.sum(res)
	}
	res.Misdirected = r.misdirected.Load()
	if what := r.misdirection.Load(); what != nil {
		res.Misdirection = *what
	}
}

// check notes the first error of a connection, unless the run is over.
func (r *talkRun) check(err error) {
	if err != nil {
		select {
		case r.failed <- err:
		default:
		}
	}
}

// measure waits for the warm-up, and measures until ctx ends.
func (r *talkRun) measure(ctx context.Context) (*TalkResult, error) {
	if err := r.warmUp(ctx); err != nil {
		return nil, err
	}
	before, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	delivered := r.delivered.Load()
	r.measured.begin()
	if err := r.wait(ctx, r.o.Duration); err != nil {
		return nil, err
	}
	r.measured.end()
	after, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	took := after.at.Sub(before.at)
	res := &TalkResult{
		Pairs: r.o.Pairs, Conversations: r.o.Conversations, Window: r.o.Window, DueRate: r.o.Rate, Size: r.o.Size,
		Seconds:  took.Seconds(),
		Messages: r.delivered.Load() - delivered,
		Refused:  Refusals{},
	}
	res.Rate = float64(res.Messages) / took.Seconds()
	res.CPU = after.cpuSince(before, r.o.Processes, res.Messages)
	return res, nil
}

func (r *talkRun) warmUp(ctx context.Context) error {
	if err := r.wait(ctx, r.o.Warmup); err != nil {
		return err
	}
	for range r.pairs {
		select {
		case <-r.warm:
		case <-r.o.Until:
			return nil
		case err := <-r.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *talkRun) wait(ctx context.Context, d time.Duration) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for over := time.After(d); ; {
		select {
		case <-over:
			return nil
		case <-r.o.Until:
			return nil
		case <-second.C:
			r.o.Progress(len(r.pairs), r.delivered.Load())
		case err := <-r.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle waits until every message was delivered and answered, or settleWait.
func (r *talkRun) settle() {
	for deadline := time.Now().Add(settleWait); time.Now().Before(deadline); {
		if !slices.ContainsFunc(r.pairs, func(p *pair) bool { return p.left() > 0 }) {
			return
		}
		time.Sleep(settlePoll)
	}
}

// settlePoll is the pause between looks whether everything has arrived.
const settlePoll = 10 * time.Millisecond
