package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// HubOptions are the collaborators of a Hub. All are required.
type HubOptions struct {
	Self   naming.Instance
	Secret []byte
	// Receive gets every packet of a link, in order; p and its body are valid during the call only.
	// It must not block: it would stall the link. peer is the sender's naming.Instance.ID.
	Receive func(peer string, a im.Agent, p *wire.LogicPkt)
	// Changed is called after a link came or went, from several goroutines.
	Changed func()
	Log     *logrus.Entry
}

// Hub is the accepting side of links: the Acceptor, MessageListener and StateListener of a
// transport server, and the way to push to a peer by its instance id.
type Hub struct {
	opts HubOptions
	next atomic.Uint64 // of channel ids: a peer that redials early has two channels for a moment

	version uint32 // LinkVersion

	mu       sync.RWMutex
	welcomes map[string]*pb.LinkHello // the handshake's last packet, between Accept and Connect; guarded by mu
	peers    map[string]peerLink      // by instance; guarded by mu
	draining bool                     // guarded by mu
	waiting  map[string]struct{}      // channels whose peer still forwards, while draining; guarded by mu
	drained  chan struct{}            // closed when draining and nobody forwards any more
}

var (
	_ im.Acceptor        = (*Hub)(nil)
	_ im.MessageListener = (*Hub)(nil)
	_ im.StateListener   = (*Hub)(nil)
	_ im.ConnectListener = (*Hub)(nil)
)

// peerLink is a link, and what is spoken on it.
type peerLink struct {
	im.Channel
	version uint32
}

// NewHub returns a hub without peers.
func NewHub(opts HubOptions) *Hub {
	return &Hub{
		opts: opts, version: LinkVersion, welcomes: map[string]*pb.LinkHello{}, peers: map[string]peerLink{},
		waiting: map[string]struct{}{}, drained: make(chan struct{}),
	}
}

// Accept does the handshake of a link, but for its last packet: see Connect. It implements im.Acceptor.
func (h *Hub) Accept(conn im.Conn, wait time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(min(wait, helloWait))); err != nil {
		return "", err
	}
	if h.isDraining() {
		return "", errDraining
	}
	hello := hello{h.opts.Self, h.opts.Secret, h.version}
	challenge := hello.challenge()
	if err := send(conn, marshalHello(wire.FlagPush, challenge)); err != nil {
		return "", err
	}
	frame, err := conn.ReadFrame()
	if err != nil {
		return "", closedEarly(err)
	}
	answer, err := unmarshalHello(frame.GetPayload())
	if err != nil {
		return "", &im.CloseError{Reason: im.ReasonProtocolError, Err: err}
	}
	last, err := hello.verify(challenge, answer)
	if err != nil {
		h.opts.Log.WithField("peer", fmt.Sprintf("%.64s", answer.Instance)).WithError(err).Warn("refused a link")
		refusal := &pb.ErrorResp{Message: err.Error()}
		_ = send(conn, marshal(wire.Header{Command: wire.CmdLinkHello, Flag: wire.FlagResponse, Status: wire.StatusUnauthorized}, refusal))
		return "", &im.CloseError{Reason: im.ReasonUnauthorized, Err: err}
	}
	id := fmt.Sprintf("%s#%d", answer.Instance, h.next.Add(1))
	h.mu.Lock()
	h.welcomes[id] = last
	h.mu.Unlock()
	return id, conn.SetDeadline(time.Time{})
}

// peerOf is the instance in a channel's id.
func peerOf(channel string) string {
	return channel[:max(0, strings.LastIndexByte(channel, '#'))]
}

func send(conn im.Conn, payload []byte) error {
	if err := conn.WriteFrame(im.OpBinary, payload); err != nil {
		return err
	}
	return conn.Flush()
}

// Connect makes the channel the peer's link, and ends the handshake: when the peer knows that it is
// linked, what is pushed to it goes there. It implements im.ConnectListener.
func (h *Hub) Connect(ch im.Channel) error {
	peer := peerOf(ch.ID())
	ch.SetAttachment(peer)
	h.mu.Lock()
	welcome := h.welcomes[ch.ID()]
	delete(h.welcomes, ch.ID())
	if h.draining {
		h.mu.Unlock()
		return errDraining
	}
	if err := ch.Push(marshalHello(wire.FlagResponse, welcome)); err != nil {
		h.mu.Unlock()
		return err
	}
	old, displaces := h.peers[peer]
	h.peers[peer] = peerLink{ch, welcome.GetVersion()}
	h.mu.Unlock()
	if displaces {
		old.Close(im.ReasonDisplaced)
	}
	h.opts.Log.WithField("peer", peer).WithField("version", welcome.GetVersion()).Info("link up")
	h.opts.Changed()
	return nil
}

