package logic

import (
	"testing"

	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/wire"
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
