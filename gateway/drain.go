package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// How a gateway stops without anybody noticing (I8): it leaves the registry, or has waited long enough for one that does not answer
// (container.Registration.Deregister), and then, in the time of Config.Drain:
//
//	0 %        it asks the clients that understand gateway.goaway to move, each after a delay of
//	           its own up to 60 %; it serves them as ever meanwhile
//	0 – 60 %   the others are closed with 1001, one after another
//	80 %       those that have not moved are closed as well, until 90 %
//	– 100 %    what they have asked is answered
//
// It stops as soon as no client is left. Few clients are not spread over the whole window: see moveRate.
// If there is no other gateway to move to (any more), nobody is waited for.
const (
	moveUntil  = 60 // percent of Config.Drain
	moveGrace  = 80 // percent; the rest is for the router, the login elsewhere and the close
	closeUntil = 90 // percent
	// moveRate is how many clients a second move, or are disconnected, where the window lets us choose:
	// what one other gateway takes (config: limits.login_rate).
	moveRate = 1000
)

// drain leaves the registry, moves the clients elsewhere, ends their sessions and the lease.
func (g *Gateway) drain() {
	deregistering, giveUp := context.WithTimeout(context.Background(), g.cfg.Drain)
	defer giveUp()
	deregistered := g.registration.Deregister(deregistering)

	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.Drain+5*time.Second)
	defer cancel()
	g.moveClients(ctx)
	if err := g.deps.Server.Shutdown(ctx); err != nil {
		g.log.WithError(err).Warn("clients cut off")
	}
	g.leases.end()
	<-deregistered
}

// moveClients sees to it that all clients go, each after its open requests were answered.
func (g *Gateway) moveClients(ctx context.Context) {
	start := time.Now()
	part := func(percent time.Duration) time.Duration { return g.cfg.Drain * percent / 100 }
	closed := func(s *session) {
		if !s.isLeaving() {
			g.metrics.drained.closed.Inc()
		}
		s.leave(im.ReasonGoingAway)
	}

	alone := g.alone(ctx)
	var movers, others []*session
	for _, s := range g.sessions() {
		switch {
		case !s.isOnline(): // Connect will see to it
		case s.features.Has(wire.FeatureGoAway) && !alone:
			movers = append(movers, s)
		default:
			others = append(others, s)
		}
	}
	over := span(len(movers)+len(others), moveRate, part(moveUntil))
	for _, s := range movers {
		g.goAway(s, moveDelay(over, time.Since(start), rand.Float64()))
	}
	spread(ctx, len(others), over, func(i int) { closed(others[i]) })
	// The others may stop as well, for instance all at once.
	moving, moved := context.WithDeadline(ctx, start.Add(part(moveGrace)))
	for g.connections.Load() > 0 && moving.Err() == nil && !g.alone(moving) {
		g.awaitGone(moving, aloneCheck)
	}
	moved()

	for _, s := range movers {
		if _, stayed := g.deps.Channels.Get(s.id()); !stayed {
			g.metrics.drained.moved.Inc()
		}
	}
	late := g.sessions()
	spread(ctx, len(late), span(len(late), moveRate, part(closeUntil-moveGrace)), func(i int) { closed(late[i]) })
	g.awaitGone(ctx, time.Until(start.Add(part(100))))
}

// alone reports whether there is no other gateway, as far as the registry knows.
func (g *Gateway) alone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, findWait)
	defer cancel()
	list, err := g.deps.Naming.Find(ctx, naming.ServiceGateway)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(list, func(i naming.Instance) bool {
		return i.ID != g.cfg.Instance.ID && i.State != naming.StateDraining
	})
}

const (
	// aloneCheck is how often it is asked whether there are other gateways, and findWait bounds the answer.
	aloneCheck = time.Second
	findWait   = time.Second
)

// moveDelay is when a client is to move, from now on, if it is to do so at a random point of the span,
// of which so much is over.
func moveDelay(span, elapsed time.Duration, random float64) time.Duration {
	return max(0, time.Duration(random*float64(span))-elapsed)
}

// goAway asks a client to move after the delay, once.
func (g *Gateway) goAway(s *session, delay time.Duration) {
	if s.asked.Swap(true) {
		return
	}
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdGoAway, Flag: wire.FlagPush}}
	p.Body, _ = proto.Marshal(&pb.GoAway{DelayMs: uint32(delay.Milliseconds())}) // a number
	_ = s.push(p.Append(nil))                                                    // a closed channel has gone
	g.metrics.goaways.Inc()
}

// turnAway is for a client whose login was under way when the gateway began to stop.
func (g *Gateway) turnAway(s *session) {
	if s.features.Has(wire.FeatureGoAway) && !g.alone(context.Background()) {
		g.goAway(s, 0)
		return
	}
	s.leave(im.ReasonGoingAway)
}

func (g *Gateway) sessions() []*session {
	channels := g.deps.Channels.All()
	out := make([]*session, len(channels))
	for i, ch := range channels {
		out[i] = sessionOf(ch)
	}
	return out
}

// awaitGone waits until no client is left, at most that long.
func (g *Gateway) awaitGone(ctx context.Context, longest time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	for g.connections.Load() > 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}