// Disconnect forgets the channel. It implements im.StateListener.
func (h *Hub) Disconnect(id string) error {
	peer := peerOf(id)
	h.mu.Lock()
	link, current := h.peers[peer]
	if current = current && link.ID() == id; current {
		delete(h.peers, peer)
	}
	h.stopsForwarding(id)
	delete(h.welcomes, id) // if Connect was never called
	h.mu.Unlock()
	if current {
		h.opts.Log.WithField("peer", peer).Info("link down")
		h.opts.Changed()
	}
	return nil
}

// Receive parses one packet and hands it on. It implements im.MessageListener.
func (h *Hub) Receive(a im.Agent, payload []byte) {
	ch, ok := a.(im.Channel)
	if !ok {
		return
	}
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		// What it was will never be answered; a new link lets the peer know.
		h.opts.Log.WithField("channel", ch.ID()).WithError(err).Error("malformed packet on a link")
		ch.Close(im.ReasonProtocolError)
		return
	}
	if p.Command == wire.CmdLinkDrain {
		h.mu.Lock()
		h.stopsForwarding(ch.ID())
		h.mu.Unlock()
		return
	}
	peer, _ := ch.Attachment().(string)
	h.opts.Receive(peer, a, &p)
}

// errDraining refuses a link to a node that stops.
var errDraining = &im.CloseError{Reason: im.ReasonGoingAway, Err: errors.New("this node is draining")}

func (h *Hub) isDraining() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.draining
}

// Drain refuses new links, asks every peer to forward nothing more, and returns when all have
// answered, behind everything that they had forwarded, or have gone; or with ctx's error, and the
// channels of those that have not. Called once.
func (h *Hub) Drain(ctx context.Context) error {
	drain := marshal(wire.Header{Command: wire.CmdLinkDrain, Flag: wire.FlagPush}, nil)
	h.mu.Lock()
	h.draining = true
	for _, ch := range h.peers {
		if ch.Push(drain) == nil { // else it is closing
			h.waiting[ch.ID()] = struct{}{}
		}
	}
	h.stopsForwarding("")
	h.mu.Unlock()
	select {
	case <-h.drained:
		return nil
	case <-ctx.Done():
		h.mu.RLock()
		defer h.mu.RUnlock()
		if len(h.waiting) == 0 { // both at once
			return nil
		}
		return fmt.Errorf("links that are not drained: %s: %w", strings.Join(slices.Sorted(maps.Keys(h.waiting)), ", "), ctx.Err())
	}
}

// stopsForwarding takes a channel off those that Drain waits for. h.mu is held.
func (h *Hub) stopsForwarding(channel string) {
	delete(h.waiting, channel)
	if !h.draining || len(h.waiting) > 0 {
		return
	}
	select {
	case <-h.drained:
	default:
		close(h.drained)
	}
}

// ErrNotLinked: there is no link to the peer at the moment. What was to be said is lost; the peer
// makes up for it when its link is back (I4).
var ErrNotLinked = errors.New("no link to the peer")

// Push queues a packet's bytes to the peer with this instance id: ErrNotLinked, or the channel's error.
func (h *Hub) Push(peer string, payload []byte) error {
	h.mu.RLock()
	link, ok := h.peers[peer]
	h.mu.RUnlock()
	if !ok {
		return ErrNotLinked
	}
	return link.Push(payload)
}

// Speaks reports whether the peer is connected and understands what came with this version. A peer that connects anew with an
// older one between this and Push has other channels than those that the packet names.
func (h *Hub) Speaks(peer string, version uint32) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	link, ok := h.peers[peer]
	return ok && link.version >= version
}

// Linked reports whether the peer is connected.
func (h *Hub) Linked(peer string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	_, ok := h.peers[peer]
	return ok
}

// Broadcast queues a packet's bytes to every connected peer. One that takes none loses its link, or
// has lost it, and makes up for it (I4).
func (h *Hub) Broadcast(payload []byte) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, ch := range h.peers {
		_ = ch.Push(payload)
	}
}
