package gateway

import (
	"context"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// A push may be lost only if the client learns that it must sync (I4). When a link to a logic node
// breaks or comes back, nobody knows what was on it, so every client gets sync.hint; one that does
// not understand hints is disconnected and syncs when it comes back.

const (
	// hintTick and hintBatch spread the hints: 20,000 clients a second, so that 100,000 do not sync at once.
	hintTick  = 50 * time.Millisecond
	hintBatch = 1000
)

var syncHint = (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}}).Append(nil)

// hint tells one client that it should sync; one that is logging in will do so anyway.
func hint(s *session) {
	if !s.isOnline() {
		return
	}
	if !s.features.Has(wire.FeatureSync) {
		s.ch.Close(im.ReasonSyncNeeded)
		return
	}
	_ = s.push(syncHint) // a closed channel syncs anyway
}

// hints tells all clients of a gateway, one round at a time.
type hints struct {
	gateway *Gateway
	wanted  chan struct{} // capacity 1
}

func newHints(g *Gateway) *hints {
	return &hints{gateway: g, wanted: make(chan struct{}, 1)}
}

// want asks for a round of hints after the current one.
func (h *hints) want() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

func (h *hints) run(ctx context.Context) {
	for {
		select {
		case <-h.wanted:
			h.round(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (h *hints) round(ctx context.Context) {
	channels := h.gateway.deps.Channels.All()
	h.gateway.metrics.hinted.Add(float64(len(channels)))
	for len(channels) > 0 {
		n := min(hintBatch, len(channels))
		for _, ch := range channels[:n] {
			hint(sessionOf(ch))
		}
		channels = channels[n:]
		if len(channels) == 0 {
			return
		}
		select {
		case <-time.After(hintTick):
		case <-ctx.Done():
			return
		}
	}
}
