package gateway

import (
	"errors"
	"slices"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
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
		return
	}
	s := sessionOf(ch)
	if p.Command == wire.CmdSignIn {
		if open { // else the link had broken, and another node was asked
			c := *p
			c.Body = slices.Clone(p.Body)
			s.result <- &result{pkt: &c}
			s.answered()
		}
		return
	}
	p.Link = wire.Link{}
	g.count(s.push(encode(p)))
	if open {
		s.answered()
	}
}

// deliverPush encodes the push once and queues the same bytes to every channel it is for.
func (g *Gateway) deliverPush(p *wire.LogicPkt) {
	channels := p.Channels
	if p.Command == wire.CmdSyncHint && len(channels) == 0 {
		g.hints.want(causeLogic) // the node could not tell for whom its pushes were
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
		g.count(s.push(payload))
	}
}

// encode makes a packet's bytes with one allocation, unless its header is unusually long.
func encode(p *wire.LogicPkt) []byte {
	const header = 160 // framing included
	return p.Append(make([]byte, 0, header+len(p.Body)))
}

func (g *Gateway) count(err error) {
	switch {
	case err == nil:
		g.metrics.delivered.Inc()
	case errors.Is(err, im.ErrQueueFull):
		g.metrics.undelivered.WithLabelValues("queue_full").Inc()
	default:
		g.metrics.undelivered.WithLabelValues("closed").Inc()
	}
}
