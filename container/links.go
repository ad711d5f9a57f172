package container

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/sirupsen/logrus"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/wire"
)

// LinksOptions are the collaborators of Links. All are required.
type LinksOptions struct {
	Self   naming.Instance
	Secret []byte
	// NewClient makes the client of a link: a TCP client with a link's limits.
	NewClient func(id, name string) im.Client
	// Receive gets what peers send, in order per link; p and its body are valid during the call only.
	Receive func(l *Link, p *wire.LogicPkt)
	// Up is called when a link can be used; again says that it was up before.
	Up func(l *Link, again bool)
	// Down is called after a link broke, with the requests that it has left open. clean: the peer had
	// drained it, so nothing was lost.
	Down func(l *Link, open map[Open]wire.Command, clean bool)
	// Changed is called after a link came or went or the registry's list changed.
	Changed func()
	Log     *logrus.Entry
}

// ErrNoPeer: no peer that takes traffic is connected.
var ErrNoPeer = errors.New("no ready peer is connected")

// Links is the dialling side's set of links to all nodes of one service.
type Links struct {
	opts   LinksOptions
	wg     sync.WaitGroup
	usable atomic.Pointer[[]*Link] // what Select chooses from

	mu    sync.Mutex
	ctx   context.Context  // of Run; nil before; guarded by mu
	links map[string]*Link // by instance; guarded by mu
}

// NewLinks returns an empty set; Update fills it while Run runs.
func NewLinks(opts LinksOptions) *Links {
	s := &Links{opts: opts, links: map[string]*Link{}}
	s.usable.Store(new([]*Link))
	return s
}

// Run lets links be made until ctx ends, then closes them and waits for their ends.
func (s *Links) Run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	for _, l := range s.links {
		s.start(l)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.wg.Wait()
}

// start runs the link on a goroutine of its own. s.mu is held.
func (s *Links) start(l *Link) {
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	ctx := s.ctx
	s.wg.Go(func() {
		l.run(ctx)
		s.drop(l)
	})
}

// drop forgets a link that has ended, and starts anew if its peer has been listed again meanwhile.
func (s *Links) drop(l *Link) {
	s.mu.Lock()
	_, _, listed, _ := l.status()
	if s.links[l.peer] == l && !listed {
		delete(s.links, l.peer)
	}
	s.mu.Unlock()
	s.linkChanged()
}

// Update takes over the registry's list of the service's instances.
func (s *Links) Update(list []naming.Instance) {
	s.mu.Lock()
	seen := map[string]bool{}
	for _, i := range list {
		seen[i.ID] = true
		l := s.links[i.ID]
		if l == nil || l.isGone() {
			l = s.newLink(i)
			s.links[i.ID] = l
			s.start(l)
		}
		l.update(i)
	}
	for id, l := range s.links {
		if _, _, listed, _ := l.status(); !seen[id] && listed {
			l.unlist()
			close(l.gone)
		}
	}
	s.mu.Unlock()
	s.linkChanged()
}

func (s *Links) newLink(i naming.Instance) *Link {
	l := &Link{
		set:     s,
		peer:    i.ID,
		name:    i.Node,
		hash:    xxhash.Sum64String(i.Node),
		log:     s.opts.Log.WithField("peer", i.ID),
		gone:    make(chan struct{}),
		open:    map[Open]wire.Command{},
		waiters: map[uint32]chan *wire.LogicPkt{},
	}
	l.update(i)
	return l
}

func (l *Link) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// linkChanged computes the usable links anew: connected, not draining and ready in the registry; if
// there are none, those that were ready when the registry was last heard of them, so that a
// registry that is down or empty changes nothing for nodes that know each other (I7).
func (s *Links) linkChanged() {
	s.mu.Lock()
	var usable, known []*Link
	for _, l := range s.links {
		up, ready, listed, draining := l.status()
		if !up || !ready || draining {
			continue
		}
		known = append(known, l)
		if listed {
			usable = append(usable, l)
		}
	}
	if len(usable) == 0 {
		usable = known
	}
	s.usable.Store(&usable)
	s.mu.Unlock()
	s.opts.Changed()
}

// Key hashes what a request is about, for Select.
func Key(part string) uint64 { return xxhash.Sum64String(part) }

// Select returns the link for a key: by rendezvous hash over the nodes' names, so that a node that
// comes or goes moves no other key (flaw 23). ErrNoPeer.
func (s *Links) Select(key uint64) (*Link, error) {
	usable := *s.usable.Load()
	if len(usable) == 1 {
		return usable[0], nil
	}
	var best *Link
	var bestScore uint64
	for _, l := range usable {
		score := mix(key ^ l.hash)
		if best == nil || score > bestScore || score == bestScore && l.peer > best.peer {
			best, bestScore = l, score
		}
	}
	if best == nil {
		return nil, ErrNoPeer
	}
	return best, nil
}

// mix is the finalizer of MurmurHash3: it spreads every input bit over all output bits.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Usable is the number of links that Select chooses from.
func (s *Links) Usable() int { return len(*s.usable.Load()) }

// Unlinked returns the instances of the registry's last list that are ready and not connected.
func (s *Links) Unlinked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id, l := range s.links {
		if up, ready, listed, draining := l.status(); ready && listed && !up && !draining {
			out = append(out, id)
		}
	}
	return out
}
