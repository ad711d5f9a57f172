package logic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// route replaces the node's table with one of the test's.
func (f *fixture) route(handlers int, chain []Middleware, rows ...Route) {
	f.router = NewRouter(rows, handlers, chain...)
}

// runRouter runs the router that route has made.
func (f *fixture) runRouter() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.router.Run(ctx)
	}()
	f.t.(*testing.T).Cleanup(func() {
		stop()
		<-ended
	})
}

func answering(c *Context) error { c.Respond(nil); return nil }

func TestChainRunsInOrder(t *testing.T) {
	f := build(t, nil)
	var order []string
	named := func(name string) Middleware {
		return func(next Handler) Handler {
			return func(c *Context) error {
				order = append(order, name)
				defer func() { order = append(order, "/"+name) }()
				return next(c)
			}
		}
	}
	f.route(1, []Middleware{named("a"), named("b")}, Route{Command: "x", Inline: true, Handle: func(c *Context) error {
		order = append(order, "handler")
		return answering(c)
	}})
	f.succeeds(asClient("alice", "x"), nil, nil)
	require.Equal(t, "a b handler /b /a", strings.Join(order, " "))
	f.idle()
}

// Who may give which command.
func TestPrecondition(t *testing.T) {
	f := build(t, nil)
	f.route(1, nil,
		Route{Command: "of.clients", Inline: true, Handle: answering},
		Route{Command: "of.gateways", Inline: true, From: FromGateway, Handle: answering},
	)
	nobody := func(cmd wire.Command) wire.Header { return wire.Header{Command: cmd, Sequence: 1} }
	half := asClient("alice", "of.clients")
	half.ChannelID = ""
	for _, test := range []struct {
		header wire.Header
		status wire.Status
	}{
		{asClient("alice", "of.clients"), wire.StatusSuccess},
		{nobody("of.clients"), wire.StatusSessionNotFound},
		{half, wire.StatusSessionNotFound},
		{nobody("of.gateways"), wire.StatusSuccess},
		{asClient("alice", "of.gateways"), wire.StatusInvalidCommand},
		{asClient("alice", "unknown"), wire.StatusNotImplemented},
		{nobody("unknown"), wire.StatusNotImplemented},
		{nobody(""), wire.StatusNotImplemented},
	} {
		require.Equal(t, test.status, f.ask(test.header, nil).Status, "%+v", test.header)
	}
	f.idle()
}

// Every command of the table needs whom its row names: a row that forgot would be a hole.
func TestEveryCommandHasItsSender(t *testing.T) {
	f := start(t, nil)
	for cmd, row := range f.router.routes {
		require.Equal(t, cmd.Internal(), row.From == FromGateway, cmd)
		if row.From == FromClient {
			f.fails(wire.Header{Command: cmd}, nil, wire.StatusSessionNotFound)
		} else {
			f.fails(asClient("alice", cmd), nil, wire.StatusInvalidCommand)
		}
	}
	f.idle()
}

func TestPanicIsAnswered(t *testing.T) {
	f := build(t, nil)
	f.route(1, []Middleware{recoverer(f.log)},
		Route{Command: "inline", Inline: true, Handle: func(*Context) error { panic("secret detail") }},
		Route{Command: "task", Handle: func(*Context) error { panic(errors.New("secret detail")) }},
	)
	f.runRouter()
	for range 3 {
		require.NotContains(t, f.fails(asClient("alice", "inline"), nil, wire.StatusSystemException), "secret")
		require.NotContains(t, f.fails(asClient("alice", "task"), nil, wire.StatusSystemException), "secret")
	}
	f.idle()
}

// More blocking commands than may wait are refused at once: the link's reader never waits.
func TestBusyRouterRefuses(t *testing.T) {
	f := build(t, nil)
	running, release := make(chan struct{}), make(chan struct{})
	f.route(1, nil, Route{Command: "x", Handle: func(c *Context) error {
		running <- struct{}{}
		<-release
		return answering(c)
	}})
	f.runRouter()
	f.give(asClient("alice", "x"), nil)
	<-running
	for range taskQueue {
		f.give(asClient("alice", "x"), nil)
	}
	require.Empty(t, f.agent.got())
	f.fails(asClient("alice", "x"), nil, wire.StatusSystemException)
	go func() {
		for range running {
		}
	}()
	close(release)
	f.idle()
	close(running)
	require.Len(t, f.agent.got(), taskQueue+2)
}

// A request that waits has a body of its own: the link's buffer is used again.
func TestWaitingRequestKeepsItsBody(t *testing.T) {
	f := build(t, nil)
	f.route(1, nil, Route{Command: "x", Handle: func(c *Context) error {
		c.Respond(&pb.ErrorResp{Message: string(c.Packet.Body)})
		return nil
	}})
	h := asClient("alice", "x")
	f.give(h, &pb.ErrorResp{Message: "hello"}) // and overwrites it
	f.runRouter()
	f.agent.happened.Until(t, "the answer", func() bool { return len(f.agent.got()) == 1 })
	require.Contains(t, string(f.agent.got()[0].Body), "hello")
}

