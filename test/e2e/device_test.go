package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

const (
	// wait bounds every wait for an event: far more than it takes, on a machine that does much else.
	wait = 30 * time.Second
	// maxAnswer is the largest packet taken from a server, in bytes: a page of a sync may be long.
	maxAnswer = 4 << 20
)

// device is a client that does what it is told and hides nothing: every packet of the server is an
// answer to a request or ends up, in order, in the list of pushes.
type device struct {
	// Static after construction.
	conn    *transport.Conn
	account string
	channel string   // of LoginResp
	granted []string // features, of LoginResp

	mu      sync.Mutex
	seq     uint32
	answers map[uint32]chan *wire.LogicPkt // of requests that are not answered
	pushes  []*wire.LogicPkt               // not taken yet
	pongs   int
	err     error         // why reading ended
	news    chan struct{} // closed, and made anew, when something above changes
}

// dial connects to a ws:// or tcp:// URL. It does not sign in.
func dial(url string) (*device, error) {
	var conn *transport.Conn
	dc := im.DialerContext{Address: url, Timeout: wait}
	if address, ok := strings.CutPrefix(url, "tcp://"); ok {
		dc.Address = address
		raw, err := tcp.Dialer{}.DialAndHandshake(dc)
		if err != nil {
			return nil, err
		}
		conn = tcp.NewConn(raw, maxAnswer)
	} else {
		raw, err := websocket.Dialer{}.DialAndHandshake(dc)
		if err != nil {
			return nil, err
		}
		conn = websocket.NewConn(raw, maxAnswer)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	d := &device{conn: conn, answers: map[uint32]chan *wire.LogicPkt{}, news: make(chan struct{})}
	go d.read()
	return d, nil
}

// signIn connects and signs in. login may name a device and features; its token is set here.
func signIn(ctx context.Context, url, token string, login *pb.LoginReq) (*device, error) {
	d, err := dial(url)
	if err != nil {
		return nil, err
	}
	req := proto.CloneOf(login)
	req.Token = token
	var resp pb.LoginResp
	if err := d.call(ctx, wire.CmdSignIn, "", req, &resp); err != nil {
		d.hangUp()
		return nil, err
	}
	d.account, d.channel, d.granted = resp.Account, resp.ChannelId, resp.Features
	return d, nil
}

// read sorts what comes until the connection ends.
func (d *device) read() {
	for {
		frame, err := d.conn.ReadFrame()
		if err == nil {
			err = d.sort(frame.GetPayload())
		}
		if err == nil {
			continue
		}
		var closed *transport.PeerClosedError
		if errors.As(err, &closed) {
			_ = d.conn.WriteFrame(im.OpClose, nil)
			_ = d.conn.Flush()
		}
		_ = d.conn.Close()
		d.change(func() {
			d.err = err
			for seq, answer := range d.answers {
				close(answer)
				delete(d.answers, seq)
			}
		})
		return
	}
}

func (d *device) sort(payload []byte) error {
	pkt, err := wire.Unmarshal(append([]byte(nil), payload...))
	if err != nil {
		return err
	}
	d.change(func() {
		p, ok := pkt.(*wire.LogicPkt)
		switch {
		case !ok:
			d.pongs++
		case p.Flag == wire.FlagPush:
			d.pushes = append(d.pushes, p)
		case d.answers[p.Sequence] != nil:
			d.answers[p.Sequence] <- p
			delete(d.answers, p.Sequence)
		default:
			err = fmt.Errorf("an answer that nobody asked for: %+v", p.Header)
		}
	})
	return err
}

func (d *device) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.news)
	d.news = make(chan struct{})
}

