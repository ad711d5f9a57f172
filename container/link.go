package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// ErrLinkDown: the link is down or drained, and nothing was queued; or, from Request alone, it broke
// before the answer came, and the request may or may not have been done.
var ErrLinkDown = errors.New("link down")

// Open is a client's request that was forwarded and not yet answered.
type Open struct {
	Channel  string
	Sequence uint32
	Command  wire.Command
}

// Link is the dialling side's connection to one peer: it is dialled again, with backoff, for as
// long as the registry lists the peer.
type Link struct {
	set  *Links // static after construction
	peer string // naming.Instance.ID
	hash uint64 // of naming.Instance.Node, for the selector
	tie  uint64 // of peer, for nodes of the same name
	log  *logrus.Entry
	wake chan struct{} // capacity 1: the registry lists the peer no more

	missed bool // the peer took traffic before it was linked with; owned by run

	mu       sync.Mutex
	address  string                         // guarded by mu
	client   im.Client                      // nil while down; guarded by mu
	draining bool                           // the peer wants nothing new; guarded by mu
	ready    bool                           // last known state of the peer; guarded by mu
	listed   bool                           // in the registry's last list; guarded by mu
	wasUp    bool                           // has been connected before; guarded by mu
	open     map[Open]int                   // how often: a client may repeat a sequence; guarded by mu
	seq      uint32                         // of our own requests; guarded by mu
	waiters  map[uint32]chan *wire.LogicPkt // our own requests, by sequence; guarded by mu
}

// Peer is the instance id of the node at the other end.
func (l *Link) Peer() string { return l.peer }

// forward queues a client's request and remembers it until its answer: if the link breaks before,
// LinksOptions.Down gets it. ErrLinkDown, im.ErrQueueFull: nothing was queued.
func (l *Link) forward(req Open, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Under the lock, so that down() finds either an open request or a client that refuses, and
	// nothing follows drain()'s answer.
	if err := l.send(payload); err != nil {
		return err
	}
	l.open[req]++
	return nil
}

// send queues a packet: ErrLinkDown, im.ErrQueueFull. l.mu is held.
func (l *Link) send(payload []byte) error {
	if l.client == nil || l.draining {
		return ErrLinkDown
	}
	err := l.client.Send(payload)
	if errors.Is(err, im.ErrChannelClosed) {
		l.client = nil // before its reader has noticed
		return ErrLinkDown
	}
	return err
}

// Answered forgets an open request. It reports whether it was open.
func (l *Link) Answered(req Open) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := l.open[req]; n {
	case 0:
		return false
	case 1:
		delete(l.open, req)
	default:
		l.open[req] = n - 1
	}
	return true
}

// Request asks the peer something of our own and waits for the answer: a *wire.Error for a status,
// ErrLinkDown, im.ErrQueueFull or ctx's error. resp may be nil.
func (l *Link) Request(ctx context.Context, h wire.Header, req, resp proto.Message) error {
	answer := make(chan *wire.LogicPkt, 1)
	l.mu.Lock()
	l.seq++
	h.Sequence = l.seq
	l.waiters[h.Sequence] = answer
	err := l.send(marshal(h, req))
	l.mu.Unlock()
	defer l.forget(h.Sequence)
	if err != nil {
		return err
	}
	select {
	case p, ok := <-answer:
		if !ok {
			return ErrLinkDown
		}
		if err := AsError(p); err != nil || resp == nil {
			return err
		}
		return proto.Unmarshal(p.Body, resp)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Link) forget(seq uint32) {
	l.mu.Lock()
	delete(l.waiters, seq)
	l.mu.Unlock()
}

// run dials and reads until the peer is gone from the registry and the link is down, or ctx ends.
func (l *Link) run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = redialMin, redialMax
	for failures := 0; ; {
		client, err := l.dial(ctx)
		if err == nil {
			failures = 0
			since := time.Now()
			stop := context.AfterFunc(ctx, client.Close)
			err = l.serve(client)
			stop()
			if time.Since(since) > linkSettled {
				pause.Reset()
			}
			l.log.WithError(err).Info("link down")
		} else if failures++; failures == 1 || failures%20 == 0 {
			l.log.WithError(err).WithField("failures", failures).Warn("cannot link")
		}
		if l.set.release(l) {
			return
		}
		wait := pause.NextBackOff()
		if refused(err) {
			wait = redialRefused
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-time.After(wait):
		}
		if l.set.release(l) {
			return
		}
	}
}

// refused reports whether one of the nodes does not want to speak with the other.
func refused(err error) bool {
	var e *wire.Error
	return errors.Is(err, errVersion) || errors.As(err, &e)
}

