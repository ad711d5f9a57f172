// Package bench puts load on a running system from outside, over its public protocol, and counts
// what every message costs and whether each arrived once and in order.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// TalkOptions are the load of Talk: pairs of accounts, in each of which one sends to the other, in a
// closed loop with at most Window messages that are not both acknowledged and delivered, or at a rate.
type TalkOptions struct {
	// URLs of gateways (ws:// or tcp://); sender and receiver of a pair are at neighbouring ones.
	URLs   []string
	Secret []byte
	// App is the tenant. Defaults to "default".
	App    string
	Pairs  int
	Window int
	// Rate is messages a second of all pairs together, sent whether or not the last ones have
	// arrived; latencies count from when a message was due. 0: a closed loop.
	Rate float64
	// Size of a message's body in bytes, at least MinSize.
	Size     int
	Duration time.Duration
	// Until, when it is closed, ends the run as if Duration were over. May be nil.
	Until <-chan struct{}
	// Warmup is how long the load runs before anything is measured.
	Warmup    time.Duration
	Processes []Process
}

// MinSize is the smallest body: the number of the message, in hexadecimal.
const MinSize = 8

// settleWait is how long messages under way may take to arrive when sending has ended.
const settleWait = 10 * time.Second

// TalkResult is what Talk measured. Counts of trouble are over the whole run; rates, latencies and
// CPU time are over the measured part.
type TalkResult struct {
	Pairs    int     `json:"pairs"`
	Window   int     `json:"window,omitempty"`
	DueRate  float64 `json:"due_rate,omitempty"` // of an open loop
	Size     int     `json:"size"`
	Seconds  float64 `json:"seconds"`
	Messages int64   `json:"messages"` // delivered while measuring
	Rate     float64 `json:"rate"`     // of those, per second

	Ack     Latency `json:"ack"`     // send → answer
	Deliver Latency `json:"deliver"` // send → receiver

	// CPU is µs per delivered message.
	CPU Cost `json:"cpu_us_per_message"`

	Sent       int64            `json:"sent"`
	Acked      int64            `json:"acked"`
	Lost       int64            `json:"lost"`       // acknowledged and not delivered
	Doubled    int64            `json:"doubled"`    // delivered again
	Reordered  int64            `json:"reordered"`  // delivered after one that was sent later
	Unanswered int64            `json:"unanswered"` // neither acknowledged nor refused
	Refused    map[string]int64 `json:"refused,omitempty"`
}

// Clean reports whether nothing was lost, doubled, reordered or left unanswered.
func (r *TalkResult) Clean() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Reordered == 0 && r.Unanswered == 0
}

// talkRun is one run of Talk.
type talkRun struct {
	o         TalkOptions
	id        string
	pairs     []*pair
	ack       *recorder
	deliver   *recorder
	measuring atomic.Bool
	delivered atomic.Int64
	failed    chan error // capacity 1: the first
}

// Talk runs the load and returns what was measured. An error means that the run says nothing.
func Talk(ctx context.Context, o TalkOptions) (*TalkResult, error) {
	if o.App == "" {
		o.App = "default"
	}
	if o.Rate > 0 {
		o.Window = 0
	}
	if len(o.URLs) == 0 || o.Pairs < 1 || (o.Window < 1 && o.Rate <= 0) || o.Size < MinSize || o.Duration <= 0 {
		return nil, fmt.Errorf("give a URL, at least 1 pair, a window of at least 1 or a rate, a size of at least %d and a duration", MinSize)
	}
	r := &talkRun{o: o, id: runID(), ack: &recorder{}, deliver: &recorder{}, failed: make(chan error, 1)}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx)
}

func (r *talkRun) close() {
	for _, p := range r.pairs {
		p.from.Close()
		p.to.Close()
	}
}

// connect logs all accounts in, some at a time.
func (r *talkRun) connect(ctx context.Context) error {
	const parallel = 32
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, parallel)
		pairs = make([]*pair, r.o.Pairs)
		errs  = make([]error, r.o.Pairs)
	)
	for i := range pairs {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			pairs[i], errs[i] = r.newPair(i)
			<-slots
		})
	}
	wg.Wait()
	for _, p := range pairs {
		if p != nil {
			r.pairs = append(r.pairs, p)
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

func (r *talkRun) newPair(i int) (*pair, error) {
	name := func(role string) string { return fmt.Sprintf("bench-%s-%s%d", r.id, role, i) }
	from, err := login(r.o.URLs[i%len(r.o.URLs)], r.o.App, name("a"), r.o.Secret)
	if err != nil {
		return nil, err
	}
	to, err := login(r.o.URLs[(i+1)%len(r.o.URLs)], r.o.App, name("b"), r.o.Secret)
	if err != nil {
		from.Close()
		return nil, err
	}
	return &pair{run: r, index: i, from: from, to: to, loop: newLoop(r.o.Rate, r.o.Window, i, r.o.Pairs), refused: map[string]int64{}}, nil
}

func (r *talkRun) run(ctx context.Context) (*TalkResult, error) {
	sending, stop := context.WithTimeout(ctx, r.o.Warmup+r.o.Duration)
	defer stop()
	var senders, readers sync.WaitGroup
	for _, p := range r.pairs {
		senders.Go(func() { r.check(p.send(sending)) })
		readers.Go(func() { r.check(p.readAnswers()) })
		readers.Go(func() { r.check(p.readPushes()) })
	}
	result, err := r.measure(sending)
	stop()
	senders.Wait()
	r.settle()
	r.close()
	readers.Wait()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, p := range r.pairs {
		p.sum(result)
	}
	return result, nil
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
	if err := r.wait(ctx, r.o.Warmup); err != nil {
		return nil, err
	}
	before, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	delivered := r.delivered.Load()
	r.measuring.Store(true)
	if err := r.wait(ctx, r.o.Duration); err != nil {
		return nil, err
	}
	r.measuring.Store(false)
	after, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	took := after.at.Sub(before.at)
	res := &TalkResult{
		Pairs: r.o.Pairs, Window: r.o.Window, DueRate: r.o.Rate, Size: r.o.Size,
		Seconds:  took.Seconds(),
		Messages: r.delivered.Load() - delivered,
		Ack:      r.ack.latency(),
		Deliver:  r.deliver.latency(),
		Refused:  map[string]int64{},
	}
	res.Rate = float64(res.Messages) / took.Seconds()
	res.CPU = after.cpuSince(before, r.o.Processes, res.Messages)
	return res, nil
}

func (r *talkRun) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-r.o.Until:
		return nil
	case err := <-r.failed:
		return err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil
		}
		return ctx.Err()
	}
}

