package main

import (
	"strings"

	"github.com/hermod-im/hermod/bench"
)

// row is one configuration that is run some times.
type row struct {
	// name is in the file of its runs, and what -run matches.
	name string
	site siteSpec
	load string // arguments of hermod bench
	// fresh: every run gets servers that have done nothing before, because their memory is measured.
	fresh bool
	// once: one run has to do, because it takes long.
	once bool
	// growth rows are there for the plots and run for a shorter time.
	growth  bool
	targets []bench.Target
}

// siteSpec is which servers a row needs. Rows that follow each other share them.
type siteSpec struct {
	name     string // in tables
	gateways int    // 0: a standalone
	logics   int
	set      string // config keys, separated by spaces
}

// noLimits is for all: what is measured is not how requests are refused.
const noLimits = "limits.enabled=false"

// gatewayRoom is how many connections are given to one gateway, of the 20,000 descriptors that it may have.
const gatewayRoom = 19_000

// The sites.
func twoByTwo() siteSpec { return siteSpec{"cluster", 2, 2, noLimits} }

func oneByOne() siteSpec   { return siteSpec{"cluster of 1 gateway and 1 logic node", 1, 1, noLimits} }
func oneProcess() siteSpec { return siteSpec{"standalone", 0, 0, noLimits} }

// largePackets is a cluster that takes the creation of a group of 100,000 in one packet.
func largePackets() siteSpec {
	s := twoByTwo()
	s.set += " gateway.max_packet=2MiB gateway.queue_bytes=2MiB"
	return s
}

// gatewaysFor is a cluster for idle connections.
func gatewaysFor(connections int) siteSpec {
	return siteSpec{"cluster, a gateway per 19,000", (connections + gatewayRoom - 1) / gatewayRoom, 2, noLimits}
}

func atMost(figure string, limit, stretch float64) bench.Target {
	return bench.Target{Figure: figure, Limit: limit, Stretch: stretch}
}

func atLeast(figure string, limit, stretch float64) bench.Target {
	return bench.Target{Figure: figure, Limit: limit, Stretch: stretch, AtLeast: true}
}