// await returns when ready, which is called with mu held, says so.
func (d *device) await(ctx context.Context, ready func() bool) error {
	for {
		d.mu.Lock()
		ok, ended, news := ready(), d.err, d.news
		d.mu.Unlock()
		switch {
		case ok:
			return nil
		case ended != nil:
			return fmt.Errorf("connection of %s: %w", d.account, ended)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send writes one packet.
func (d *device) send(p *wire.LogicPkt) error { return d.sendBytes(p.Append(nil)) }

// sendBytes writes one binary frame.
func (d *device) sendBytes(payload []byte) error {
	if err := d.conn.WriteFrame(im.OpBinary, payload); err != nil {
		return err
	}
	return d.conn.Flush()
}

// start sends a request; its answer comes on the channel, which is closed if the connection ends before.
func (d *device) start(cmd wire.Command, dest string, req proto.Message) (<-chan *wire.LogicPkt, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	return d.post(&wire.LogicPkt{Header: wire.Header{Command: cmd, Dest: dest}, Body: body})
}

// post sends a packet under the next sequence.
func (d *device) post(p *wire.LogicPkt) (<-chan *wire.LogicPkt, error) {
	answer := make(chan *wire.LogicPkt, 1)
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return nil, d.err
	}
	d.seq++
	p.Sequence = d.seq
	d.answers[p.Sequence] = answer
	d.mu.Unlock()
	return answer, d.send(p)
}

// ask sends a request and returns its answer, whatever its status.
func (d *device) ask(ctx context.Context, p *wire.LogicPkt) (*wire.LogicPkt, error) {
	answer, err := d.post(p)
	if err != nil {
		return nil, err
	}
	select {
	case a, ok := <-answer:
		if !ok {
			return nil, errDisconnected
		}
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s of %s is not answered: %w", p.Command, d.account, ctx.Err())
	}
}

var errDisconnected = errors.New("disconnected before the answer")

// call is ask with protobuf bodies, either of which may be nil. A status is a *wire.Error.
func (d *device) call(ctx context.Context, cmd wire.Command, dest string, req, resp proto.Message) error {
	p := &wire.LogicPkt{Header: wire.Header{Command: cmd, Dest: dest}}
	if req != nil {
		var err error
		if p.Body, err = proto.Marshal(req); err != nil {
			return err
		}
	}
	a, err := d.ask(ctx, p)
	if err != nil {
		return err
	}
	if a.Command != cmd || a.Flag != wire.FlagResponse {
		return fmt.Errorf("%s was answered with %+v", cmd, a.Header)
	}
	if a.Status != wire.StatusSuccess {
		var e pb.ErrorResp
		if err := proto.Unmarshal(a.Body, &e); err != nil {
			return err
		}
		return &wire.Error{Status: a.Status, Message: e.Message}
	}
	if resp == nil {
		return nil
	}
	return proto.Unmarshal(a.Body, resp)
}

// next takes the next push.
func (d *device) next(ctx context.Context) (p *wire.LogicPkt, err error) {
	err = d.await(ctx, func() bool {
		if len(d.pushes) > 0 {
			p, d.pushes = d.pushes[0], d.pushes[1:]
		}
		return p != nil
	})
	return p, err
}

// hangUp ends the connection without a word.
func (d *device) hangUp() { _ = d.conn.Close() }

// closeCode waits for the server's close frame.
func (d *device) closeCode(ctx context.Context) (uint16, error) {
	err := d.await(ctx, func() bool { return false })
	var closed *transport.PeerClosedError
	if !errors.As(err, &closed) {
		return 0, fmt.Errorf("no close frame: %w", err)
	}
	return closed.Code, nil
}

// user is a device in a test: what must work fails the test when it does not.
type user struct {
	*device
	t testing.TB
}

// within is the context of one step of a test.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	return ctx
}

// newUser signs in, until the test ends.
func newUser(t testing.TB, url, token string, login *pb.LoginReq) *user {
	t.Helper()
	d, err := signIn(within(t), url, token, login)
	require.NoError(t, err, "sign in at %s", url)
	t.Cleanup(d.hangUp)
	return &user{d, t}
}

// legacy and modern are the logins of a client that knows protocol.md only, and of one that keeps cursors.
func legacy() *pb.LoginReq { return &pb.LoginReq{} }

func modern(device string) *pb.LoginReq {
	return &pb.LoginReq{Device: device, Platform: "test", Features: []string{"sync"}}
}

// must is a call that succeeds.
func (u *user) must(cmd wire.Command, dest string, req, resp proto.Message) {
	u.t.Helper()
	require.NoError(u.t, u.call(within(u.t), cmd, dest, req, resp), "%s of %s", cmd, u.account)
}

// refused is a call that gets this status, with a text for people.
func (u *user) refused(want wire.Status, cmd wire.Command, dest string, req proto.Message) {
	u.t.Helper()
	var e *wire.Error
	require.ErrorAs(u.t, u.call(within(u.t), cmd, dest, req, nil), &e, "%s of %s", cmd, u.account)
	require.Equal(u.t, want, e.Status, "%s of %s: %s", cmd, u.account, e.Message)
	require.NotEmpty(u.t, e.Message)
}

// say sends a text to an account.
func (u *user) say(to, body string) *pb.MessageResp {
	u.t.Helper()
	var resp pb.MessageResp
	u.must(wire.CmdUserTalk, to, &pb.MessageReq{Type: 1, Body: body}, &resp)
	return &resp
}

// sayIn sends a text to a group.
func (u *user) sayIn(group, body string) *pb.MessageResp {
	u.t.Helper()
	var resp pb.MessageResp
	u.must(wire.CmdGroupTalk, group, &pb.MessageReq{Type: 1, Body: body}, &resp)
	return &resp
}

// pushed takes the next push, which must be of this command, into body.
func (u *user) pushed(cmd wire.Command, body proto.Message) *wire.LogicPkt {
	u.t.Helper()
	p, err := u.next(within(u.t))
	require.NoError(u.t, err, "%s waits for a push of %s", u.account, cmd)
	require.Equal(u.t, cmd, p.Command, "push to %s", u.account)
	require.NoError(u.t, proto.Unmarshal(p.Body, body))
	return p
}

// hears takes the next push, which must be this message.
func (u *user) hears(cmd wire.Command, dest, sender, body string) *pb.MessagePush {
	u.t.Helper()
	var m pb.MessagePush
	p := u.pushed(cmd, &m)
	require.Equal(u.t, []string{dest, sender, body}, []string{p.Dest, m.Sender, m.Body}, "push to %s", u.account)
	return &m
}

// closed waits until the server has closed the connection with this code.
func (u *user) closed(want im.Reason) {
	u.t.Helper()
	code, err := u.closeCode(within(u.t))
	require.NoError(u.t, err)
	require.Equal(u.t, want.Code(), code, "close code of %s", u.account)
}

// issue makes a token.
func issue(t testing.TB, secret, app, account string) string {
	t.Helper()
	s, err := token.Issue([]byte(secret), token.Claims{Account: account, App: app, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	return s
}
