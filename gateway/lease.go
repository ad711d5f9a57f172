package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"

	im "github.com/hermod-im/hermod"
)

// leases keeps the sessions of this gateway's channels: one lease for all, renewed by asking a logic
// node every third of it. If the lease was lost (the session store was emptied or down), all
// sessions are stored again in batches; sessions of closed channels are ended in batches.
type leases struct {
	gateway *Gateway
	held    atomic.Bool   // has been granted once
	kick    chan struct{} // capacity 1: look now

	flushing sync.Mutex // one flush at a time: run's, and end's while run still runs

	mu    sync.Mutex
	live  map[string]*session // by channel id; guarded by mu
	ended []*pb.Session       // to be ended in the store; guarded by mu
}

const (
	// sessionBatch is how many sessions travel in one packet.
	sessionBatch = 500
	// leaseRetry is the pause after a failure.
	leaseRetry = 200 * time.Millisecond
	// leaseCall bounds one request.
	leaseCall = 3 * time.Second
	// refreshEvery stores all sessions again, long before the store would forget them.
	refreshEvery = 6 * time.Hour
)

func newLeases(g *Gateway) *leases {
	return &leases{gateway: g, kick: make(chan struct{}, 1), live: map[string]*session{}}
}

func (l *leases) add(s *session) {
	l.mu.Lock()
	l.live[s.id] = s
	l.mu.Unlock()
}

// remove ends the session of a channel.
func (l *leases) remove(id string) {
	l.mu.Lock()
	if s := l.live[id]; s != nil {
		l.ended = append(l.ended, s.proto())
		delete(l.live, id)
	}
	l.mu.Unlock()
	l.wake()
}

// wake makes run look now.
func (l *leases) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *leases) run(ctx context.Context) {
	var renewed, refreshed time.Time
	refreshed = time.Now()
	for {
		pause := l.gateway.cfg.Lease / 3
		if time.Since(renewed) >= pause || !l.held.Load() {
			lost, err := l.renew(ctx)
			if err == nil && (lost || time.Since(refreshed) > refreshEvery) {
				err = l.restore(ctx)
				refreshed = time.Now()
			}
			if err == nil {
				renewed = time.Now()
			}
		}
		ok := l.flush(ctx) && time.Since(renewed) < pause
		if !ok {
			pause = leaseRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-l.kick:
			if !ok { // what failed is not tried faster than by itself
				select {
				case <-ctx.Done():
					return
				case <-time.After(leaseRetry):
				}
			}
		}
	}
}

// renew extends the lease; lost says that the store did not know it.
func (l *leases) renew(ctx context.Context) (lost bool, err error) {
	req := &pb.LeaseRenewReq{Gateway: l.gateway.cfg.Instance.ID, LeaseMs: l.gateway.cfg.Lease.Milliseconds()}
	var resp pb.LeaseRenewResp
	if err := l.call(ctx, wire.CmdSessionRenew, req, &resp); err != nil {
		return false, err
	}
	if !l.held.Swap(true) {
		l.gateway.barrier.Changed()
	}
	return resp.Lost, nil
}

// restore stores all live sessions again and closes those that have been displaced meanwhile.
func (l *leases) restore(ctx context.Context) error {
	l.mu.Lock()
	var all []*pb.Session
	for _, s := range l.live {
		all = append(all, s.proto())
	}
	l.mu.Unlock()
	if len(all) > 0 {
		l.gateway.log.WithField("sessions", len(all)).Info("storing sessions again")
	}
	for len(all) > 0 {
		n := min(sessionBatch, len(all))
		var resp pb.SessionRestoreResp
		req := &pb.SessionRestoreReq{Gateway: l.gateway.cfg.Instance.ID, Sessions: all[:n]}
		if err := l.call(ctx, wire.CmdSessionRestore, req, &resp); err != nil {
			return err
		}
		for _, id := range resp.Displaced {
			l.displace(id)
		}
		all = all[n:]
	}
	return nil
}

// displace tells a channel that a newer login of its device has taken over, and closes it.
func (l *leases) displace(id string) {
	ch, ok := l.gateway.deps.Channels.Get(id)
	if !ok {
		return
	}
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn, Flag: wire.FlagPush}}
	p.Body, _ = proto.Marshal(&pb.KickoutNotify{ChannelId: id}) // ids are ASCII
	_ = sessionOf(ch).push(p.Append(nil))                       // a closed channel needs none
	ch.Close(im.ReasonDisplaced)
}

// flush ends the sessions of closed channels, and reports whether none is left.
func (l *leases) flush(ctx context.Context) bool {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	for {
		l.mu.Lock()
		batch := l.ended[:min(sessionBatch, len(l.ended))]
		l.mu.Unlock()
		if len(batch) == 0 {
			return true
		}
		if err := l.call(ctx, wire.CmdSessionEnd, &pb.SessionEndReq{Sessions: batch}, nil); err != nil {
			return false
		}
		l.mu.Lock()
		if l.ended = l.ended[len(batch):]; len(l.ended) == 0 {
			l.ended = nil
		}
		l.mu.Unlock()
	}
}

// end is the last word of a gateway that stops.
func (l *leases) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseCall)
	defer cancel()
	if !l.flush(ctx) {
		l.gateway.log.Warn("some sessions are left to end with the lease")
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
