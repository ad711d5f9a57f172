package logic

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// keepsCursors reports whether the session's client keeps cursors, and so acknowledges nothing.
func keepsCursors(s *storage.Session) bool { return wire.Features(s.Features).Has(wire.FeatureSync) }

// maxChannels bounds the channels of one packet, so that a large group's stays far below the limit of a link.
const maxChannels = 10_000

// targets are the channels to reach, by gateway.
type targets []target

type target struct {
	gateway  string
	channels []string
	acks     bool // some of them are of clients that acknowledge what they are sent
}

func (t *targets) add(s *storage.Session) {
	i := 0
	for i < len(*t) && (*t)[i].gateway != s.Gateway {
		i++
	}
	if i == len(*t) {
		*t = append(*t, target{gateway: s.Gateway})
	}
	to := &(*t)[i]
	to.channels = append(to.channels, s.Channel)
	to.acks = to.acks || !keepsCursors(s)
}

func targetsOf(found [][]storage.Session) targets {
	var t targets
	for _, sessions := range found {
		for i := range sessions {
			t.add(&sessions[i])
		}
	}
	return t
}

// encode makes a push of its header and body.
func (d *dispatcher) encode(header wire.Header, body proto.Message) (p wire.LogicPkt, ok bool) {
	p.Header, p.Flag = header, wire.FlagPush
	var err error
	if p.Body, err = proto.Marshal(body); err != nil {
		d.log.WithError(err).WithField("command", p.Command).Error("cannot encode a push")
		return p, false
	}
	return p, true
}

// send encodes a push and queues it.
func (d *dispatcher) send(t targets, header wire.Header, body proto.Message) {
	if len(t) == 0 {
		return
	}
	if p, ok := d.encode(header, body); ok {
		d.sendAll(t, p)
	}
}

// sendAll queues the pushes to each gateway, in order: several as one packet, unless that is too old to take them so. The gateway
// learns what they hold, by the header's Delivered, if clients of it will acknowledge that.
func (d *dispatcher) sendAll(t targets, pushes ...wire.LogicPkt) {
	var all wire.LogicPkt
	for _, to := range t {
		packets := pushes
		if len(pushes) > 1 && d.links.Speaks(to.gateway, container.VersionPushes) {
			if all.Body == nil {
				all = inOne(pushes)
			}
			packets = []wire.LogicPkt{all}
		}
		for _, p := range packets {
			if !to.acks {
				p.Delivered = nil
			}
			d.queue(to, &p, len(pushes)/len(packets))
		}
	}
}

// inOne is link.pushes.
func inOne(pushes []wire.LogicPkt) wire.LogicPkt {
	all := wire.LogicPkt{Header: wire.Header{Command: wire.CmdLinkPushes, Flag: wire.FlagPush}}
	var body pb.LinkPushes
	for _, p := range pushes {
		all.Delivered = append(all.Delivered, p.Delivered...)
		p.Delivered = nil
		body.Packets = append(body.Packets, p.Append(make([]byte, 0, packetSize(&p))))
	}
	all.Body, _ = proto.Marshal(&body) // it holds only bytes
	return all
}

// queue sends a packet of n pushes to the channels of one gateway.
func (d *dispatcher) queue(to target, p *wire.LogicPkt, n int) {
	for p.Channels = range slices.Chunk(to.channels, maxChannels) {
		err := d.links.Push(to.gateway, p.Append(make([]byte, 0, packetSize(p))))
		d.count(n*len(p.Channels), err)
		if err == nil || errors.Is(err, im.ErrQueueFull) {
			continue
		}
		d.locations.forgetAll()          // the gateway's lease may have ended
		if p.Command == wire.CmdSignIn { // KickoutNotify
			d.unlinked.add(to.gateway, nil, p.Channels)
		} else {
			d.unlinked.add(to.gateway, p.Channels, nil)
		}
	}
}

// packetSize is about the size of a push, rather more.
func packetSize(p *wire.LogicPkt) int {
	n := 96 + len(p.Body) + len(p.Dest)
	for _, channel := range p.Channels {
		n += len(channel) + 2
	}
	return n
}

func (d *dispatcher) count(n int, err error) {
	switch {
	case err == nil:
		d.metrics.pushed.Add(float64(n))
	case errors.Is(err, im.ErrQueueFull):
		d.metrics.unpushed.WithLabelValues("queue_full").Add(float64(n))
	default:
		d.metrics.unpushed.WithLabelValues("not_linked").Add(float64(n))
	}
}
