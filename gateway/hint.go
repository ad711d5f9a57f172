package gateway

import (
	"context"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// A push may be lost only if the client learns that it must sync (I4). When a link to a logic node
// breaks or comes back, nobody knows what was on it, so every client gets sync.hint; one that does
// not understand hints is disconnected and fetches what it missed when it is back.
//
// A link that breaks without having been drained is two rounds:
//
//	at once           sync.hint, to those that understand it: what was on the link is lost
//	lateCommit later  sync.hint again, and 4005 to the others: the node may have died with a COMMIT
//	                  on its way to the database, which landed after the first round
//
// If the link is up again before, the second round comes then: the node lives, and has pushed what it
// committed meanwhile over the broken link. Either is for all clients, whether a request of this gateway
// was open on the link or not: what landed may be for anybody, and came through any gateway. Clients
// that lose their connection for it lose it once.
//
// A link that flaps, or a lease that is lost again and again, would have the same clients log in every few
// seconds. So no single reason closes more than closeBurst times in closeEvery: what is beyond waits, and
// concerns those that were there at the last event it waits for.

const (
	// hintRate and hintSpan spread a round: 100,000 clients over 5 s, a few at once.
	hintRate = 20_000 // clients a second
	hintSpan = 5 * time.Second
	// lateCommit is how long after its node's death a COMMIT may land: it lies in the database's socket, or
	// in a packet that TCP sends again, and waits for the disk. Ordinary ones take some milliseconds. It is
	// also what the other end of a half-open link may take longer than this one to notice, and to note what
	// it cannot push.
	lateCommit = 3 * time.Second
	// closeBurst and closeEvery are how often clients without hints are closed for the same reason. An outage
	// of a link is two, at its end and at its repair, which do not wait.
	closeBurst = 2
	closeEvery = 20 * time.Second
)

// hintCause says why clients are told to sync. It is the label of the metric.
type hintCause string

const (
	causeLinkDown hintCause = "link_down" // what was on a link to a logic node is lost
	causeLinkGone hintCause = "link_gone" // its node is not back: what it had committed last was pushed to nobody
	causeLinkUp   hintCause = "link_up"   // what a logic node pushed before it was linked is lost
	causeStore    hintCause = "store"     // the session store did not name our clients for a while
	causeUnlinked hintCause = "unlinked"  // a logic node without a link to this gateway had a push for the client
	causeLogic    hintCause = "logic"     // a logic node does not know for whom its pushes were
)

var syncHint = (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}}).Append(nil)

// hint tells one client that it should sync; one that is logging in will do so anyway.
func hint(s *session) {
	switch {
	case !s.isOnline():
	case s.features.Has(wire.FeatureSync):
		_ = s.push(syncHint) // a closed channel syncs anyway
	default:
		s.leave(im.ReasonSyncNeeded)
	}
}

// hints tells all clients of a gateway. What has happened is numbered, and a client that was told since
// the last event is not told again: an event in the middle of a round concerns those that the round
// has passed, which another round tells.
type hints struct {
	gateway *Gateway
	wanted  chan struct{} // capacity 1: there may be somebody to tell

	mu       sync.Mutex
	all      uint64                 // the last event that concerns all clients; guarded by mu
	syncs    uint64                 // the last one that concerns those with the feature "sync", at least all; guarded by mu
	cause    hintCause              // of syncs; guarded by mu
	late     map[string]secondRound // to come, by the peer whose link broke; guarded by mu
	closings map[string]*closings   // of clients without hints, by reason: a peer or a cause; guarded by mu
}

// closings are those for one reason.
type closings struct {
	recent int    // in the last closeEvery
	event  uint64 // the last that waits to concern all clients, or 0
}

type secondRound struct {
	event uint64 // the link's end
	timer *time.Timer
}

func newHints(g *Gateway) *hints {
	return &hints{gateway: g, wanted: make(chan struct{}, 1), late: map[string]secondRound{}, closings: map[string]*closings{}}
}

// want asks for all clients to be told.
func (h *hints) want(cause hintCause) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteForAll(cause, string(cause))
}

// note numbers an event. h.mu is held.
func (h *hints) note(cause hintCause) {
	h.syncs++
	h.cause = cause
	h.wake()
}

// noteForAll numbers an event that concerns those too who are closed for it, now or when the reason has not
// closed too often of late. h.mu is held.
func (h *hints) noteForAll(cause hintCause, reason string) {
	h.note(cause)
	c := h.closings[reason]
	if c == nil {
		c = &closings{}
		h.closings[reason] = c
	}
	c.event = h.syncs
	h.close(reason, c)
}

// close has the event that waits concern all clients, if it may. h.mu is held.
func (h *hints) close(reason string, c *closings) {
	if c.event == 0 || c.recent == closeBurst {
		return
	}
	h.all, c.event = max(h.all, c.event), 0
	h.wake()
	c.recent++
	time.AfterFunc(closeEvery, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		c.recent--
		h.close(reason, c)
		if c.recent == 0 {
			delete(h.closings, reason)
		}
	})
}

// wake lets run look for those to be told.
func (h *hints) wake() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

// linkLost asks for both rounds after a link broke.
func (h *hints) linkLost(peer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(causeLinkDown)
	h.cancel(peer)
	event := h.syncs
	h.late[peer] = secondRound{event, time.AfterFunc(lateCommit, func() { h.second(peer, event) })}
}

// second asks for the second round after an event, unless it has been cancelled.
func (h *hints) second(peer string, event uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.late[peer].event == event {
		delete(h.late, peer)
		h.noteForAll(causeLinkGone, peer)
	}
}

// linkBack asks for a round after a link came up that had missed pushes: the second one, if it is due.
func (h *hints) linkBack(peer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cancel(peer)
	h.noteForAll(causeLinkUp, peer)
}

// cancel forgets the second round for a peer. h.mu is held.
func (h *hints) cancel(peer string) {
	if r, ok := h.late[peer]; ok {
		r.timer.Stop()
		delete(h.late, peer)
	}
}

// last is the number of the last event. A client whose login is answered after it syncs anyway.
func (h *hints) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.syncs
}

func (h *hints) run(ctx context.Context) {
	for {
		select {
		case <-h.wanted:
			for h.round(ctx) {
			}
		case <-ctx.Done():
			return
		}
	}
}

// round tells those that are due, and reports whether there were any.
func (h *hints) round(ctx context.Context) bool {
	due, closing := h.due()
	// Who is disconnected logs in again.
	over := max(span(len(due), hintRate, hintSpan), span(closing, moveRate, hintSpan))
	spread(ctx, len(due), over, func(i int) {
		h.mu.Lock()
		last, cause := h.syncs, h.cause
		h.mu.Unlock()
		hint(due[i])
		due[i].hinted.Store(last)
		h.gateway.metrics.hinted[cause].Inc()
	})
	return len(due) > 0 && ctx.Err() == nil
}

// due are the clients to be told, and how many of them will be disconnected.
func (h *hints) due() (due []*session, closing int) {
	h.mu.Lock()
	all, syncs := h.all, h.syncs
	h.mu.Unlock()
	for _, ch := range h.gateway.deps.Channels.All() {
		s := sessionOf(ch)
		switch told := s.hinted.Load(); {
		case !s.isOnline() || s.isLeaving():
		case s.features.Has(wire.FeatureSync):
			if told < syncs {
				due = append(due, s)
			}
		case told < all:
			due = append(due, s)
			closing++
		}
	}
	return due, closing
}
