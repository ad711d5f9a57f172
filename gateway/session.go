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

// session is what the gateway knows of one connection: the attachment of its channel.
type session struct {
	// Static after Accept.

	id, app, account, device, platform string
	features                           wire.Features
	instance                           string // of the client program, with attempt; see pb.LoginReq
	attempt                            uint64
	result                             chan *result // of the login; capacity 1

	// Owned by Connect, static afterwards.

	loginAt int64   // Unix nanoseconds; what the logic node stored, once it has answered
	login   *signIn // what Connect forwards; nil afterwards

	ch     im.Channel    // static after Connect
	bucket limit.Bucket  // owned by the channel's reader
	open   atomic.Int32  // forwarded and not yet answered
	asked  atomic.Bool   // to move, by gateway.goaway
	hinted atomic.Uint64 // the last event that it was told of, see hints

	mu        sync.Mutex
	online    bool        // LoginResp is queued; guarded by mu
	held      [][]byte    // pushes that came before it; guarded by mu
	leaving   *im.Reason  // close with it when nothing is open; guarded by mu
	delivered *deliveries // nil if nothing is to be acknowledged; guarded by mu
}

// sessionOf returns the channel's session; an empty one for a channel that Connect has not seen.
func sessionOf(ch im.Channel) *session {
	if s, ok := ch.Attachment().(*session); ok {
		return s
	}
	return &session{id: ch.ID(), ch: ch}
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
	if s.online {
		return s.ch.Push(payload)
	}
	if len(s.held) >= maxHeld {
		return im.ErrQueueFull
	}
	s.held = append(s.held, payload)
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
	for _, p := range s.held {
		if err := s.ch.Push(p); err != nil {
			return err
		}
	}
	s.held, s.online = nil, true
	return nil
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
	if reason != nil {
		s.ch.Close(*reason)
	}
}

// leave closes the channel as soon as nothing is open, or after leaveWait; what the client asks from
// now on is not forwarded. The first reason counts, but for displaced: its client must not come back.
func (s *session) leave(reason im.Reason) {
	s.mu.Lock()
	first := s.leaving == nil
	if first || reason == im.ReasonDisplaced {
		s.leaving = &reason
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

func (s *session) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != nil
}

// proto is the session as logic nodes store it.
func (s *session) proto() *pb.Session {
	return &pb.Session{
		App:      s.app,
		Account:  s.account,
		Device:   s.device,
		Platform: s.platform,
		Channel:  s.id,
		Features: uint32(s.features),
		LoginAt:  s.loginAt,
		Instance: s.instance,
		Attempt:  s.attempt,
	}
}
