package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// leases keeps the sessions of this gateway's channels: one lease for all, renewed by asking a logic
// node every third of it. If the lease was lost (the session store was emptied or down), all
// sessions are stored again in batches; sessions of closed channels are ended in batches. Nothing of
// that takes so long that the lease runs out meanwhile: one goroutine does what is most urgent.
type leases struct {
	gateway *Gateway
	held    atomic.Bool   // has been granted once
	losses  atomic.Uint64 // how often sessions were to be stored again
	kick    chan struct{} // capacity 1: look now
	stop    context.CancelFunc
	stopped chan struct{}

	// Owned by run, and then by end.

	renewed   time.Time     // when the lease was renewed last
	refreshed time.Time     // when the sessions were last stored again
	told      int64         // pb.Missed.UpTo of the last answer, 0 if it had none: these clients know that they must sync
	restoring []*session    // still to be stored again
	ending    []*pb.Session // being ended in the store

	mu      sync.Mutex
	ended   []*pb.Session // to be ended in the store, at most maxEnded; guarded by mu
	stamps  stamps        // of what was stored; guarded by mu
	overdue bool          // renew now: the store may be behind; guarded by mu
	restore bool          // the store may lack sessions; guarded by mu
	hint    bool          // and pushes have been lost for that; guarded by mu
}

const (
	// sessionBatch is how many sessions travel in one packet.
	sessionBatch = 500
	// maxEnded bounds the sessions that wait to be ended while the store is down: about 60 MB. The
	// oldest give way; they end with their device's next login or with this gateway.
	maxEnded = 1 << 18
	// leaseRetry is the pause after a failure.
	leaseRetry = 200 * time.Millisecond
	// leaseCall bounds one request.
	leaseCall = 3 * time.Second
	// refreshEvery stores all sessions again, long before the store would forget them.
	refreshEvery = 6 * time.Hour
)

func newLeases(g *Gateway) *leases {
	return &leases{gateway: g, kick: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// leasedChannels is a channel map that ends the sessions of the channels that leave it: what of them
// is to be ended in the store is nowhere else.
type leasedChannels struct {
	im.ChannelMap
	leases *leases
}

// Remove forgets the channel and ends its session.
func (c leasedChannels) Remove(id string) {
	ch, ok := c.Get(id)
	c.ChannelMap.Remove(id)
	if !ok {
		return
	}
	if s := sessionOf(ch); s.stored {
		c.leases.forget(s.proto())
	}
}

// forget ends a session in the store, for which there is no channel (any more).
func (l *leases) forget(s *pb.Session) {
	l.mu.Lock()
	l.ended = append(l.ended, s)
	if n := len(l.ended) - maxEnded; n > 0 {
		l.ended = l.ended[n:]
		l.gateway.metrics.unended.Add(float64(n))
	}
	l.mu.Unlock()
	l.wake()
}

// stored notes the stamp of something that was stored under the lease.
func (l *leases) stored(stamp int64) {
	l.mu.Lock()
	again := l.stamps.saw(stamp)
	if again {
		l.overdue = true
	}
	l.mu.Unlock()
	if again {
		l.gateway.log.Warn("the session store went back to an older state")
		l.lost()
		l.wake()
	}
}

// restoreAll asks for all live sessions to be stored again.
func (l *leases) restoreAll() {
	l.mu.Lock()
	l.restore = true
	l.losses.Add(1)
	l.mu.Unlock()
	l.wake()
}

// lost is restoreAll after a time in which the store named none of our sessions: pushes were lost.
func (l *leases) lost() {
	l.mu.Lock()
	l.restore, l.hint = true, true
	l.losses.Add(1)
	l.mu.Unlock()
}

// missedLease reports whether the store may lack a session whose login it has granted, and has the lease renewed then:
// the lease had ended at the login, or was lost since losses were counted before it.
//
// The store forgets the sessions of an ended lease with the next login of their account. A client that logged in
// between the end of the lease and its renewal was then on line here and nowhere else, and got no pushes.
func (l *leases) missedLease(leased bool, losses uint64) bool {
	if leased && l.losses.Load() == losses {
		return false
	}
	if !leased {
		l.mu.Lock()
		l.overdue = true
		l.mu.Unlock()
		l.wake()
	}
	return true
}

// wake makes run look now.
func (l *leases) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// start runs the leases until ctx ends or end is called.
func (l *leases) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	go func() {
		defer close(l.stopped)
		l.run(ctx)
	}()
}

func (l *leases) run(ctx context.Context) {
	l.refreshed = time.Now()
	for ctx.Err() == nil {
		more, err := l.step(ctx)
		switch {
		case err != nil:
			pause(ctx, leaseRetry, nil) // what failed is not tried faster than that
		case !more:
			pause(ctx, time.Until(l.renewed.Add(l.period())), l.kick)
		}
	}
}

// pause returns after d, at a kick, or when ctx ends.
func pause(ctx context.Context, d time.Duration, kick <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-kick:
	case <-ctx.Done():
	}
}

