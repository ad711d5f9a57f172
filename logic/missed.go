package logic

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/storage"
)

// unlinked collects pushes for gateways that this node has no link to, and notes them in the session
// store. The gateway learns of them from whichever node renews its lease, long before the link may be
// back, and hints the clients (I4). Most such gateways are dead: then nobody asks.
type unlinked struct {
	sessions storage.Sessions
	log      *logrus.Entry
	timeout  time.Duration
	wake     chan struct{} // capacity 1: there is something to note

	mu       sync.Mutex
	gateways map[string]*unpushed // guarded by mu
}

// unpushed are the channels of one gateway: a set each, since one client misses many messages.
type unpushed struct {
	channels, kicked map[string]struct{}
}

// gatherWait is how long pushes are gathered for one note.
const gatherWait = 100 * time.Millisecond

func newUnlinked(s storage.Sessions, log *logrus.Entry, timeout time.Duration) *unlinked {
	return &unlinked{sessions: s, log: log, timeout: timeout, wake: make(chan struct{}, 1), gateways: map[string]*unpushed{}}
}

// add notes channels soon.
func (u *unlinked) add(gateway string, channels, kicked []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.gateways[gateway]
	if g == nil {
		g = &unpushed{map[string]struct{}{}, map[string]struct{}{}}
		u.gateways[gateway] = g
	}
	g.add(channels, kicked)
	signal(u.wake)
}

// add is bounded as the store is, which takes one channel more than it keeps for all.
func (g *unpushed) add(channels, kicked []string) {
	for _, c := range kicked {
		if len(g.kicked) < storage.MaxKicked {
			g.kicked[c] = struct{}{}
		}
	}
	for _, c := range channels {
		if len(g.channels) <= storage.MaxMissed {
			g.channels[c] = struct{}{}
		}
	}
}

// run notes what was added, until ctx ends.
func (u *unlinked) run(ctx context.Context) {
	for {
		select {
		case <-u.wake:
		case <-ctx.Done():
			return
		}
		for wait := gatherWait; ; wait = storeRetry {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			if u.flush(ctx) {
				break
			}
		}
	}
}

// finish is run's last word, when nothing is added any more: it tries until ctx ends, and then says what is lost.
func (u *unlinked) finish(ctx context.Context) {
	for !u.flush(ctx) {
		select {
		case <-time.After(finishRetry):
			continue
		case <-ctx.Done():
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		for gateway, g := range u.gateways {
			u.log.WithFields(logrus.Fields{"gateway": gateway, "channels": len(g.channels), "kicked": len(g.kicked)}).
				Error("stopping: lost what a gateway was not pushed; its clients miss it until they sync")
		}
		return
	}
}

// finishRetry is the pause between attempts while somebody waits for the node's end.
const finishRetry = 200 * time.Millisecond

// flush notes what was added, and reports whether the store took all of it. The rest is kept.
func (u *unlinked) flush(ctx context.Context) bool {
	u.mu.Lock()
	gateways := u.gateways
	u.gateways = map[string]*unpushed{}
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	ok := true
	for gateway, g := range gateways {
		channels, kicked := slices.Collect(maps.Keys(g.channels)), slices.Collect(maps.Keys(g.kicked))
		if err := u.sessions.NoteMissed(ctx, gateway, channels, kicked); err != nil {
			u.log.WithError(err).WithField("gateway", gateway).Warn("cannot note what a gateway was not pushed")
			u.add(gateway, channels, kicked)
			ok = false
		}
	}
	return ok
}
