package gateway

import (
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
)

// Receive handles one packet of a client, in order. It implements im.MessageListener.
func (g *Gateway) Receive(a im.Agent, payload []byte) {
	ch, ok := a.(im.Channel)
	if !ok {
		return
	}
	s := sessionOf(ch)
	switch wire.MagicOf(payload) {
	case wire.MagicBasicPkt:
		g.receiveBasic(s, payload)
	case wire.MagicLogicPkt:
		g.receiveLogic(s, payload)
	default:
		ch.Close(im.ReasonProtocolError)
	}
}

func (g *Gateway) receiveBasic(s *session, payload []byte) {
	var p wire.BasicPkt
	if err := p.Unmarshal(payload); err != nil {
		s.ch.Close(im.ReasonProtocolError)
		return
	}
	if p.Code == wire.CodePing {
		_ = s.push(wire.Pong) // a closed channel needs none
	}
}

func (g *Gateway) receiveLogic(s *session, payload []byte) {
	var p wire.LogicPkt
	if err := p.UnmarshalClient(payload); err != nil {
		s.ch.Close(im.ReasonProtocolError)
		return
	}
	if s.isLeaving() {
		return // it is being closed; the client asks again elsewhere
	}
	if err := g.handle(s, &p); err != nil {
		_ = s.push(response(wire.Header{Command: p.Command, ChannelID: s.id(), Sequence: p.Sequence, Dest: p.Dest}, err))
		s.settle() // it may have been told to leave meanwhile
	}
}

// handle forwards a client's request, or says why not: a *wire.Error, or an internal failure.
func (g *Gateway) handle(s *session, p *wire.LogicPkt) error {
	if p.Command == wire.CmdSignOut && p.Flag == wire.FlagRequest {
		g.signOut(s, p)
		return nil
	}
	if wait := s.bucket.Take(g.cfg.Rate, time.Now()); wait > 0 {
		return g.slowDown(limitRequests, wait, "too many requests: slow down")
	}
	switch {
	case p.Flag != wire.FlagRequest:
		return wire.Errorf(wire.StatusInvalidCommand, "clients send requests only")
	case p.Command == "" || p.Command.Internal() || p.Command == wire.CmdSignIn:
		return wire.Errorf(wire.StatusInvalidCommand, "the command %q is not for a signed-in client", p.Command)
	}
	return g.forwardOn(g.route(s, p), s, p.Command, p.Sequence, p.Dest, p.Body)
}

// The limits, by their keys in the configuration: labels of metrics.
const (
	limitRequests    = "connection_rate"
	limitLogins      = "login_rate"
	limitAccount     = "account_rate"
	limitConnections = "max_connections"
)

// slowDown refuses what is beyond a rate.
func (g *Gateway) slowDown(limit string, wait time.Duration, message string) error {
	g.metrics.limited.WithLabelValues(limit).Inc()
	return &wire.Error{Status: wire.StatusRateLimited, Message: message, RetryAfter: wait}
}

// signOut answers and closes; the session ends with its channel.
func (g *Gateway) signOut(s *session, p *wire.LogicPkt) {
	ok := wire.LogicPkt{Header: wire.Header{Command: p.Command, ChannelID: s.id(), Sequence: p.Sequence, Flag: wire.FlagResponse}}
	_ = s.push(ok.Append(nil)) // a closed channel needs none
	s.leave(im.ReasonSignedOut)
}

// route hashes what decides which logic node gets a request: the conversation for talk, so that it
// has one writer in normal operation, the channel for everything else.
func (g *Gateway) route(s *session, p *wire.LogicPkt) uint64 {
	switch p.Command {
	case wire.CmdUserTalk: // the same from both sides
		return container.Key(s.app()) ^ (container.Key(s.account()) + container.Key(p.Dest))
	case wire.CmdGroupTalk:
		return container.Key(s.app()) ^ container.Key(p.Dest)
	default:
		return container.Key(s.id())
	}
}

// buffers are for packets on their way to a link, which copies them.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// forwardOn stamps a request with who asks and queues it to the logic node for key. The body is not
// touched. Without an error the session has one more open request.
func (g *Gateway) forwardOn(key uint64, s *session, cmd wire.Command, sequence uint32, dest string, body []byte) error {
	p := wire.LogicPkt{
		Header: wire.Header{
			Command:   cmd,
			ChannelID: s.id(),
			Sequence:  sequence,
			Dest:      dest,
			Link:      wire.Link{App: s.app(), Account: s.account(), Device: s.device(), Delivered: s.asks(cmd, body)},
		},
		Body: body,
	}
	buf := buffers.Get().(*[]byte)
	*buf = p.Append((*buf)[:0])
	s.open.Add(1)
	err := g.links.Forward(key, container.Open{Channel: s.id(), Sequence: sequence, Command: cmd}, *buf)
	if cap(*buf) <= maxPooled {
		buffers.Put(buf)
	}
	if err != nil {
		s.open.Add(-1)
		g.metrics.unforwarded.Inc()
		return err
	}
	g.metrics.forwarded.Inc()
	return nil
}

// maxPooled keeps rare large packets from living on in the pool, in bytes.
const maxPooled = 16 << 10

// fail answers a request whose link broke: it may or may not have been done, the client may ask again.
func (g *Gateway) fail(req container.Open) {
	ch, ok := g.deps.Channels.Get(req.Channel)
	if !ok {
		return
	}
	s := sessionOf(ch)
	if req.Command == wire.CmdSignIn {
		s.answerLogin(nil)
	} else {
		e := wire.Errorf(wire.StatusSystemException, "the service was interrupted: try again")
		_ = s.push(response(wire.Header{Command: req.Command, ChannelID: req.Channel, Sequence: req.Sequence}, e)) // a closed channel needs none
	}
	s.answered()
}
