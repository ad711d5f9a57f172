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
	// Up is called when a link can be used. missed: the peer may have had something to say before,
	// as the link was up already or the peer takes traffic.
	Up func(l *Link, missed bool)
	// Down is called after a link broke, with the requests that it has left open and how often each.
	// clean: the peer had drained it and closed it in order, so nothing was lost.
	Down func(l *Link, open map[Open]int, clean bool)
	// Changed is called after a link came or went or the registry's list changed.
	Changed func()
	Log     *logrus.Entry
}

// ErrNoPeer: no peer that takes traffic is connected.
var ErrNoPeer = errors.New("no ready peer is connected")

// Links is the dialling side's set of links to all nodes of one service.
type Links struct {
	opts    LinksOptions
	version uint32 // LinkVersion
	wg      sync.WaitGroup
	usable  atomic.Pointer[[]*Link] // what Select chooses from

	mu    sync.Mutex
	ctx   context.Context  // of Run; nil before and after; guarded by mu
	links map[string]*Link // by instance; guarded by mu
}

// NewLinks returns an empty set; Update fills it while Run runs.
func NewLinks(opts LinksOptions) *Links {
	s := &Links{opts: opts, version: LinkVersion, links: map[string]*Link{}}
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
	s.mu.Lock() // no start is under way any more
	s.ctx = nil // and there will be none
	s.mu.Unlock()
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
		s.linkChanged() // it may be forgotten
	})
}

// release forgets a link that is down, if its peer is not listed.
func (s *Links) release(l *Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, _, listed, _ := l.status(); listed {
		return false
	}
	delete(s.links, l.peer)
	return true
}

// Update takes over the registry's list of the service's instances.
func (s *Links) Update(list []naming.Instance) {
	s.mu.Lock()
	seen := map[string]bool{}
	for _, i := range list {
		seen[i.ID] = true
		l := s.links[i.ID]
		if l == nil {
			l = s.newLink(i)
			s.links[i.ID] = l
			s.start(l)
		}
		l.update(i)
	}
	for id, l := range s.links {
		if !seen[id] {
			l.unlist()
		}
	}
	s.mu.Unlock()
	s.linkChanged()
}

func (s *Links) newLink(i naming.Instance) *Link {
	l := &Link{
		set:     s,
		peer:    i.ID,
		hash:    xxhash.Sum64String(i.Node),
		tie:     xxhash.Sum64String(i.ID),
		log:     s.opts.Log.WithField("peer", i.ID),
		wake:    make(chan struct{}, 1),
		open:    map[Open]int{},
		waiters: map[uint32]chan *wire.LogicPkt{},
	}
	l.update(i)
	return l
}

// linkChanged computes the usable links anew: connected, not draining and ready in the registry; if
// there are none, those that were ready when the registry was last heard of them, so that a
// registry that is down or empty changes nothing for nodes that know each other (I7).
func (s *Links) linkChanged() {
	s.choose()
	s.opts.Changed()
}

// choose is linkChanged without telling.
func (s *Links) choose() {
	s.mu.Lock()
	defer s.mu.Unlock()
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
		if best == nil || score > bestScore || score == bestScore && mix(key^l.tie) > mix(key^best.tie) {
			best, bestScore = l, score
		}
	}
	if best == nil {
		return nil, ErrNoPeer
	}
	return best, nil
}

// Forward queues a client's request on the link that Select gives for the key; a response is
// expected, see Answered. ErrNoPeer, im.ErrQueueFull: nothing was queued.
func (s *Links) Forward(key uint64, req Open, payload []byte) error {
	for {
		l, err := s.Select(key)
		if err != nil {
			return err
		}
		if err := l.forward(req, payload); !errors.Is(err, ErrLinkDown) {
			return err
		}
		s.choose() // it broke, or its peer drains, since it was chosen
	}
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

// Unlinked returns those of a list of the registry that are ready and not connected.
func (s *Links) Unlinked(list []naming.Instance) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, i := range naming.Ready(list) {
		if l := s.links[i.ID]; l == nil || !l.connected() {
			out = append(out, i.ID)
		}
	}
	return out
}