// dial connects and does the dialling side of the handshake.
func (l *Link) dial(ctx context.Context) (_ im.Client, err error) {
	l.mu.Lock()
	address := l.address
	// As of now: once it is linked the peer may become ready, and have missed nothing.
	l.missed = l.wasUp || l.ready
	l.mu.Unlock()
	client := l.set.opts.NewClient(l.set.opts.Self.ID, l.peer)
	stop := context.AfterFunc(ctx, client.Close)
	defer stop()
	if err := client.Connect(address); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	late := time.AfterFunc(helloWait, client.Close)
	defer func() {
		late.Stop()
		if err != nil {
			client.Close()
			err = fmt.Errorf("handshake with %s at %s: %w", l.peer, address, closedEarly(err))
		}
	}()
	hello := hello{l.set.opts.Self, l.set.opts.Secret, l.set.version}
	challenge, err := readHello(client)
	if err != nil {
		return nil, err
	}
	if challenge.Instance != l.peer {
		return nil, fmt.Errorf("%.64s answers there", challenge.Instance)
	}
	answer := hello.answer(challenge)
	if err := client.Send(marshalHello(wire.FlagRequest, answer)); err != nil {
		return nil, err
	}
	// After the answer, so that the peer's log says so too.
	version, err := hello.agree(challenge)
	if err != nil {
		return nil, err
	}
	last, err := readHello(client)
	if err != nil {
		return nil, err
	}
	if err := hello.check(challenge, answer, last); err != nil {
		return nil, err
	}
	l.log.WithField("version", version).Info("link up")
	return client, nil
}

func readHello(client im.Client) (*pb.LinkHello, error) {
	frame, err := client.Read()
	if err != nil {
		return nil, err
	}
	return unmarshalHello(frame.GetPayload())
}

// serve makes the client the link's and reads it to its end.
func (l *Link) serve(client im.Client) error {
	l.mu.Lock()
	l.client, l.draining = client, false
	l.wasUp = true
	l.mu.Unlock()
	l.set.linkChanged()
	l.set.opts.Up(l, l.missed)
	err := l.read(client)
	client.Close()
	l.down(err)
	return err
}

// deliverer is a client that reads for itself, at less cost; see transport.Client.
type deliverer interface {
	Deliver(receive func(payload []byte) error) error
}

func (l *Link) read(client im.Client) error {
	if d, ok := client.(deliverer); ok {
		return d.Deliver(l.packet)
	}
	for {
		frame, err := client.Read()
		if err != nil {
			return err
		}
		if err := l.packet(frame.GetPayload()); err != nil {
			return err
		}
	}
}

func (l *Link) packet(payload []byte) error {
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		return fmt.Errorf("malformed packet: %w", err)
	}
	l.receive(&p)
	return nil
}

func (l *Link) receive(p *wire.LogicPkt) {
	switch {
	case p.Command == wire.CmdLinkDrain && p.Flag == wire.FlagPush:
		l.drain()
	case p.Flag == wire.FlagResponse && p.ChannelID == "":
		l.answer(p)
	default:
		l.set.opts.Receive(l, p)
	}
}

// answer hands the response to the Request that waits for it.
func (l *Link) answer(p *wire.LogicPkt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.waiters[p.Sequence]; w != nil {
		delete(l.waiters, p.Sequence)
		c := *p
		c.Body = slices.Clone(p.Body) // the frame's buffer is used again
		w <- &c
	}
}

// drain stops forwarding on this link and tells the peer so, behind all that was forwarded before.
func (l *Link) drain() {
	l.mu.Lock()
	_ = l.send(marshal(wire.Header{Command: wire.CmdLinkDrain, Flag: wire.FlagResponse}, nil)) // a broken link drains too
	l.draining = true
	l.mu.Unlock()
	l.set.linkChanged()
	l.log.Info("peer is draining")
}

// down reports what was open and lets the waiters go; err is what ended reading.
func (l *Link) down(err error) {
	l.mu.Lock()
	l.client = nil
	open, drained := l.open, l.draining
	l.open = map[Open]int{}
	for seq, w := range l.waiters {
		close(w)
		delete(l.waiters, seq)
	}
	l.mu.Unlock()
	l.set.linkChanged()
	l.set.opts.Down(l, open, drained && len(open) == 0 && inOrder(err))
}

// inOrder reports whether the peer has ended the link as a node does that stops: its close frame is behind all that it had
// to say. A peer that is drained still pushes what others had forwarded to it. err is what a client's Read returned: wrapped,
// the link was closing here before, and what came was dropped.
func inOrder(err error) bool {
	closed, ok := err.(*transport.PeerClosedError)
	return ok && closed.Code == im.ReasonGoingAway.Code()
}

// update takes over what the registry says of the peer.
func (l *Link) update(i naming.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.address, l.ready, l.listed = i.Address, i.State == naming.StateReady, true
}

// unlist notes that the registry lists the peer no more. A connected link stays until it breaks.
func (l *Link) unlist() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.listed {
		return
	}
	l.listed = false
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// status is what the selector needs to know.
func (l *Link) status() (up, ready, listed, draining bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client != nil, l.ready, l.listed, l.draining
}

// connected reports whether the link is up, or not to be: its peer drains.
func (l *Link) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client != nil || l.draining
}
