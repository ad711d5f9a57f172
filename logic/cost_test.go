package logic

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// chained is a node of which a talk runs the whole chain and ends there, and such a request.
func chained(t testing.TB) (f *fixture, request func()) {
	f = build(t, nil)
	f.router = NewRouter([]Route{{Command: wire.CmdUserTalk, Inline: true, Handle: func(*Context) error { return nil }}}, 1,
		recoverer(f.log), f.metrics.measure, limiter(f.cfg.Rate, f.metrics.limited))
	p := &wire.LogicPkt{Header: asClient("alice", wire.CmdUserTalk)}
	return f, func() { f.receive("gateway-1", f.agent, p) }
}

// What a request costs before and after its handler: its Context.
func TestCostOfRouter(t *testing.T) {
	_, request := chained(t)
	cost.Allocs(t, "a request", 1, request)
}

func BenchmarkRouter(b *testing.B) {
	_, request := chained(b)
	b.ReportAllocs()
	for b.Loop() {
		request()
	}
}

// deaf is an agent, and links, that take everything and keep nothing.
type deaf struct{ im.Agent }

func (deaf) Push([]byte) error { return nil }

type deafLinks struct{}

func (deafLinks) Push(string, []byte) error  { return nil }
func (deafLinks) Speaks(string, uint32) bool { return true }
func (deafLinks) Broadcast([]byte)           {}

// instant is a store that has stored everything at once, from alice to bob.
type instant struct {
	storage.Messages
	members []string
	seq     int64
}

func (m *instant) Append(_ context.Context, drafts []*storage.Draft) error {
	for _, d := range drafts {
		m.seq++
		d.Conversation, d.Seq, d.MessageID, d.Members = 7, m.seq, m.seq, m.members
	}
	return nil
}

// BenchmarkTalk is all that a node does for a message but store it: parse, batch, answer, look up one
// receiver and push to his gateway.
func BenchmarkTalk(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			f := build(b, func(c *Config) { c.Shards, c.BatchMax, c.LocationAge = 1, batch, 0 })
			shard := f.committer.shards[0]
			shard.messages = &instant{members: []string{"alice", "bob"}}
			f.dispatch.links = deafLinks{}
			_, err := f.sessions.RenewLease(b.Context(), "gateway-1", time.Hour.Milliseconds(), 0)
			require.NoError(b, err)
			_, err = f.sessions.Login(b.Context(), storage.Session{App: "demo", Account: "bob", Channel: "gateway-1.bob", Gateway: "gateway-1"}, storage.DevicePolicy{})
			require.NoError(b, err)
			body := encode(b, &pb.MessageReq{Type: 1, Body: strings.Repeat("x", 64), ClientId: "0123456789"})
			request := (&wire.LogicPkt{Header: talkTo("alice", "bob"), Body: body}).Append(nil)
			waiting := 0
			b.ReportAllocs()
			for b.Loop() {
				var p wire.LogicPkt
				if err := p.Unmarshal(request); err != nil {
					b.Fatal(err)
				}
				f.receive("gateway-1", deaf{}, &p)
				if waiting++; waiting < batch {
					continue
				}
				waiting = 0
				done := shard.take()
				shard.commit(done)
				if !shard.tell(done) {
					f.dispatch.messages(done)
					finish(done)
				}
			}
		})
	}
}
