package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/hermod-im/hermod/wire/token"
)

// share is what one worker does of a run of Connect: connections First to First+Connections-1.
type share struct {
	Run                string // id of the run
	URLs               []string
	Secret             []byte
	App                string
	First, Connections int
	Sources            int // of the whole run
	InTurnOf           int // see ConnectOptions.InTurn: all connections of the run, or 0
	Rate               float64
	Parallel           int
	Heartbeat          time.Duration
}

// crowdReport is what a worker has counted so far.
type crowdReport struct {
	Joined, Failed, Pings, Pongs, Dropped int64

	Failure string // of the first login that failed
	Dropage string // why the first connection ended
	Memory  int64  // of the worker's process, in bytes
	// Logins is an encoded histogram of logins: set when all are done.
	Logins []byte `json:",omitempty"`
}

// add adds another worker's counts.
func (r *crowdReport) add(other crowdReport) {
	r.Joined += other.Joined
	r.Failed += other.Failed
	r.Pings += other.Pings
	r.Pongs += other.Pongs
	r.Dropped += other.Dropped
	r.Memory += other.Memory
	r.Failure = cmp.Or(r.Failure, other.Failure)
	r.Dropage = cmp.Or(r.Dropage, other.Dropage)
}

// crowd is the connections of one worker.
type crowd struct {
	share
	targets []target
	swarm   *swarm
	logins  recorder

	failed  atomic.Int64
	failure atomic.Pointer[string] // of the first login that failed

	mu  sync.Mutex // held while a report is written
	out *json.Encoder
}

// ConnectWorker makes a share of the connections of a run of Connect, in a process that its Spawn has
// started: requests come from in and are answered on out. It returns when in ends, or ctx.
func ConnectWorker(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	requests := json.NewDecoder(in)
	c := &crowd{out: json.NewEncoder(out)}
	if err := requests.Decode(&c.share); err != nil {
		return cutShort(err)
	}
	if c.targets, err = parseTargets(c.URLs); err != nil {
		return err
	}
	if err := enoughDescriptors(c.Connections, c.Parallel); err != nil {
		return err
	}
	if c.swarm, err = newSwarm(c.Connections, c.targets[0].websocket, c.Heartbeat, func(int, []byte) {}); err != nil {
		return err
	}
	if c.InTurnOf > 0 {
		c.swarm.round = c.round()
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.swarm.run(stop) }()
	err = c.run(ctx, requests)
	close(stop)
	return errors.Join(err, <-ended)
}

// round is that of ConnectOptions.InTurn.
func (c *crowd) round() time.Duration { return min(time.Second, c.Heartbeat/50) }

// cutShort makes the end of the requests no error.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func (c *crowd) run(ctx context.Context, requests *json.Decoder) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := make(chan request)
	go func() {
		defer cancel() // the end of the requests is the end of the work
		var what request
		for requests.Decode(&what) == nil {
			select {
			case asked <- what:
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := c.connectAll(ctx); err != nil {
		return err
	}
	for {
		select {
		case what := <-asked:
			if err := c.answer(ctx, what); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// pongWait is how long the last pings may take to be answered.
const pongWait = time.Second

func (c *crowd) answer(ctx context.Context, what request) error {
	if what == askEnd {
		c.swarm.quiet.Store(true)
		if err := pause(ctx, pongWait); err != nil {
			return err
		}
	}
	report, err := c.counts()
	if err != nil {
		return err
	}
	return c.write(report)
}

func (c *crowd) counts() (crowdReport, error) {
	memory, err := ownMemory()
	r := crowdReport{
		Joined: c.swarm.joined.Load(), Failed: c.failed.Load(), Dropped: c.swarm.dropped.Load(), Memory: memory,
	}
	r.Pongs, r.Pings = c.swarm.pongs.Load(), c.swarm.pings.Load()
	for text, why := range map[*string]*string{&r.Failure: c.failure.Load(), &r.Dropage: c.swarm.failure.Load()} {
		if why != nil {
			*text = *why
		}
	}
	return r, err
}

func (c *crowd) write(r crowdReport) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Encode(r)
}

// progressStep is how many logins there are between two reports of progress.
const progressStep = 250

// connectAll logs all connections in, goes on without those that fail, and reports how that went.
func (c *crowd) connectAll(ctx context.Context) error {
	each(ctx, c.Connections, c.Parallel, c.Rate, func(i int, begun time.Time) bool {
		if err := c.connect(i, begun); err != nil {
			c.failed.Add(1)
			text := err.Error()
			c.failure.CompareAndSwap(nil, &text)
		}
		if (i+1)%progressStep == 0 {
			_ = c.write(crowdReport{Joined: c.swarm.joined.Load()}) // who cannot hear it closes in, too
		}
		return true
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	debug.FreeOSMemory() // of the logins
	report, err := c.counts()
	if err != nil {
		return err
	}
	if report.Logins, err = c.logins.histogram().Encode(hdrhistogram.V2CompressedEncodingCookieBase); err != nil {
		return fmt.Errorf("histogram of logins: %w", err)
	}
	return c.write(report)
}

// connect makes the worker's i-th connection, whose latency counts from begun.
func (c *crowd) connect(i int, begun time.Time) error {
	nth := c.First + i
	t, place := c.targets[nth%len(c.targets)], nth/len(c.targets)
	if c.InTurnOf > 0 {
		at := nth * len(c.targets) / c.InTurnOf
		t, place = c.targets[at], nth-at*c.InTurnOf/len(c.targets)
	}
	account := fmt.Sprintf("bench-%s-%d", c.Run, nth)
	jwt, err := token.Issue(c.Secret, token.Claims{Account: account, App: c.App, Expires: time.Now().Add(tokenTTL)})
	if err != nil {
		return err
	}
	source, _ := t.sourceAddress(place, c.Sources)
	s, err := dialSocket(t, source)
	if err != nil {
		return err
	}
	if err := s.signIn(jwt, "bench"); err != nil {
		_ = s.Close()
		return err
	}
	c.logins.record(i, time.Since(begun))
	return c.swarm.add(i, s)
}
