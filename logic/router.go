package logic

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
)

// Handler does what a command asks. An error becomes the answer; nil means that the handler has
// answered, or that somebody it has handed the Context to will.
type Handler func(*Context) error

// Middleware wraps a handler with something that holds for all commands.
type Middleware func(Handler) Handler

// Sender says who may give a command.
type Sender int

// The senders of commands.
const (
	// FromClient: a signed-in client; the gateway has stamped who it is.
	FromClient Sender = iota
	// FromGateway: a gateway for itself.
	FromGateway
)

// Route is a row of the table of commands.
type Route struct {
	Command wire.Command
	From    Sender
	// Inline handlers run on the link's reader, in order, and must not block. The others run on a
	// bounded number of goroutines, in no particular order.
	Inline bool
	// Bulk: the answer may be large, and can be asked for again. See bulk. Not for inline handlers.
	Bulk   bool
	Handle Handler
}

// Router finds the row of a command and runs its chain.
type Router struct {
	routes map[wire.Command]Route // static after construction
	limit  int
	tasks  chan task
	bulk   *bulk
}

type task struct {
	handle Handler
	c      *Context
}

// taskQueue bounds the blocking commands that wait for a goroutine; above it the answer is status 300.
const taskQueue = 4096

// NewRouter returns a router of a table. Every handler is wrapped in the precondition of its row and
// then in the middlewares, the first outermost. At most handlers blocking commands run at once.
func NewRouter(table []Route, handlers int, chain ...Middleware) *Router {
	r := &Router{routes: map[wire.Command]Route{}, limit: handlers, tasks: make(chan task, taskQueue), bulk: newBulk()}
	for _, row := range table {
		row.Handle = precondition(row.From)(row.Handle)
		for _, m := range slices.Backward(chain) {
			row.Handle = m(row.Handle)
		}
		r.routes[row.Command] = row
	}
	return r
}

// Run works off blocking commands until ctx ends.
func (r *Router) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range r.limit {
		wg.Go(func() {
			for {
				select {
				case t := <-r.tasks:
					r.run(t.handle, t.c)
					r.bulk.end(t.c)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
}

// Serve handles a request. It returns soon: a blocking handler is left to Run.
func (r *Router) Serve(c *Context) {
	row, ok := r.routes[c.Packet.Command]
	if !ok {
		c.fail(wire.Errorf(wire.StatusNotImplemented, "the command %q is not implemented", c.Packet.Command))
		c.finish()
		return
	}
	if row.Inline {
		r.run(row.Handle, c)
		return
	}
	if row.Bulk {
		if err := r.bulk.begin(c); err != nil {
			c.fail(err)
			c.finish()
			return
		}
	}
	c.Packet.Body = slices.Clone(c.Packet.Body) // the link's buffer is used again
	select {
	case r.tasks <- task{row.Handle, c}:
	default:
		r.bulk.end(c)
		c.fail(errBusy)
		c.finish()
	}
}

var errBusy = wire.Errorf(wire.StatusSystemException, "the service is busy: try again")

// run is the one place where errors become answers.
func (r *Router) run(handle Handler, c *Context) {
	switch err := handle(c); err {
	case errDeferred:
	case nil:
		c.finish()
	default:
		c.fail(err)
		c.finish()
	}
}

// errDeferred is what a handler returns that has handed the Context on: whoever has it answers and finishes it.
var errDeferred = fmt.Errorf("deferred")

// unary makes a handler of a function that takes a body and returns one; nil is an empty body.
func unary[Req any, M interface {
	*Req
	proto.Message
}](f func(ctx context.Context, c *Context, req M) (proto.Message, error),
) Handler {
	return func(c *Context) error {
		req := M(new(Req))
		if err := c.Decode(req); err != nil {
			return err
		}
		ctx, cancel := c.withTimeout()
		defer cancel()
		resp, err := f(ctx, c, req)
		if err != nil {
			return err
		}
		c.Respond(resp)
		return nil
	}
}

// precondition refuses a command of somebody who may not give it.
func precondition(from Sender) Middleware {
	return func(next Handler) Handler {
		return func(c *Context) error {
			signedIn := c.Packet.Account != "" && c.Packet.ChannelID != ""
			switch {
			case from == FromClient && !signedIn:
				return wire.Errorf(wire.StatusSessionNotFound, "sign in first")
			case from == FromGateway && signedIn:
				return wire.Errorf(wire.StatusInvalidCommand, "the command %q is not for clients", c.Packet.Command)
			}
			return next(c)
		}
	}
}

// recoverer answers a panic like any internal failure, and logs where it was.
func recoverer(log *logrus.Entry) Middleware {
	return func(next Handler) Handler {
		return func(c *Context) (err error) {
			defer func() {
				if r := recover(); r != nil {
					log.WithField("command", c.Packet.Command).WithField("stack", string(debug.Stack())).Errorf("panic: %v", r)
					err = errBusy
				}
			}()
			return next(c)
		}
	}
}

// limiter refuses the requests of an account that makes too many. Gateways are not limited, nor are
// logins, which they limit.
func limiter(r limit.Rate, limited prometheus.Counter) Middleware {
	buckets := limit.NewKeyed[storage.AccountKey](r)
	return func(next Handler) Handler {
		return func(c *Context) error {
			if c.Packet.Account == "" || c.Packet.Command == wire.CmdSignIn {
				return next(c)
			}
			if wait := buckets.Take(c.Account(), time.Now()); wait > 0 {
				limited.Inc()
				return &wire.Error{Status: wire.StatusRateLimited, Message: "too many requests: slow down", RetryAfter: wait}
			}
			return next(c)
		}
	}
}
