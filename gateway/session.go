package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// session is what the gateway knows of one connection: the attachment of its channel. Its fields are
// in the order that leaves no gaps.
type session struct {
	// Static after Accept.

	identity
	attempt  uint64 // of the client program's instance; see pb.LoginReq
	features wire.Features

	open atomic.Int32 // forwarded and not yet answered

	ch      im.Channel // owned by Connect, static afterwards
	loginAt int64      // Unix nanoseconds; what the logic node stored, once it has answered; guarded by mu from Connect on

	bucket limit.Bucket  // owned by the channel's reader
	hinted atomic.Uint64 // the last event that it was told of, see hints

	mu        sync.Mutex
	login     *signIn     // until LoginResp is queued; guarded by mu, static before Connect
	delivered *deliveries // nil if nothing is to be acknowledged; guarded by mu
	asked     atomic.Bool // to move, by gateway.goaway
	granted   bool        // a logic node has stored it; guarded by mu
	online    bool        // LoginResp is queued; guarded by mu
	leaving   im.Reason   // close with it when nothing is open; guarded by mu
	stored    bool        // maybe, by a logic node; owned by Connect, static afterwards
}

// id is the channel's, after Accept.
func (s *session) id() string { return s.ch.ID() }

// sessionOf returns the channel's session; an empty one for a channel that Connect has not seen.
func sessionOf(ch im.Channel) *session {
	if s, ok := ch.Attachment().(*session); ok {
		return s
	}
	return &session{ch: ch}
}

// push queues a packet, or holds it while the login is not answered: a client's first packet is LoginResp.
func (s *session) push(payload []byte) error {
	s.mu.Lock()
	if !s.online {
		defer s.mu.Unlock()
		return s.queue(payload)
	}
	s.mu.Unlock()
	return s.ch.Push(payload)
}

// queue is push for who holds mu.
func (s *session) queue(payload []byte) error {
	switch {
	case s.online:
		return s.ch.Push(payload)
	case s.login == nil: // Connect has not seen it: it syncs after its login
		return nil
	case len(s.login.held) >= maxHeld:
		return im.ErrQueueFull
	default:
		s.login.held = append(s.login.held, payload)
		return nil
	}
}

// pushAll is push for several packets.
func (s *session) pushAll(payloads [][]byte) error {
	s.mu.Lock()
	if !s.online {
		defer s.mu.Unlock()
		return s.queueAll(payloads)
	}
	s.mu.Unlock()
	return pushAll(s.ch, payloads)
}

// queueAll is pushAll for who holds mu.
func (s *session) queueAll(payloads [][]byte) error {
	if s.online {
		return pushAll(s.ch, payloads)
	}
	for _, p := range payloads {
		if err := s.queue(p); err != nil {
			return err
		}
	}
	return nil
}

// allPusher is a channel that queues several payloads at once; see transport.Channel.
type allPusher interface {
	PushAll(payloads [][]byte) error
}

func pushAll(ch im.Channel, payloads [][]byte) error {
	if a, ok := ch.(allPusher); ok {
		return a.PushAll(payloads)
	}
	for _, p := range payloads {
		if err := ch.Push(p); err != nil {
			return err
		}
	}
	return nil
}

// maxHeld bounds the pushes that wait for a login's answer; a client that misses some syncs anyway
// after its login.
const maxHeld = 256

// begin queues the LoginResp and what was held behind it.
func (s *session) begin(loginResp []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ch.Push(loginResp); err != nil {
		return err
	}
	for _, p := range s.login.held {
		if err := s.ch.Push(p); err != nil {
			return err
		}
	}
	s.login, s.online = nil, true
	return nil
}

// answerLogin gives the login under way its answer; nil if the link broke.
func (s *session) answerLogin(p *wire.LogicPkt) {
	s.mu.Lock()
	login := s.login
	s.mu.Unlock()
	if login != nil {
		login.answer <- p
	}
}

// answered counts one open request less, behind its answer.
func (s *session) answered() {
	s.open.Add(-1)
	s.settle()
}

// settle closes a channel that is leaving, if nothing is open.
func (s *session) settle() {
	if s.open.Load() == 0 {
		s.goNow()
	}
}

// goNow closes a channel that is leaving.
func (s *session) goNow() {
	s.mu.Lock()
	reason := s.leaving
	s.mu.Unlock()
	if reason != im.ReasonNone {
		s.ch.Close(reason)
	}
}

// leave closes the channel as soon as nothing is open, or after leaveWait; what the client asks from
// now on is not forwarded. The first reason counts, but for displaced: its client must not come back.
func (s *session) leave(reason im.Reason) {
	s.mu.Lock()
	first := s.leaving == im.ReasonNone
	if first || reason == im.ReasonDisplaced {
		s.leaving = reason
	}
	s.mu.Unlock()
	if first && s.open.Load() > 0 {
		time.AfterFunc(leaveWait, s.goNow)
	}
	s.settle()
}

// leaveWait bounds how long a channel that leaves waits for its answers: most take milliseconds, and a
// client whose request is open for longer asks again elsewhere.
const leaveWait = 5 * time.Second

// displace says that a newer login has taken over, and closes the channel when what it has asked is
// answered: a client that moves to another gateway sees no error.
func (s *session) displace(kickout []byte) error {
	err := s.push(kickout)
	s.leave(im.ReasonDisplaced)
	return err
}

// isOnline reports whether the client has its LoginResp.
func (s *session) isOnline() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.online
}

// grant notes that a logic node has stored the session: from now on it is stored again with the others.
func (s *session) grant() {
	s.mu.Lock()
	s.granted = true
	s.mu.Unlock()
}

func (s *session) isGranted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.granted
}

func (s *session) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != im.ReasonNone
}

// setLoginAt notes what the logic node has stored: of a login that is asked for again, perhaps while the session is stored
// again.
func (s *session) setLoginAt(n int64) {
	s.mu.Lock()
	s.loginAt = n
	s.mu.Unlock()
}

// proto is the session as logic nodes store it.
func (s *session) proto() *pb.Session {
	s.mu.Lock()
	loginAt := s.loginAt
	s.mu.Unlock()
	return &pb.Session{
		App:      s.app(),
		Account:  s.account(),
		Device:   s.device(),
		Platform: s.platform(),
		Channel:  s.id(),
		Features: uint32(s.features),
		LoginAt:  loginAt,
		Instance: s.instance(),
		Attempt:  s.attempt,
	}
}