// What a handler's error is to the client. Internal details never are.
func TestErrorsBecomeAnswers(t *testing.T) {
	f := build(t, nil)
	var err error
	f.route(1, nil, Route{Command: "x", Inline: true, Handle: func(*Context) error { return err }})
	for _, test := range []struct {
		err     error
		status  wire.Status
		message string
	}{
		{wire.Errorf(wire.StatusUnauthorized, "you may not"), wire.StatusUnauthorized, "you may not"},
		{fmt.Errorf("wrapped: %w", wire.Errorf(wire.StatusInvalidBody, "broken")), wire.StatusInvalidBody, "broken"},
		{fmt.Errorf("sql: %w", storage.ErrNoConversation), wire.StatusNoDestination, "there is no such conversation or group"},
		{fmt.Errorf("sql: %w", storage.ErrNotMember), wire.StatusUnauthorized, "you are not a member"},
		{fmt.Errorf("sql: %w", storage.ErrNoMessage), wire.StatusNoDestination, "there is no such message"},
		{fmt.Errorf("sql: %w", storage.ErrGroupFull), wire.StatusUnauthorized, "the group is full"},
		{fmt.Errorf("%w: name is too long", storage.ErrInvalid), wire.StatusInvalidBody, "invalid: name is too long"},
		{errors.New("dial tcp 10.0.0.7:3306: refused"), wire.StatusSystemException, "the service is busy: try again"},
		{context.DeadlineExceeded, wire.StatusSystemException, "the service is busy: try again"},
		{storage.ErrNoLease, wire.StatusSystemException, "the service is busy: try again"},
		{errBusy, wire.StatusSystemException, "the service is busy: try again"},
	} {
		err = test.err
		require.Equal(t, test.message, f.fails(asClient("alice", "x"), nil, test.status), test.err)
	}
	f.idle()
}

func TestMalformedBodies(t *testing.T) {
	f := start(t, nil)
	for cmd, row := range f.router.routes {
		h := asClient("alice", cmd)
		h.Dest = "bob"
		if row.From == FromGateway {
			h = wire.Header{Command: cmd}
		}
		before := len(f.agent.got())
		f.receive("gateway-1", f.agent, &wire.LogicPkt{Header: h, Body: []byte{0xff, 0xff, 0xff}})
		f.agent.happened.Until(t, "an answer", func() bool { return len(f.agent.got()) > before })
		require.Equal(t, wire.StatusInvalidBody, f.agent.got()[before].Status, cmd)
	}
	f.idle()
}

func TestAccountLimit(t *testing.T) {
	f := start(t, func(c *Config) { c.Rate = limit.Rate{PerSecond: 0.001, Burst: 2} })
	ack := func(account, channel string) wire.Header {
		h := asClient(account, wire.CmdTalkAck)
		h.ChannelID = channel
		return h
	}
	f.succeeds(ack("alice", "phone"), &pb.MessageAckReq{MessageId: 1}, nil)
	f.succeeds(ack("alice", "web"), &pb.MessageAckReq{MessageId: 1}, nil)
	p := f.ask(ack("alice", "tablet"), &pb.MessageAckReq{MessageId: 1})
	require.Equal(t, wire.StatusRateLimited, p.Status)
	var refusal pb.ErrorResp
	require.NoError(t, proto.Unmarshal(p.Body, &refusal))
	require.InDelta(t, 1_000_000, refusal.RetryAfterMs, 30_000, "ms until there is a token")
	f.succeeds(ack("bob", "phone"), &pb.MessageAckReq{MessageId: 1}, nil)
	other := ack("alice", "phone")
	other.App = "another"
	f.succeeds(other, &pb.MessageAckReq{MessageId: 1}, nil)
	f.succeeds(asClient("alice", wire.CmdSignIn), &pb.LoginReq{}, nil)
	for range 5 {
		f.succeeds(wire.Header{Command: wire.CmdSessionRenew}, &pb.LeaseRenewReq{LeaseMs: 1000}, nil)
	}
}

// Run ends although requests wait, and handlers have a deadline.
func TestHandlersHaveADeadline(t *testing.T) {
	f := build(t, func(c *Config) { c.Timeout = time.Minute })
	f.route(1, nil, Route{Command: "x", Handle: unary(func(ctx context.Context, _ *Context, _ *pb.SyncReq) (proto.Message, error) {
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.LessOrEqual(t, time.Until(deadline), time.Minute)
		return nil, nil
	})})
	f.runRouter()
	f.succeeds(asClient("alice", "x"), nil, nil)
}