// settle waits until every message was delivered and answered, or settleWait.
func (r *talkRun) settle() {
	for deadline := time.Now().Add(settleWait); time.Now().Before(deadline); {
		if !slices.ContainsFunc(r.pairs, func(p *pair) bool { return p.underWay.Load() > 0 }) {
			return
		}
		time.Sleep(settlePoll)
	}
}

// settlePoll is the pause between looks whether everything has arrived.
const settlePoll = 10 * time.Millisecond

// pair is a sender, a receiver and what is known of each message between them.
type pair struct {
	run      *talkRun
	index    int
	from, to *user
	loop     *loop
	underWay atomic.Int64

	mu        sync.Mutex
	sent      []sending // message n is at n-1; guarded by mu
	highest   int       // delivered; guarded by mu
	doubled   int64     // guarded by mu
	reordered int64     // guarded by mu
	refused   map[string]int64
}

// sending is one message.
type sending struct {
	at                        time.Time
	acked, delivered, refused bool
}

func (p *pair) send(ctx context.Context) error {
	padding := strings.Repeat("x", p.run.o.Size-MinSize)
	for n := 1; ; n++ {
		at, ok := p.loop.due(ctx)
		if !ok {
			return nil
		}
		text := fmt.Sprintf("%0*x", MinSize, n) + padding
		body, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: text, ClientId: strconv.Itoa(n)})
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.sent = append(p.sent, sending{at: at})
		p.mu.Unlock()
		p.underWay.Add(1)
		if err := p.from.request(wire.CmdUserTalk, p.to.account, uint32(n), body); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// done counts a message less under way.
func (p *pair) done() {
	p.underWay.Add(-1)
	p.loop.done()
}

// readAnswers ends without error when the run closes the connection.
func (p *pair) readAnswers() error {
	for {
		m, err := p.from.next()
		if err != nil {
			return fmt.Errorf("%s: %w", p.from.account, err)
		}
		if m.Command == wire.CmdUserTalk && m.Flag == wire.FlagResponse {
			p.answered(int(m.Sequence), m.Status)
		}
	}
}

func (p *pair) answered(n int, status wire.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) || p.sent[n-1].acked || p.sent[n-1].refused {
		return
	}
	s := &p.sent[n-1]
	if status != wire.StatusSuccess {
		s.refused = true
		p.refused[status.String()]++
		p.done()
		return
	}
	s.acked = true
	if p.run.measuring.Load() {
		p.run.ack.record(p.index, time.Since(s.at))
	}
	if s.delivered {
		p.done()
	}
}

func (p *pair) readPushes() error {
	for {
		m, err := p.to.next()
		if err != nil {
			return fmt.Errorf("%s: %w", p.to.account, err)
		}
		if m.Command != wire.CmdUserTalk || m.Flag != wire.FlagPush {
			continue
		}
		var push pb.MessagePush
		if err := proto.Unmarshal(m.Body, &push); err != nil {
			return err
		}
		n, err := strconv.ParseInt(push.Body[:min(MinSize, len(push.Body))], 16, 64)
		if err != nil {
			return fmt.Errorf("a body was changed on the way: %w", err)
		}
		p.arrived(int(n))
	}
}

func (p *pair) arrived(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) {
		return
	}
	s := &p.sent[n-1]
	switch {
	case s.delivered:
		p.doubled++
		return
	case n < p.highest:
		p.reordered++
	default:
		p.highest = n
	}
	s.delivered = true
	p.run.delivered.Add(1)
	if p.run.measuring.Load() {
		p.run.deliver.record(p.index, time.Since(s.at))
	}
	if s.acked {
		p.done()
	}
}

// sum adds the pair's counts to the result.
func (p *pair) sum(r *TalkResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sent {
		r.Sent++
		switch {
		case s.acked && !s.delivered:
			r.Lost++
		case !s.acked && !s.refused:
			r.Unanswered++
		}
		if s.acked {
			r.Acked++
		}
	}
	r.Doubled += p.doubled
	r.Reordered += p.reordered
	for status, n := range p.refused {
		r.Refused[status] += n
	}
}
