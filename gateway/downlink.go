package gateway

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// deliver handles one packet of a logic node, in the order of its link.
func (g *Gateway) deliver(l *container.Link, p *wire.LogicPkt) {
	switch p.Flag {
	case wire.FlagResponse:
		g.deliverResponse(l, p)
	case wire.FlagPush:
		g.deliverPush(p)
	default:
		g.log.WithField("command", p.Command).Warn("a logic node sent a request")
	}
}

func (g *Gateway) deliverResponse(l *container.Link, p *wire.LogicPkt) {
	open := l.Answered(container.Open{Channel: p.ChannelID, Sequence: p.Sequence, Command: p.Command})
	ch, ok := g.deps.Channels.Get(p.ChannelID)
	if !ok {
		g.metrics.undelivered.WithLabelValues("gone").Inc()
		if p.Command == wire.CmdSignIn && p.Status == wire.StatusSuccess { // later than the end of its session
			g.leases.forget(&pb.Session{App: p.App, Account: p.Account, Device: p.Device, Channel: p.ChannelID})
		}
		return
	}
	s := sessionOf(ch)
	if p.Command == wire.CmdSignIn {
		if open { // else the link had broken, and another node was asked
			c := *p
			c.Body = slices.Clone(p.Body)
			s.answerLogin(&c)
			s.answered()
		}
		return
	}
	g.count(s.answer(p))
	if open {
		s.answered()
	}
}

// deliverPush encodes the push once and queues the same bytes to every channel it is for.
func (g *Gateway) deliverPush(p *wire.LogicPkt) {
	channels, delivered := p.Channels, p.Delivered
	if p.Command == wire.CmdSyncHint && len(channels) == 0 {
		g.hints.want(causeLogic) // the node could not tell for whom its pushes were
		return
	}
	switch p.Command {
	case wire.CmdSessionEnd:
		g.forgetUnknown(p)
		return
	case wire.CmdLinkPushes:
		g.deliverPushes(p)
		return
	}
	p.Link, p.ChannelID = wire.Link{}, ""
	payload := encode(p)
	for _, id := range channels {
		ch, ok := g.deps.Channels.Get(id)
		if !ok {
			g.metrics.undelivered.WithLabelValues("gone").Inc()
			continue
		}
		s := sessionOf(ch)
		switch p.Command {
		case wire.CmdSyncHint:
			hint(s)
			continue
		case wire.CmdSignIn: // KickoutNotify
			g.count(s.displace(payload))
			continue
		}
		g.count(s.deliver(payload, delivered, false))
	}
}

// deliverPushes queues several pushes to the channels that they are for: each is found and locked once for all of them.
func (g *Gateway) deliverPushes(p *wire.LogicPkt) {
	var pushes pb.LinkPushes
	err := proto.Unmarshal(p.Body, &pushes)
	if err == nil && len(p.Delivered) > 0 && len(p.Delivered) != len(pushes.Packets) {
		err = fmt.Errorf("%d pushes, %d of them delivered", len(pushes.Packets), len(p.Delivered))
	}
	if err != nil {
		g.log.WithError(err).Warn("a logic node sent a malformed packet")
		g.hints.want(causeLogic)
		return
	}
	for _, id := range p.Channels {
		ch, ok := g.deps.Channels.Get(id)
		if !ok {
			g.metrics.undelivered.WithLabelValues("gone").Add(float64(len(pushes.Packets)))
			continue
		}
		g.countAll(len(pushes.Packets), sessionOf(ch).deliverAll(pushes.Packets, p.Delivered))
	}
}

// forgetUnknown ends sessions that stand in somebody's way, if there is no channel for them (any more).
func (g *Gateway) forgetUnknown(p *wire.LogicPkt) {
	var req pb.SessionEndReq
	if err := proto.Unmarshal(p.Body, &req); err != nil {
		g.log.WithError(err).Warn("a logic node sent a malformed packet")
		return
	}
	for _, s := range req.Sessions {
		if _, ok := g.deps.Channels.Get(s.Channel); !ok {
			g.leases.forget(s)
		}
	}
}

// encode makes a packet's bytes with one allocation, unless its header is unusually long.
func encode(p *wire.LogicPkt) []byte {
	const header = 160 // framing included
	return p.Append(make([]byte, 0, header+len(p.Body)))
}

func (g *Gateway) count(err error) { g.countAll(1, err) }

// countAll counts n packets to one channel, with what has become of them.
func (g *Gateway) countAll(n int, err error) {
	switch {
	case err == nil:
		g.metrics.delivered.Add(float64(n))
	case errors.Is(err, im.ErrQueueFull):
		g.metrics.undelivered.WithLabelValues("queue_full").Add(float64(n))
	default:
		g.metrics.undelivered.WithLabelValues("closed").Add(float64(n))
	}
}
