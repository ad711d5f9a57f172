package logic

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
)

// Context is one request on its way through the chain. It is finished exactly once: by Respond, by
// a handler's error, or, for talk, by the dispatcher.
type Context struct {
	// Packet is the request. Its Link says who asks: the gateway has authenticated that. The body is
	// valid until Serve returns for an inline handler, and as long as the Context otherwise.
	Packet wire.LogicPkt
	// Gateway is the instance id of the gateway that forwarded the request.
	Gateway string
	// Meta is what the gateway, and no client, learns with the answer. May be nil.
	Meta []wire.Meta
	// Delivered is, likewise, what the answer holds or acknowledges. May be nil.
	Delivered []wire.Delivered

	agent    im.Agent
	log      *logrus.Entry
	node     *Node
	finished atomic.Bool
	bulk     bool // counted by Router.bulk
}

// Account is who asks.
func (c *Context) Account() storage.AccountKey {
	return storage.AccountKey{App: c.Packet.App, Account: c.Packet.Account}
}

// Decode parses the body: a *wire.Error if it is not an m.
func (c *Context) Decode(m proto.Message) error {
	if err := proto.Unmarshal(c.Packet.Body, m); err != nil {
		return wire.Errorf(wire.StatusInvalidBody, "the body of %s is not a %s", c.Packet.Command, m.ProtoReflect().Descriptor().Name())
	}
	return nil
}

// Respond answers with success and a body, which may be nil. A gateway that is gone gets nothing:
// its client has lost its connection and asks again.
func (c *Context) Respond(body proto.Message) { c.respond(wire.StatusSuccess, body) }

// fail answers with an error. What is no *wire.Error and no storage error is an internal failure:
// the client learns that it may retry, the log learns the rest.
func (c *Context) fail(err error) {
	e := asWireError(err)
	if e == nil {
		c.log.WithError(err).WithField("command", c.Packet.Command).Error("request failed")
		e = wire.Errorf(wire.StatusSystemException, "the service is busy: try again")
	}
	c.respond(e.Status, e.Resp())
}

func asWireError(err error) *wire.Error {
	var e *wire.Error
	var conflict *storage.ConflictError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, storage.ErrNoConversation):
		return wire.Errorf(wire.StatusNoDestination, "there is no such conversation or group")
	case errors.Is(err, storage.ErrNotMember):
		return wire.Errorf(wire.StatusUnauthorized, "you are not a member")
	case errors.Is(err, storage.ErrNoMessage):
		return wire.Errorf(wire.StatusNoDestination, "there is no such message")
	case errors.Is(err, storage.ErrGroupFull):
		return wire.Errorf(wire.StatusUnauthorized, "the group is full")
	case errors.Is(err, storage.ErrSuperseded):
		return wire.Errorf(wire.StatusConflict, "a newer login of this client is there")
	case errors.As(err, &conflict):
		return wire.Errorf(wire.StatusConflict, "another device is signed in")
	case errors.Is(err, storage.ErrInvalid):
		return wire.Errorf(wire.StatusInvalidBody, "%s", err.Error())
	default:
		return nil
	}
}

func (c *Context) respond(status wire.Status, body proto.Message) {
	p := wire.LogicPkt{Header: wire.Header{
		Command:   c.Packet.Command,
		ChannelID: c.Packet.ChannelID,
		Sequence:  c.Packet.Sequence,
		Dest:      c.Packet.Dest,
		Flag:      wire.FlagResponse,
		Status:    status,
		Meta:      c.Meta,
		Link:      wire.Link{Delivered: c.Delivered},
	}}
	if p.Command == wire.CmdSignIn { // should its channel be gone, the gateway ends the session
		p.App, p.Account, p.Device = c.Packet.App, c.Packet.Account, c.Packet.Device
	}
	if body != nil {
		var err error
		if p.Body, err = proto.Marshal(body); err != nil {
			c.log.WithError(err).WithField("command", p.Command).Error("cannot encode the answer")
			p.Status = wire.StatusSystemException
		}
	}
	if c.bulk && p.Status == wire.StatusSuccess {
		if err := c.offer(p.Append(nil)); err != nil {
			c.Delivered = nil
			c.fail(err)
			return
		}
	} else {
		_ = c.agent.Push(p.Append(nil)) // see Respond
	}
	c.node.metrics.answered(p.Status)
}

// finish ends the request; only the first call counts.
func (c *Context) finish() {
	if !c.finished.Swap(true) {
		c.node.inflight.Add(-1)
	}
}

// withTimeout is the context of a blocking handler.
func (c *Context) withTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), c.node.cfg.Timeout)
}
