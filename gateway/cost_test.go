package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// sinkLink is the client of a link without a network: after the handshake what is sent goes nowhere.
type sinkLink struct {
	im.Client
	greeted  bool // the hello is all that anybody waits for
	hub      *container.Hub
	in, out  chan []byte
	closed   chan struct{}
	accepted chan error
}

func newSinkLink(hub *container.Hub) *sinkLink {
	return &sinkLink{hub: hub, in: make(chan []byte, 2), out: make(chan []byte, 2), closed: make(chan struct{}), accepted: make(chan error, 1)}
}

func (l *sinkLink) Connect(string) error {
	go func() {
		id, err := l.hub.Accept(&sinkConn{link: l}, time.Minute)
		if err == nil {
			err = l.hub.Connect(&sinkChannel{newFakeChannel(id), l})
		}
		l.accepted <- err
	}()
	return nil
}

func (l *sinkLink) Send(p []byte) error {
	if !l.greeted {
		l.greeted = true
		l.in <- bytes.Clone(p)
	}
	return nil
}

func (l *sinkLink) Read() (im.Frame, error) {
	select {
	case p := <-l.out:
		return frame(p), nil
	case <-l.closed:
		return nil, io.EOF
	}
}

func (l *sinkLink) Close() {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
}

type frame []byte

func (f frame) SetOpCode(im.OpCode)  {}
func (f frame) GetOpCode() im.OpCode { return im.OpBinary }
func (f frame) SetPayload([]byte)    {}
func (f frame) GetPayload() []byte   { return f }

// sinkConn is the accepting end of the handshake.
type sinkConn struct {
	im.Conn
	link *sinkLink
}

func (c *sinkConn) SetDeadline(time.Time) error  { return nil }
func (c *sinkConn) ReadFrame() (im.Frame, error) { return frame(<-c.link.in), nil }
func (c *sinkConn) Flush() error                 { return nil }
func (c *sinkConn) WriteFrame(_ im.OpCode, p []byte) error {
	c.link.out <- bytes.Clone(p)
	return nil
}

// sinkChannel is the accepting end after it.
type sinkChannel struct {
	*fakeChannel
	link *sinkLink
}

func (c *sinkChannel) Push(p []byte) error {
	c.link.out <- bytes.Clone(p)
	return nil
}

// costFixture is a gateway with two links that go nowhere, and channels that are on line.
func costFixture(t testing.TB, channels int) (*fixture, []*fakeChannel) {
	f, _ := build(t, memory.NewRegistry(), nil)
	var list []naming.Instance
	hubs := map[string]*container.Hub{}
	for _, id := range []string{"logic-1", "logic-2"} {
		self := naming.Instance{ID: id, Service: naming.ServiceLogic, Node: id, Address: "nowhere:1", State: naming.StateReady}
		hubs[id] = container.NewHub(container.HubOptions{Self: self, Secret: secret, Changed: func() {}, Log: quiet()})
		list = append(list, self)
	}
	f.links = container.NewLinks(container.LinksOptions{
		Self: f.cfg.Instance, Secret: secret,
		NewClient: func(_, peer string) im.Client { return newSinkLink(hubs[peer]) },
		Receive:   f.deliver, Up: f.linkUp, Down: f.linkDown,
		Changed: f.barrier.Changed, Log: quiet(),
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.links.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	f.links.Update(list)
	await.Until(t, "the links", func() bool { return f.links.Usable() == 2 })
	out := make([]*fakeChannel, channels)
	for i := range out {
		ch := newFakeChannel(fmt.Sprintf("gateway-1-abcdefgh.%d", i))
		ch.keep = false
		ch.SetAttachment(&session{identity: newIdentity("demo", "alice", "", "", ""), ch: ch, online: true})
		f.deps.Channels.Add(ch)
		out[i] = ch
	}
	return f, out
}

// talkOf is a client's message as it arrives, with a 64-byte body.
func talkOf(sequence uint32) []byte {
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Sequence: sequence, Dest: "bob"}, Body: bytes.Repeat([]byte{'x'}, 64)}
	return p.Append(nil)
}