// period is the time from one renewal of the lease to the next.
func (l *leases) period() time.Duration { return l.gateway.cfg.Lease / 3 }

// due reports whether the lease is to be renewed.
func (l *leases) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.overdue || time.Since(l.renewed) >= l.period()
}

// step does the most urgent thing, in one request, and reports whether there may be more to do.
func (l *leases) step(ctx context.Context) (more bool, err error) {
	switch {
	case l.due():
		return true, l.renew(ctx)
	case l.mustRestore():
		return true, l.restoreSome(ctx)
	default:
		return l.endSome(ctx)
	}
}

// renew extends the lease. After a failure nobody knows whether the answer would have been that the
// store did not know it: the sessions are stored again to be sure.
func (l *leases) renew(ctx context.Context) error {
	l.mu.Lock()
	seen := l.stamps.largest
	l.overdue = false
	l.mu.Unlock()
	req := &pb.LeaseRenewReq{Gateway: l.gateway.cfg.Instance.ID, LeaseMs: l.gateway.cfg.Lease.Milliseconds(), Stamp: seen, Told: l.told}
	var resp pb.LeaseRenewResp
	if err := l.call(ctx, wire.CmdSessionRenew, req, &resp); err != nil {
		l.restoreAll()
		return err
	}
	// Before the first renewal there was no client to miss anything, and there may be one when this is looked at.
	if l.held.Load() && (resp.Lost || time.Since(l.renewed) > l.gateway.cfg.Lease) {
		l.lost()
	}
	l.gateway.missed(resp.Missed)
	l.told = resp.Missed.GetUpTo() // 0 once that is forgotten: a store whose clock is set back counts from below
	l.renewed = time.Now()
	l.mu.Lock()
	l.stamps.turn()
	if resp.Lost { // what those stood for; the store says so until it is given a smaller one
		l.stamps = stamps{}
	}
	l.mu.Unlock()
	if !l.held.Swap(true) {
		l.gateway.barrier.Changed()
	}
	return nil
}

// stamps are those of the lease that came with answers. The store counts with them what it stores, so
// that one that was set back to an older state of itself shows: it is behind the largest when the
// lease is renewed, or, if it has stored that much since, it has counted over one for the second time.
type stamps struct {
	largest        int64
	recent, before map[int64]struct{} // of this period between renewals and of the last; each with what was the largest
}

// saw notes a stamp, and reports whether it came before; that is said once, and not of those that
// follow it. 0 is none.
func (s *stamps) saw(n int64) (again bool) {
	if n == 0 {
		return false
	}
	_, again = s.recent[n]
	if !again {
		_, again = s.before[n]
	}
	if s.recent == nil || again {
		s.recent, s.before = map[int64]struct{}{}, nil
	}
	s.recent[n] = struct{}{}
	s.largest = max(s.largest, n)
	return again
}

// turn begins another period.
func (s *stamps) turn() {
	if s.largest > 0 {
		s.before, s.recent = s.recent, map[int64]struct{}{s.largest: {}}
	}
}

