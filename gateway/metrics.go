package gateway

import "github.com/prometheus/client_golang/prometheus"

// metrics are a gateway's counters; the transport's are registered beside them.
type metrics struct {
	logins      *prometheus.CounterVec
	forwarded   prometheus.Counter
	unforwarded prometheus.Counter
	limited     *prometheus.CounterVec
	delivered   prometheus.Counter
	undelivered *prometheus.CounterVec
	hinted      map[hintCause]prometheus.Counter
	goaways     prometheus.Counter
	drained     struct{ moved, closed prometheus.Counter }
	unended     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "hermod", Subsystem: "gateway", Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "hermod", Subsystem: "gateway", Name: name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	m := &metrics{
		logins:      vec("logins_total", "Logins by outcome: accepted, refused by the gateway, failed in logic.", "outcome"),
		forwarded:   counter("forwarded_total", "Requests of clients that were queued to a logic node."),
		unforwarded: counter("unforwarded_total", "Requests of clients that were answered with status 300 because no link took them."),
		limited:     vec("limited_total", "Requests and logins that were refused by a limit, by its key in the configuration: connection_rate, account_rate (of logins), login_rate, max_connections.", "limit"),
		delivered:   counter("delivered_total", "Packets of logic nodes that were queued to a client."),
		undelivered: vec("undelivered_total", "Packets of logic nodes that reached no client, by reason: gone, closed, queue_full.", "reason"),
		goaways:     counter("goaways_total", "Clients that were asked to move because the gateway stops."),
		unended:     counter("sessions_unended_total", "Sessions of closed connections that were left in the store because it was down for too long."),
	}
	hinted := vec("hinted_total", "Clients that were told to sync because a push may have been lost, by cause: link_down, link_gone, link_up, unlinked, store, logic.", "cause")
	m.hinted = map[hintCause]prometheus.Counter{}
	for _, c := range []hintCause{causeLinkDown, causeLinkGone, causeLinkUp, causeUnlinked, causeStore, causeLogic} {
		m.hinted[c] = hinted.WithLabelValues(string(c))
	}
	drained := vec("drained_total", "Clients of a stopping gateway by how they went: moved by themselves, closed by it.", "how")
	m.drained.moved, m.drained.closed = drained.WithLabelValues("moved"), drained.WithLabelValues("closed")
	return m
}