// rows are all, those of one site together.
func rows() []row {
	return []row{
		{
			name: "talk-window-1", site: twoByTwo(), load: "talk --pairs 100 --window 1",
			targets: []bench.Target{atMost("cpu", 60, 30), atMost("ack_p50", 5, 0), atMost("ack_p99", 15, 0)},
		},
		{
			name: "talk-window-16", site: twoByTwo(), load: "talk --pairs 100 --window 16",
			targets: []bench.Target{atMost("cpu", 35, 20), atLeast("rate", 25_000, 40_000), atMost("stored", 250, 180), atLeast("fsync", 50, 0)},
		},
		{
			name: "talk-1-1-window-1", site: oneByOne(), load: "talk --pairs 100 --window 1",
			targets: []bench.Target{atMost("cpu", 60, 30), atMost("ack_p50", 5, 0), atMost("ack_p99", 15, 0)},
		},
		{name: "talk-1-1-window-16", site: oneByOne(), load: "talk --pairs 100 --window 16", targets: []bench.Target{atMost("cpu", 35, 20), atLeast("rate", 25_000, 40_000)}},
		{name: "talk-1-1-1000-pairs", site: oneByOne(), load: "talk --pairs 1000 --window 1", targets: []bench.Target{atMost("cpu", 70, 40)}},
		{name: "talk-1-1-5000-conversations", site: oneByOne(), load: "talk --pairs 100 --conversations 5000 --window 1", targets: []bench.Target{atMost("cpu", 70, 40)}},
		{
			name: "connect-1-1-storm", site: oneByOne(), load: "connect --connections 15000 --parallel 1024", fresh: true,
			targets: []bench.Target{atMost("cpu", 200, 110)},
		},
		{name: "talk-1000-pairs", site: twoByTwo(), load: "talk --pairs 1000 --window 1", targets: []bench.Target{atMost("cpu", 70, 40)}},
		{name: "talk-5000-conversations", site: twoByTwo(), load: "talk --pairs 100 --conversations 5000 --window 1", targets: []bench.Target{atMost("cpu", 70, 40)}},
		{name: "group-500-window-1", site: twoByTwo(), load: "group --members 500 --online 500 --senders 4 --window 1", targets: []bench.Target{atMost("cpu", 5, 4)}},
		{name: "group-500-window-16", site: twoByTwo(), load: "group --members 500 --online 500 --senders 4 --window 16", targets: []bench.Target{atMost("cpu", 1.2, 0.8)}},
		{name: "group-5000", site: twoByTwo(), load: "group --members 5000 --online 5000 --senders 4 --window 1", targets: []bench.Target{atMost("cpu", 10, 8)}},
		{name: "sync", site: twoByTwo(), load: "sync --clients 1000 --unread 100 --peers 10"},

		{name: "talk-10-pairs", site: twoByTwo(), load: "talk --pairs 10 --window 1", growth: true},
		{name: "talk-5000-pairs", site: twoByTwo(), load: "talk --pairs 5000 --window 1", growth: true},
		{name: "talk-1000-conversations", site: twoByTwo(), load: "talk --pairs 100 --conversations 1000 --window 1", growth: true},
		{name: "talk-1KiB", site: twoByTwo(), load: "talk --pairs 100 --window 16 --size 1024", growth: true},
		{name: "talk-16KiB", site: twoByTwo(), load: "talk --pairs 100 --window 16 --size 16384", growth: true},
		{name: "group-10", site: twoByTwo(), load: "group --members 10 --online 10 --senders 4 --window 1", growth: true},
		{name: "group-100", site: twoByTwo(), load: "group --members 100 --online 100 --senders 4 --window 1", growth: true},

		{
			name: "group-100000", site: largePackets(), load: "group --members 100000 --online 15000 --senders 4 --window 1",
			targets: []bench.Target{atMost("cpu", 10, 8)},
		},
		{name: "group-15000", site: largePackets(), load: "group --members 15000 --online 15000 --senders 4 --window 1", growth: true},

		{name: "standalone-window-1", site: oneProcess(), load: "talk --pairs 100 --window 1", targets: []bench.Target{atMost("cpu", 40, 25)}},
		{name: "standalone-window-16", site: oneProcess(), load: "talk --pairs 100 --window 16", targets: []bench.Target{atMost("cpu", 20, 12)}},
		{
			name: "standalone-connect", site: oneProcess(), load: "connect --connections 15000", fresh: true,
			targets: []bench.Target{atMost("memory", 1500, 800), atMost("cpu", 200, 110)},
		},
		{
			name: "connect-15000", site: gatewaysFor(15_000), load: "connect --connections 15000", fresh: true,
			targets: []bench.Target{atMost("memory_gateways", 1500, 800), atMost("cpu", 200, 110)},
		},
		{name: "connect-1000", site: gatewaysFor(1000), load: "connect --connections 1000", fresh: true, growth: true},
		{name: "connect-5000", site: gatewaysFor(5000), load: "connect --connections 5000", fresh: true, growth: true},
		{name: "connect-57000", site: gatewaysFor(57_000), load: "connect --connections 57000", fresh: true, growth: true, once: true},
	}
}

// durations are what a load is told about time.
func (r row) durations(quick bool) []string {
	var long, short string
	switch {
	case quick:
		long, short = "2s", "1s"
	case r.growth:
		long, short = "3s", "1s"
	default:
		long, short = "5s", "2s"
	}
	switch load, _, _ := strings.Cut(r.load, " "); load {
	case "connect":
		hold := "15s" // a server that has become calm gives back what the logins took
		if quick {
			hold = short
		}
		return []string{"--hold", hold, "--heartbeat", "10s"}
	case "sync":
		return nil
	default:
		return []string{"--duration", long, "--warmup", short}
	}
}