// mustRestore reports whether sessions are to be stored again, and lists them at first.
func (l *leases) mustRestore() bool {
	if len(l.restoring) > 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.restore && time.Since(l.refreshed) < refreshEvery {
		return false
	}
	l.restore = false
	l.restoring = l.gateway.sessions()
	if len(l.restoring) == 0 {
		l.restored()
		return false
	}
	l.gateway.log.WithField("sessions", len(l.restoring)).Info("storing sessions again")
	return true
}

// restoreSome stores the next batch again and closes those that have been displaced meanwhile.
func (l *leases) restoreSome(ctx context.Context) error {
	batch := l.restoring[:min(sessionBatch, len(l.restoring))]
	req := &pb.SessionRestoreReq{Gateway: l.gateway.cfg.Instance.ID, Sessions: l.stillLive(batch)}
	if len(req.Sessions) > 0 {
		var resp pb.SessionRestoreResp
		if err := l.call(ctx, wire.CmdSessionRestore, req, &resp); err != nil {
			return err
		}
		l.stored(resp.Stamp)
		for _, id := range resp.Displaced {
			l.displace(id)
		}
	}
	if l.restoring = l.restoring[len(batch):]; len(l.restoring) == 0 {
		l.restoring = nil
		l.mu.Lock()
		l.restored()
		l.mu.Unlock()
	}
	return nil
}

// stillLive are those of the sessions whose channel is open and whose login has been granted: one
// that is being granted is stored by that.
func (l *leases) stillLive(batch []*session) []*pb.Session {
	var out []*pb.Session
	for _, s := range batch {
		if _, open := l.gateway.deps.Channels.Get(s.id()); open && s.isGranted() {
			out = append(out, s.proto())
		}
	}
	return out
}

// restored ends a round of storing the sessions again. mu is held.
func (l *leases) restored() {
	l.refreshed = time.Now()
	if l.hint && !l.restore {
		l.hint = false
		l.gateway.hints.want(causeStore)
	}
}

// displace tells a channel that a newer login of its device has taken over, and closes it.
func (l *leases) displace(id string) {
	ch, ok := l.gateway.deps.Channels.Get(id)
	if !ok {
		return
	}
	s := sessionOf(ch)
	if s.isLeaving() {
		return // the logic node's kick, which says why, has come
	}
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}}
	p.Body, _ = proto.Marshal(&pb.KickoutNotify{ChannelId: id}) // ids are ASCII
	_ = s.displace(p.Append(nil))                               // a closed channel needs none
}

// endSome ends a batch of sessions of closed channels, and reports whether it found some.
func (l *leases) endSome(ctx context.Context) (bool, error) {
	if len(l.ending) == 0 {
		l.mu.Lock()
		n := min(sessionBatch, len(l.ended))
		l.ending = l.ended[:n:n]
		if l.ended = l.ended[n:]; len(l.ended) == 0 {
			l.ended = nil
		}
		l.mu.Unlock()
	}
	if len(l.ending) == 0 {
		return false, nil
	}
	if err := l.call(ctx, wire.CmdSessionEnd, &pb.SessionEndReq{Sessions: l.ending}, nil); err != nil {
		return false, err
	}
	l.ending = nil
	return true, nil
}

// end is the last word of a gateway that stops: no channel is left.
func (l *leases) end() {
	l.stop()
	<-l.stopped
	ctx, cancel := context.WithTimeout(context.Background(), leaseCall)
	defer cancel()
	for more := true; more; {
		var err error
		if more, err = l.endSome(ctx); err != nil {
			l.gateway.log.WithError(err).Warn("some sessions are left to end with the lease")
		}
	}
	req := &pb.LeaseRenewReq{Gateway: l.gateway.cfg.Instance.ID}
	if err := l.call(ctx, wire.CmdLeaseEnd, req, nil); err != nil {
		l.gateway.log.WithError(err).Warn("cannot end the lease; it ends by itself")
	}
}

// call asks the logic node for this gateway's own matters.
func (l *leases) call(ctx context.Context, cmd wire.Command, req, resp proto.Message) error {
	link, err := l.gateway.links.Select(container.Key(l.gateway.cfg.Instance.ID))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseCall)
	defer cancel()
	return link.Request(ctx, wire.Header{Command: cmd}, req, resp)
}