// answerTo is the response to the one request that is open on one of the links.
func (f *fixture) answerTo(ch *fakeChannel, sequence uint32) {
	open := container.Open{Channel: ch.id, Sequence: sequence, Command: wire.CmdUserTalk}
	key := f.route(sessionOf(ch), &wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Dest: "bob"}})
	l, err := f.links.Select(key)
	if err != nil || !l.Answered(open) {
		f.t.Fatal("not open", err)
	}
	sessionOf(ch).answered()
}

// pushTo is a logic node's push as it arrives, to the channels.
func pushTo(channels []*fakeChannel) []byte {
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, Body: bytes.Repeat([]byte{'x'}, 100)}
	for _, ch := range channels {
		p.Channels = append(p.Channels, ch.id)
	}
	return p.Append(nil)
}

// pushesTo is as many of these pushes in one packet.
func pushesTo(channels []*fakeChannel, pushes int) []byte {
	var one, all wire.LogicPkt
	if err := one.Unmarshal(pushTo(nil)); err != nil {
		panic(err)
	}
	if err := all.Unmarshal(pushTo(channels)); err != nil {
		panic(err)
	}
	all.Command = wire.CmdLinkPushes
	all.Body, _ = proto.Marshal(&pb.LinkPushes{Packets: slices.Repeat([][]byte{one.Append(nil)}, pushes)})
	return all.Append(nil)
}

func (f *fixture) deliverBytes(payload []byte) {
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		f.t.Fatal(err)
	}
	f.deliver(nil, &p)
}

// What one message allocates. Forwarded: its destination. Pushed: the packet of the link, the list of its
// channels, and one encoding for all of them.
func TestCostOfMessage(t *testing.T) {
	f, channels := costFixture(t, 100)
	payload := talkOf(1)
	cost.Allocs(t, "forward and answer", 1, func() {
		f.Receive(channels[0], payload)
		f.answerTo(channels[0], 1)
	})
	one, all := pushTo(channels[:1]), pushTo(channels)
	cost.Allocs(t, "push to one", 3, func() { f.deliverBytes(one) })
	cost.Allocs(t, "push to 100: an id each and the growth of their list", 3+99+7, func() { f.deliverBytes(all) })
	together := pushesTo(channels, 10)
	cost.Allocs(t, "10 pushes to 100 together: as one, and the packets, their list and its growth", 3+99+7+16, func() { f.deliverBytes(together) })
}

// maxSessionBytes is what the session of an idle connection may cost in heap: 112 bytes for itself and 48
// for the names of who is connected, here 40 bytes.
const maxSessionBytes = 160

func TestCostOfSession(t *testing.T) {
	const warmUp = 10 // fills caches
	f, _ := build(t, memory.NewRegistry(), nil)
	channels := make([]*fakeChannel, 4000+warmUp)
	for i := range channels {
		channels[i] = newFakeChannel(fmt.Sprint("g.", i))
		channels[i].keep = false
	}
	var before int64
	for i, ch := range channels {
		if i == warmUp {
			before = cost.Heap()
		}
		jwt, err := token.Issue(secret, token.Claims{App: "demo", Account: fmt.Sprintf("account-%08d", i), Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		body, err := proto.Marshal(&pb.LoginReq{Token: jwt, Device: "0123456789", Platform: "desktop", Instance: "xy"})
		require.NoError(t, err)
		s, err := f.admit(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSignIn}, Body: body}, time.Now())
		require.NoError(t, err)
		s.ch = ch
		ch.SetAttachment(s)
		require.NoError(t, s.begin(nil))
	}
	cost.Bytes(t, "a session", maxSessionBytes, len(channels)-warmUp, before)
	runtime.KeepAlive(channels)
}

func BenchmarkForward(b *testing.B) {
	f, channels := costFixture(b, 1)
	payload := talkOf(1)
	b.ReportAllocs()
	for b.Loop() {
		f.Receive(channels[0], payload)
		f.answerTo(channels[0], 1)
	}
}

func BenchmarkDeliver(b *testing.B) {
	f, channels := costFixture(b, 1000)
	for _, n := range []int{1, 10, 1000} {
		payload := pushTo(channels[:n])
		b.Run(fmt.Sprint("channels=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.deliverBytes(payload)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/channel")
		})
	}
	const pushes = 10
	together := pushesTo(channels, pushes)
	b.Run("together", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.deliverBytes(together)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(channels)*pushes), "ns/delivery")
	})
}
