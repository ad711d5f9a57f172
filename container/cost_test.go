package container

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/wire"
)

// A request is chosen a link, queued there and kept until its answer, without an allocation.
func TestCostOfForward(t *testing.T) {
	s := linksTo(run("a", 1), run("b", 1), run("c", 1))
	req, payload := Open{Channel: "gateway-1.1", Sequence: 1, Command: wire.CmdUserTalk}, make([]byte, 150)
	cost.Allocs(t, "select", 0, func() {
		_, err := s.Select(Key(req.Channel))
		require.NoError(t, err)
	})
	l, err := s.Select(Key(req.Channel))
	require.NoError(t, err)
	cost.Allocs(t, "forward and answer", 0, func() {
		if err := s.Forward(Key(req.Channel), req, payload); err != nil || !l.Answered(req) {
			t.Fatal(err)
		}
	})
}

func BenchmarkSelect(b *testing.B) {
	s := linksTo(run("a", 1), run("b", 1), run("c", 1), run("d", 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Select(Key("gateway-1.1")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	s := linksTo(run("a", 1), run("b", 1))
	req, payload := Open{Channel: "gateway-1.1", Sequence: 1, Command: wire.CmdUserTalk}, make([]byte, 150)
	l, err := s.Select(Key(req.Channel))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Forward(Key(req.Channel), req, payload); err != nil || !l.Answered(req) {
			b.Fatal(err)
		}
	}
}
