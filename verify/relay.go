package verify

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"
)

// relay is a bad line: it carries a client's connections to gateways, to another one each time, and
// cuts them at any byte.
type relay struct {
	// Static after construction.
	listener net.Listener
	scheme   string
	pick     func(context.Context) (string, error)
	calm     func() bool
	mean     time.Duration // how long it carries a connection on average

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

// cutMean is relay.mean, and how often plain clients hang up.
const cutMean = 4 * time.Second

func newRelay(scheme string, pick func(context.Context) (string, error), calm func() bool, rng *rand.Rand) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &relay{listener: l, scheme: scheme, pick: pick, calm: calm, mean: cutMean, rng: rng}, nil
}

// url is where a client connects.
func (r *relay) url(context.Context) (string, error) {
	return r.scheme + "://" + r.listener.Addr().String(), nil
}

// run carries connections until ctx ends.
func (r *relay) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = r.listener.Close() })()
	var carrying sync.WaitGroup
	defer carrying.Wait()
	for ctx.Err() == nil {
		conn, err := r.listener.Accept()
		if err != nil {
			pause(ctx, time.Second)
			continue
		}
		carrying.Go(func() { r.carry(ctx, conn) })
	}
}

func (r *relay) carry(ctx context.Context, near net.Conn) {
	defer near.Close() //nolint:errcheck // a line that is cut
	gateway, err := r.pick(ctx)
	if err != nil {
		return
	}
	u, err := url.Parse(gateway)
	if err != nil {
		return
	}
	dialer := net.Dialer{Timeout: lookupWait}
	far, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return
	}
	defer far.Close() //nolint:errcheck // a line that is cut
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var copying sync.WaitGroup
	for _, line := range [][2]net.Conn{{near, far}, {far, near}} {
		copying.Go(func() {
			defer cancel()
			_, _ = io.Copy(line[0], line[1])
		})
	}
	for pause(ctx, r.lasts()); ctx.Err() == nil && r.calm(); {
		pause(ctx, r.mean)
	}
	r.cut(near)
	r.cut(far)
	copying.Wait()
}

func (r *relay) lasts() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.rng.ExpFloat64() * float64(r.mean))
}

// cut closes a connection, every second one without a farewell.
func (r *relay) cut(c net.Conn) {
	r.mu.Lock()
	reset := r.rng.IntN(2) == 0
	r.mu.Unlock()
	if tcp, ok := c.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
