package container

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

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

	mu    sync.RWMutex
	peers map[string]im.Channel // by instance; guarded by mu
	ids   map[string]string     // channel id → instance; guarded by mu
}

var (
	_ im.Acceptor        = (*Hub)(nil)
	_ im.MessageListener = (*Hub)(nil)
	_ im.StateListener   = (*Hub)(nil)
	_ im.ConnectListener = (*Hub)(nil)
)

// NewHub returns a hub without peers.
func NewHub(opts HubOptions) *Hub {
	return &Hub{opts: opts, peers: map[string]im.Channel{}, ids: map[string]string{}}
}

// Accept does the handshake of a link. It implements im.Acceptor.
func (h *Hub) Accept(conn im.Conn, wait time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(min(wait, helloWait))); err != nil {
		return "", err
	}
	hello := hello{h.opts.Self, h.opts.Secret}
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
		h.opts.Log.WithField("peer", answer.Instance).WithError(err).Warn("refused a link")
		refusal := &pb.ErrorResp{Message: err.Error()}
		_ = send(conn, marshal(wire.Header{Command: wire.CmdLinkHello, Flag: wire.FlagResponse, Status: wire.StatusUnauthorized}, refusal))
		return "", &im.CloseError{Reason: im.ReasonUnauthorized, Err: err}
	}
	if err := send(conn, marshalHello(wire.FlagResponse, last)); err != nil {
		return "", err
	}
	id := fmt.Sprintf("%s#%d", answer.Instance, h.next.Add(1))
	h.mu.Lock()
	h.ids[id] = answer.Instance
	h.mu.Unlock()
	return id, conn.SetDeadline(time.Time{})
}

func send(conn im.Conn, payload []byte) error {
	if err := conn.WriteFrame(im.OpBinary, payload); err != nil {
		return err
	}
	return conn.Flush()
}

// Connect makes the channel the peer's link. It implements im.ConnectListener.
func (h *Hub) Connect(ch im.Channel) error {
	h.mu.Lock()
	peer := h.ids[ch.ID()]
	ch.SetAttachment(peer)
	old := h.peers[peer]
	h.peers[peer] = ch
	h.mu.Unlock()
	if old != nil {
		old.Close(im.ReasonDisplaced)
	}
	h.opts.Log.WithField("peer", peer).Info("link up")
	h.opts.Changed()
	return nil
}

// Disconnect forgets the channel. It implements im.StateListener.
func (h *Hub) Disconnect(id string) error {
	h.mu.Lock()
	peer := h.ids[id]
	delete(h.ids, id)
	current := h.peers[peer] != nil && h.peers[peer].ID() == id
	if current {
		delete(h.peers, peer)
	}
	h.mu.Unlock()
	if current {
		h.opts.Log.WithField("peer", peer).Info("link down")
		h.opts.Changed()
	}
	return nil
}

// Receive parses one packet and hands it on. It implements im.MessageListener.
func (h *Hub) Receive(a im.Agent, payload []byte) {
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		h.opts.Log.WithField("channel", a.ID()).WithError(err).Error("malformed packet on a link")
		return
	}
	ch, ok := a.(im.Channel)
	if !ok {
		return
	}
	peer, _ := ch.Attachment().(string)
	h.opts.Receive(peer, a, &p)
}

// ErrNotLinked: there is no link to the peer at the moment. What was to be said is lost; the peer
// makes up for it when its link is back (I4).
var ErrNotLinked = errors.New("no link to the peer")

// Push queues a packet's bytes to the peer with this instance id: ErrNotLinked, or the channel's error.
func (h *Hub) Push(peer string, payload []byte) error {
	h.mu.RLock()
	ch := h.peers[peer]
	h.mu.RUnlock()
	if ch == nil {
		return ErrNotLinked
	}
	return ch.Push(payload)
}

// Linked reports whether the peer is connected.
func (h *Hub) Linked(peer string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.peers[peer] != nil
}

// Peers returns the instance ids of the connected peers.
func (h *Hub) Peers() []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	out := make([]string, 0, len(h.peers))
	for id := range h.peers {
		out = append(out, id)
	}
	return out
}

// PushMessage is Push of a header and a body, which may be nil.
func (h *Hub) PushMessage(peer string, header wire.Header, body proto.Message) error {
	return h.Push(peer, marshal(header, body))
}
