package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// A login has two halves, so that its answer and every later push find the channel (flaw 21):
//
//	Accept   reads login.signin, verifies the token, chooses the channel id
//	(the server adds the channel to its map)
//	Connect  forwards the login to a logic node, waits for the answer, queues it as the first packet

// signIn is a login that Accept has let through.
type signIn struct {
	sequence uint32
	req      *pb.LoginReq
	deadline time.Time
	answer   chan *wire.LogicPkt // of a logic node; nil: the link broke, ask another one. Capacity 1
	held     [][]byte            // pushes that came before it; guarded by the session's mu
}

// Accept implements im.Acceptor.
func (g *Gateway) Accept(conn im.Conn, wait time.Duration) (string, error) {
	deadline := time.Now().Add(min(wait, g.cfg.LoginWait))
	if err := conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	pkt, err := readSignIn(conn)
	if err != nil {
		return "", err
	}
	s, err := g.admit(pkt, deadline)
	if err != nil {
		g.metrics.logins.WithLabelValues("refused").Inc()
		return "", refuse(conn, pkt, err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		g.connections.Add(-1)
		return "", err
	}
	id := g.cfg.Instance.ID + "." + strconv.FormatInt(g.nextID.Add(1), 36)
	g.joining.Store(id, s)
	return id, nil
}

// readSignIn returns the first LogicPkt; pings before it are answered.
func readSignIn(conn im.Conn) (*wire.LogicPkt, error) {
	for {
		frame, err := conn.ReadFrame()
		if err != nil {
			return nil, err
		}
		payload := frame.GetPayload()
		if wire.MagicOf(payload) != wire.MagicBasicPkt {
			p := new(wire.LogicPkt)
			if err := p.UnmarshalClient(payload); err != nil {
				return nil, &im.CloseError{Reason: im.ReasonProtocolError, Err: err}
			}
			return p, nil
		}
		var ping wire.BasicPkt
		if err := ping.Unmarshal(payload); err != nil {
			return nil, &im.CloseError{Reason: im.ReasonProtocolError, Err: err}
		}
		if ping.Code != wire.CodePing {
			continue
		}
		if err := write(conn, wire.Pong); err != nil {
			return nil, err
		}
	}
}

func write(conn im.Conn, payload []byte) error {
	if err := conn.WriteFrame(im.OpBinary, payload); err != nil {
		return err
	}
	return conn.Flush()
}

// admit checks a login and makes its session, which counts as a connection until Disconnect. Its errors are *wire.Error.
func (g *Gateway) admit(pkt *wire.LogicPkt, deadline time.Time) (*session, error) {
	if pkt.Command != wire.CmdSignIn || pkt.Flag != wire.FlagRequest {
		return nil, wire.Errorf(wire.StatusUnauthorized, "sign in first: the first packet must be %s", wire.CmdSignIn)
	}
	var req pb.LoginReq
	if err := proto.Unmarshal(pkt.Body, &req); err != nil {
		return nil, wire.Errorf(wire.StatusInvalidBody, "the body of %s is not a LoginReq", pkt.Command)
	}
	claims, err := token.Parse(g.cfg.Secret, req.Token, time.Now())
	if err != nil {
		return nil, wire.Errorf(wire.StatusUnauthorized, "%s", tokenMessage(err))
	}
	if max(len(req.Device), len(req.Platform), len(req.Instance)) > maxDevice {
		return nil, wire.Errorf(wire.StatusInvalidBody, "device, platform and instance are at most %d bytes long", maxDevice)
	}
	if g.isDraining() {
		return nil, errStopping
	}
	// Counted first: of logins that come together, each must see the others.
	n := g.connections.Add(1)
	if err := g.limit(n, account{claims.App, claims.Account}); err != nil {
		g.connections.Add(-1)
		return nil, err
	}
	req.Token = "" // nobody else needs it
	s := &session{
		identity: newIdentity(claims.App, claims.Account, req.Device, req.Platform, req.Instance),
		features: wire.ParseFeatures(req.Features),
		attempt:  req.Attempt,
		loginAt:  time.Now().UnixNano(),
		login:    &signIn{sequence: pkt.Sequence, req: &req, deadline: deadline, answer: make(chan *wire.LogicPkt, 1)},
	}
	return s, nil
}

// limit refuses a login that would be too many: the nth connection, or too soon after others.
func (g *Gateway) limit(n int64, a account) error {
	if most := g.cfg.MaxConnections; most > 0 && n > int64(most) {
		g.metrics.limited.WithLabelValues(limitConnections).Inc()
		return wire.Errorf(wire.StatusSystemException, "this gateway is full: connect to another one")
	}
	if wait := g.accounts.Take(a, time.Now()); wait > 0 {
		return g.slowDown(limitAccount, wait, "too many logins of this account: slow down")
	}
	if wait := g.logins.Take(struct{}{}, time.Now()); wait > 0 {
		return g.slowDown(limitLogins, wait, "too many logins at once: try again in a moment")
	}
	return nil
}

// account names one of a tenant.
type account struct{ app, name string }

// maxDevice bounds the names of a device, a platform and an instance, in bytes.
const maxDevice = 64

func tokenMessage(err error) string {
	if errors.Is(err, token.ErrExpired) {
		return "the token has expired: get a new one"
	}
	return "the token is not valid"
}

// refuse answers a login with an error and says how to close the connection.
func refuse(conn im.Conn, pkt *wire.LogicPkt, err error) error {
	_ = write(conn, response(wire.Header{Command: pkt.Command, Sequence: pkt.Sequence}, err)) // it is closed next
	return &im.CloseError{Reason: refusalReason(err), Err: err}
}

// refusalReason is the reason with which a refused login is closed.
func refusalReason(err error) im.Reason {
	var e *wire.Error
	switch {
	case errors.As(err, &e) && e.Retryable():
		return im.ReasonUnavailable
	case errors.As(err, &e) && e.Status == wire.StatusConflict:
		return im.ReasonConflict
	default:
		return im.ReasonUnauthorized
	}
}

// response is a response with an error's status and message.
func response(h wire.Header, err error) []byte {
	e := wire.Errorf(wire.StatusSystemException, "the service is busy: try again")
	_ = errors.As(err, &e) // otherwise an internal failure, whose details are not for users
	h.Flag, h.Status = wire.FlagResponse, e.Status
	p := wire.LogicPkt{Header: h}
	p.Body, _ = proto.Marshal(e.Resp()) // the messages are UTF-8
	return p.Append(nil)
}

// Connect implements im.ConnectListener: the login's second half.
func (g *Gateway) Connect(ch im.Channel) error {
	v, ok := g.joining.LoadAndDelete(ch.ID())
	if !ok {
		return fmt.Errorf("connect of unknown channel %s", ch.ID())
	}
	s := v.(*session)
	s.ch = ch
	login := s.login
	ch.SetAttachment(s)

	s.open.Add(1) // so that a gateway that drains waits for the login
	defer s.answered()
	pkt, err := g.forwardLogin(s, login)
	if err != nil {
		g.metrics.logins.WithLabelValues("failed").Inc()
		_ = ch.Push(response(wire.Header{Command: wire.CmdSignIn, Sequence: login.sequence}, err)) // it is closed next
		return &im.CloseError{Reason: refusalReason(err), Err: err}
	}
	g.metrics.logins.WithLabelValues("accepted").Inc()
	s.hinted.Store(g.hints.last()) // it syncs after its login
	if err := s.begin(pkt); err != nil {
		return err
	}
	if g.isDraining() {
		g.turnAway(s)
	}
	return nil
}

// forwardLogin asks logic nodes, another one whenever a link breaks, and again if the lease was lost meanwhile, until the
// login's deadline. A gateway that may still lack a logic node waits (I7): that node's pushes would be lost.
func (g *Gateway) forwardLogin(s *session, login *signIn) ([]byte, error) {
	body, err := proto.Marshal(login.req)
	if err != nil {
		return nil, wire.Errorf(wire.StatusInvalidBody, "the body of %s is not UTF-8", wire.CmdSignIn)
	}
	late := time.NewTimer(time.Until(login.deadline))
	defer late.Stop()
	select {
	case <-g.barrier.Passed():
	case <-g.draining:
		return nil, errStopping
	case <-late.C:
		return nil, errLoginLate
	}
	key := container.Key(s.id())
	s.stored = true // from now on
	for {
		losses := g.leases.losses.Load()
		if err := g.forwardOn(key, s, wire.CmdSignIn, login.sequence, "", body); err == nil {
			select {
			case p := <-login.answer:
				if p == nil {
					continue // the link broke
				}
				pkt, leased, err := g.loginAnswer(s, p)
				if err != nil {
					return nil, err
				}
				s.grant() // before the look at the losses: those that come later store it again
				if !g.leases.missedLease(leased, losses) {
					return pkt, nil
				}
			case <-late.C:
				return nil, errLoginLate
			}
		}
		select {
		case <-time.After(loginRetry):
		case <-g.draining:
			return nil, errStopping
		case <-late.C:
			return nil, errLoginLate
		}
	}
}

var (
	errLoginLate = wire.Errorf(wire.StatusSystemException, "the login took too long: try again")
	errStopping  = wire.Errorf(wire.StatusSystemException, "this gateway is stopping: connect to another one")
)

// loginRetry is the pause between attempts to forward a login while no logic node takes it, or the lease is lost.
const loginRetry = 100 * time.Millisecond

// loginAnswer is the packet for the client, or the error that the logic node gave; leased says that the gateway's lease
// ran when the session was stored.
func (g *Gateway) loginAnswer(s *session, p *wire.LogicPkt) (pkt []byte, leased bool, err error) {
	if err := container.AsError(p); err != nil {
		return nil, false, err
	}
	leased = true
	for _, m := range p.Meta {
		n, err := strconv.ParseInt(m.Value, 10, 64)
		switch {
		case err != nil:
		case m.Key == container.MetaLoginAt:
			s.setLoginAt(n)
		case m.Key == container.MetaStamp:
			leased = n != 0
			g.leases.stored(n)
		}
	}
	p.Link, p.Meta = wire.Link{}, nil
	return p.Append(nil), leased, nil
}

// Disconnect implements im.StateListener.
func (g *Gateway) Disconnect(id string) error {
	g.connections.Add(-1)
	g.joining.Delete(id) // if Connect was never called
	return nil
}
