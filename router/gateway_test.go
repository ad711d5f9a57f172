package router

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/naming"
)

const accounts = 20_000

func gatewayOf(name, zone string, load, capacity int) gateway {
	return newGateway(naming.Instance{ID: name + "-run1", Node: name, Zone: zone, Meta: map[string]string{
		MetaWS:       "ws://" + name,
		MetaTCP:      "tcp://" + name,
		MetaLoad:     strconv.Itoa(load),
		MetaCapacity: strconv.Itoa(capacity),
	}})
}

func gateways(n int) []gateway {
	var list []gateway
	for i := range n {
		list = append(list, gatewayOf(fmt.Sprintf("g%d", i), "", 0, 1000))
	}
	return list
}

// firsts returns the first gateway of each account.
func firsts(list []gateway) []string {
	out := make([]string, accounts)
	for i := range out {
		out[i] = pick(list, MetaWS, "", "app", fmt.Sprintf("user%d", i), 3)[0]
	}
	return out
}

func share(picked []string, url string) float64 {
	n := 0
	for _, p := range picked {
		if p == url {
			n++
		}
	}
	return float64(n) / float64(len(picked))
}

func TestPickSpreadsEvenly(t *testing.T) {
	picked := firsts(gateways(5))
	for i := range 5 {
		require.InDelta(t, 0.2, share(picked, fmt.Sprintf("ws://g%d", i)), 0.015)
	}
}

func TestPickFollowsWeight(t *testing.T) {
	for name, c := range map[string]struct {
		list []gateway
		want float64 // the share of "a"
	}{
		"free capacity":      {[]gateway{gatewayOf("a", "", 500, 1000), gatewayOf("b", "", 0, 1000)}, 1. / 3},
		"larger machine":     {[]gateway{gatewayOf("a", "", 0, 3000), gatewayOf("b", "", 0, 1000)}, 3. / 4},
		"nearly full":        {[]gateway{gatewayOf("a", "", 999, 1000), gatewayOf("b", "", 0, 1000)}, 1. / 9},
		"full":               {[]gateway{gatewayOf("a", "", 1000, 1000), gatewayOf("b", "", 0, 1000)}, 0},
		"all full":           {[]gateway{gatewayOf("a", "", 2000, 1000), gatewayOf("b", "", 1000, 1000)}, 1. / 2},
		"a few connections":  {[]gateway{gatewayOf("a", "", 100, 1000), gatewayOf("b", "", 0, 1000)}, 1. / 2},
		"says nothing of it": {[]gateway{newGateway(naming.Instance{ID: "a", Meta: map[string]string{MetaWS: "ws://a"}}), gatewayOf("b", "", 0, defaultCapacity)}, 1. / 2},
	} {
		t.Run(name, func(t *testing.T) {
			require.InDelta(t, c.want, share(firsts(c.list), "ws://a"), 0.015)
		})
	}
}

// moved is the share of accounts whose gateway is another one.
func moved(before, after []string) float64 {
	n := 0
	for i := range before {
		if before[i] != after[i] {
			n++
		}
	}
	return float64(n) / float64(len(before))
}

// Modulo hashing moved everyone when a node was added (flaw 23).
func TestPickMovesOnlyWhatItMust(t *testing.T) {
	five := gateways(5)
	before := firsts(five)

	t.Run("a gateway more", func(t *testing.T) {
		after := firsts(gateways(6))
		require.InDelta(t, 1./6, moved(before, after), 0.015)
		for i := range after {
			require.True(t, after[i] == before[i] || after[i] == "ws://g5", "nobody moves between old gateways")
		}
	})
	t.Run("a gateway less", func(t *testing.T) {
		after := firsts(gateways(4))
		require.InDelta(t, 1./5, moved(before, after), 0.015)
		for i := range after {
			require.True(t, after[i] == before[i] || before[i] == "ws://g4")
		}
	})
	t.Run("a little load", func(t *testing.T) {
		list := slices.Clone(five)
		list[0] = gatewayOf("g0", "", 120, 1000) // within the first eighth
		require.Zero(t, moved(before, firsts(list)))
	})
	t.Run("a step of load", func(t *testing.T) {
		list := slices.Clone(five)
		list[0] = gatewayOf("g0", "", 130, 1000)
		require.InDelta(t, 0.2/8, moved(before, firsts(list)), 0.01)
	})
	t.Run("a restart", func(t *testing.T) {
		list := slices.Clone(five)
		list[0].id = "g0-run2"
		require.Zero(t, moved(before, firsts(list)))
	})
	t.Run("another order", func(t *testing.T) {
		list := slices.Clone(five)
		slices.Reverse(list)
		require.Zero(t, moved(before, firsts(list)))
	})
}

func TestPickKeepsTenantsApart(t *testing.T) {
	list := gateways(5)
	same := 0
	for i := range 1000 {
		account := fmt.Sprintf("user%d", i)
		if pick(list, MetaWS, "", "one", account, 1)[0] == pick(list, MetaWS, "", "two", account, 1)[0] {
			same++
		}
	}
	require.InDelta(t, 200, same, 60, "app is part of the key")
}

func TestPickPrefersTheZone(t *testing.T) {
	list := []gateway{
		gatewayOf("a1", "a", 0, 1000), gatewayOf("a2", "a", 0, 1000),
		gatewayOf("b1", "b", 0, 1000), gatewayOf("b2", "b", 0, 1000), gatewayOf("none", "", 0, 1000),
	}
	for i := range 100 {
		account := fmt.Sprintf("user%d", i)
		got := pick(list, MetaWS, "a", "app", account, 3)
		require.Len(t, got, 3)
		require.ElementsMatch(t, []string{"ws://a1", "ws://a2"}, got[:2])
		require.NotContains(t, got[:2], got[2])

		require.ElementsMatch(t, pick(list, MetaWS, "", "app", account, 9), pick(list, MetaWS, "nowhere", "app", account, 9))
	}
	list[0], list[1] = gatewayOf("a1", "a", 1000, 1000), gatewayOf("a2", "a", 1000, 1000)
	require.NotContains(t, pick(list, MetaWS, "a", "app", "user", 3), "ws://a1", "a full zone is no help")
}

func TestPickTransportAndDuplicates(t *testing.T) {
	wsOnly := newGateway(naming.Instance{ID: "w", Meta: map[string]string{MetaWS: "ws://balancer"}})
	twin := newGateway(naming.Instance{ID: "x", Meta: map[string]string{MetaWS: "ws://balancer", MetaTCP: "tcp://x"}})
	list := []gateway{wsOnly, twin}
	require.Equal(t, []string{"ws://balancer"}, pick(list, MetaWS, "", "app", "user", 3))
	require.Equal(t, []string{"tcp://x"}, pick(list, MetaTCP, "", "app", "user", 3))
	require.Empty(t, pick(nil, MetaWS, "", "app", "user", 3))
}

func BenchmarkPick(b *testing.B) {
	list := gateways(20)
	b.ReportAllocs()
	for b.Loop() {
		pick(list, MetaWS, "", "app", "user", 3)
	}
}
