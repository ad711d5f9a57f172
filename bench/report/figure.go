package report

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hermod-im/hermod/bench"
)

// figure is one thing that a run has measured. Targets and tables know it by its key.
type figure struct {
	key, name, unit string
	value           float64
}

// param is one thing that a run was asked for.
type param struct {
	name string
	// same is equal in runs that differ in other things only; axis is its place in a plot.
	same, axis float64
	text       string // in a description; may be empty
}

// facts are a run in the terms of a report.
type facts struct {
	load    string
	params  []param
	figures []figure
	cpu     bench.Cost // by process
	unit    string     // of what cpu is of
	refused bench.Refusals
	sent    int64 // of which those are
}

// factsOf reports false for a run without a result.
func factsOf(r *bench.Run) (facts, bool) {
	var f facts
	switch {
	case r.Talk != nil:
		f = talkFacts(r.Talk)
	case r.Group != nil:
		f = groupFacts(r.Group)
	case r.Connect != nil:
		f = connectFacts(r.Connect)
	case r.Sync != nil:
		f = syncFacts(r.Sync)
	default:
		return f, false
	}
	if len(f.cpu.ByProcess) > 0 {
		f.figures = append([]figure{{"cpu", "server CPU", "µs/" + f.unit, f.cpu.Total}}, f.figures...)
	}
	if r.Floor > 0 {
		f.figures = append(f.figures, figure{"floor", "the sockets alone", "µs/message", r.Floor})
	}
	if d := r.Database; d != nil {
		f.figures = append(f.figures, figure{"fsync", "log flushed every", "messages", d.MessagesPerFsync})
		if d.BytesPerMessage > 0 {
			f.figures = append(f.figures, figure{"stored", "stored", "bytes/message", d.BytesPerMessage})
		}
	}
	return f, true
}

func talkFacts(r *bench.TalkResult) facts {
	conversations := param{name: "conversations", same: float64(r.Conversations) / float64(r.Pairs), axis: float64(r.Conversations)}
	if r.Conversations > r.Pairs {
		conversations.text = plural(r.Conversations, "conversation")
	}
	f := facts{
		load: "talk", unit: "message", cpu: r.CPU, refused: r.Refused, sent: r.Sent,
		params:  append([]param{number("pairs", r.Pairs, plural(r.Pairs, "pair")), conversations}, pace(r.Window, r.DueRate, r.Size)...),
		figures: []figure{{"rate", "throughput", "messages/s", r.Rate}},
	}
	f.latency("ack", "send → ack", r.Ack)
	f.latency("deliver", "send → deliver", r.Deliver)
	return f
}

func groupFacts(r *bench.GroupResult) facts {
	members := plural(r.Members, "member")
	if r.Online < r.Members {
		members += ", " + thousands(float64(r.Online)) + " on line"
	}
	f := facts{
		load: "group", unit: "delivery", cpu: r.CPU, refused: r.Refused, sent: r.Sent,
		params: append([]param{
			number("members on line", r.Online, members),
			number("members off line", r.Members-r.Online, ""),
			number("senders", r.Senders, plural(r.Senders, "sender")),
		}, pace(r.Window, r.Rate, r.Size)...),
		figures: []figure{{"rate", "throughput", "deliveries/s", float64(r.Deliveries) / max(r.Seconds, 1e-3)}},
	}
	f.latency("ack", "send → ack", r.Ack)
	f.latency("deliver", "send → deliver", r.Deliver)
	return f
}

func connectFacts(r *bench.ConnectResult) facts {
	f := facts{
		load: "connect", unit: "login", cpu: r.LoginCPU,
		params:  []param{number("connections", r.Connections, plural(r.Connections, "connection")), underWay(r.Parallel)},
		figures: []figure{{"rate", "throughput", "logins/s", r.LoginRate}},
	}
	f.latency("login", "login", r.Login)
	if len(r.Memory.ByProcess) > 0 {
		f.figures = append(f.figures,
			figure{"memory", "memory", "bytes/connection", r.Memory.Total},
			figure{"memory_gateways", "of which gateways", "bytes/connection", gateways(r.Memory)},
			figure{"heartbeat", "heartbeat CPU", "µs/ping", r.HeartbeatCPU.Total})
	}
	f.figures = append(f.figures, figure{"own", "the load itself", "bytes/connection", r.OwnMemory})
	return f
}

// underWay is how many logins are under way at once. Runs of before it was told had the default.
func underWay(parallel int) param {
	if parallel == 0 || parallel == bench.DefaultParallel {
		return number("logins under way", bench.DefaultParallel, "")
	}
	return number("logins under way", parallel, plural(parallel, "login")+" under way")
}

// gateways is the part of the processes that hold the clients' connections.
func gateways(c bench.Cost) (sum float64) {
	for name, value := range c.ByProcess {
		if strings.HasPrefix(name, "gateway") || name == "standalone" {
			sum += value
		}
	}
	return sum
}

func syncFacts(r *bench.SyncResult) facts {
	f := facts{
		load: "sync", unit: "client", cpu: r.CPU,
		params: []param{
			number("clients", r.Clients, plural(r.Clients, "client")),
			number("unread messages", r.Unread, plural(r.Unread, "unread message")),
			number("conversations each", r.Peers, plural(r.Peers, "conversation")),
			size(r.Size),
		},
		figures: []figure{{"rate", "throughput", "messages/s", float64(r.Messages) / max(r.Seconds, 1e-3)}},
	}
	if len(r.CPUMessage.ByProcess) > 0 {
		f.figures = append(f.figures, figure{"cpu_message", "server CPU", "µs/message", r.CPUMessage.Total})
	}
	f.latency("complete", "login and sync", r.Complete)
	return f
}

func (f *facts) latency(key, name string, l bench.Latency) {
	f.figures = append(f.figures,
		figure{key + "_p50", name + " p50", "ms", l.P50},
		figure{key + "_p99", name + " p99", "ms", l.P99},
		figure{key + "_p999", name + " p999", "ms", l.P999})
}

// pace is how senders send and how much.
func pace(window int, rate float64, bytes int) []param {
	w, r := number("window", window, "window "+strconv.Itoa(window)), param{name: "messages/s", same: rate, axis: rate}
	if rate > 0 {
		w, r.text = number("window", 0, ""), thousands(rate)+" messages/s"
	}
	return []param{w, r, size(bytes)}
}

// usualSize is a body's size that goes without saying.
const usualSize = 64

func size(bytes int) param {
	p := number("bytes/body", bytes, "")
	if bytes != usualSize {
		p.text = thousands(float64(bytes)) + "-byte bodies"
	}
	return p
}

func number(name string, n int, text string) param {
	return param{name: name, same: float64(n), axis: float64(n), text: text}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(float64(n)) + " " + noun + "s"
}

// thousands writes a number as people read it: three digits at least, with commas.
func thousands(v float64) string {
	switch abs := max(v, -v); {
	case abs < 9.995:
		return strconv.FormatFloat(v, 'f', decimals(v, 2), 64)
	case abs < 99.95:
		return strconv.FormatFloat(v, 'f', decimals(v, 1), 64)
	}
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// decimals is how many a number needs, at most n.
func decimals(v float64, n int) int {
	if v == float64(int64(v)) {
		return 0
	}
	return n
}
