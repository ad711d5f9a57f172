package verify

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/verify/internal/oracle"
)

// sdkDevice is a device with the Go SDK.
type sdkDevice struct {
	// Static after construction.
	device *oracle.Device
	oracle *oracle.Oracle
	opts   client.Options

	client atomic.Pointer[client.Client] // the present one; nil before the first
	up     chan struct{}                 // closed when it is on line for the first time
	once   sync.Once
	open   atomic.Int32 // sends without an outcome
}

// sdkWindow is how many sends of a device may be without an outcome.
const sdkWindow = 16

func newSDKDevice(d *oracle.Device, o *oracle.Oracle, opts client.Options) *sdkDevice {
	s := &sdkDevice{device: d, oracle: o, opts: opts, up: make(chan struct{})}
	s.opts.Device = d.Name
	s.opts.Store = new(client.MemoryStore) // for all clients of this device, as an application's would be
	s.opts.OnMessage = s.shown
	s.opts.OnState = func(state client.State, _ error) {
		if state == client.StateOnline {
			s.once.Do(func() { close(s.up) })
		}
	}
	return s
}

// run keeps the device on line. A client that gives up is an error, and another one takes its place.
func (s *sdkDevice) run(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := client.New(s.opts)
		if err == nil {
			s.client.Store(c)
			err = c.Run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		s.oracle.Error("%s: the client ended: %v", s.device.Name, err)
		pause(ctx, time.Second)
	}
}

func (s *sdkDevice) shown(m client.Message) {
	s.oracle.Delivered(s.device, oracle.Delivery{
		Conversation: m.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID, Synced: m.Synced,
	})
}

func (s *sdkDevice) online() <-chan struct{} { return s.up }

func (s *sdkDevice) free() bool { return s.client.Load() != nil && s.open.Load() < sdkWindow }

// say sends a message; its outcome comes by itself.
func (s *sdkDevice) say(ctx context.Context, m outgoing) {
	s.open.Add(1)
	go func() {
		defer s.open.Add(-1)
		talk := s.client.Load().Talk
		if m.group {
			talk = s.client.Load().TalkGroup
		}
		sent, err := talk(ctx, m.dest, client.Draft{Body: m.body, ClientID: m.clientID})
		switch {
		case err == nil:
			by := s.device
			if s.opts.EchoOwn {
				by = nil // it is shown like any other
			}
			s.oracle.Answered(m.n, sent.MessageID, sent.Seq, sent.Conversation, by)
		case ctx.Err() == nil:
			s.oracle.Failed(m.n, err)
		}
	}()
}
