package logic

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
)

// metrics are a logic node's counters.
type metrics struct {
	requests  *prometheus.CounterVec
	answers   *prometheus.CounterVec
	success   prometheus.Counter // of answers; looked up once
	commits   *prometheus.CounterVec
	stored    prometheus.Counter
	batch     prometheus.Histogram
	commit    prometheus.Histogram
	pushed    prometheus.Counter
	unpushed  *prometheus.CounterVec
	logins    *prometheus.CounterVec
	displaced *prometheus.CounterVec
	limited   prometheus.Counter // by account_rate
	bulk      prometheus.Counter // limited by maxBulk
	crowded   prometheus.Counter // limited by queue_bytes
	recalled  prometheus.Counter // of locations
	asked     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "hermod", Subsystem: "logic", Name: name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(opts("requests_total", "Requests received, by command."), []string{"command"}),
		answers:  prometheus.NewCounterVec(opts("answers_total", "Requests answered, by status."), []string{"status"}),
		commits:  prometheus.NewCounterVec(opts("commits_total", "Group commits of messages, by outcome: ok, failed."), []string{"outcome"}),
		stored:   prometheus.NewCounter(opts("stored_total", "Messages that were part of a successful commit.")),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "hermod", Subsystem: "logic", Name: "commit_messages",
			Help: "Messages in one group commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "hermod", Subsystem: "logic", Name: "commit_seconds",
			Help: "Duration of one group commit.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		pushed:   prometheus.NewCounter(opts("pushed_total", "Channels that a push was queued for, on the link to their gateway.")),
		unpushed: prometheus.NewCounterVec(opts("unpushed_total", "Channels that a push could not be queued for, by reason: not_linked, queue_full, session_store."), []string{"reason"}),
	}
	m.logins = prometheus.NewCounterVec(opts("logins_total", "Logins by outcome: admitted, conflict (refused by the device policy), superseded (a newer login of the same client is there), failed."), []string{"outcome"})
	m.displaced = prometheus.NewCounterVec(opts("displaced_total", "Sessions that gave way to a newer one, by reason: device, reconnected, platform, limit."), []string{"reason"})
	limited := prometheus.NewCounterVec(opts("limited_total", "Requests that were refused by a limit: account_rate, queue_bytes (of links: too much waits for an answer of many messages), bulk (one connection asks for too many of those at once)."), []string{"limit"})
	locations := prometheus.NewCounterVec(opts("locations_total", "Accounts whose sessions were looked up for a push, by source: store, memory (the store's answer, unchanged since)."), []string{"source"})
	m.recalled, m.asked = locations.WithLabelValues("memory"), locations.WithLabelValues("store")
	m.limited, m.crowded, m.bulk = limited.WithLabelValues("account_rate"), limited.WithLabelValues("queue_bytes"), limited.WithLabelValues("bulk")
	r.MustRegister(locations, limited, m.logins, m.displaced, m.requests, m.answers, m.commits, m.stored, m.batch, m.commit, m.pushed, m.unpushed)
	m.success = m.answers.WithLabelValues("0")
	return m
}

// measure is the middleware that counts requests. The router wraps the handler of each row by itself, so that
// a row's counter is looked up once.
func (m *metrics) measure(next Handler) Handler {
	var once sync.Once
	var requests prometheus.Counter
	return func(c *Context) error {
		once.Do(func() { requests = m.requests.WithLabelValues(string(c.Packet.Command)) })
		requests.Inc()
		return next(c)
	}
}

func (m *metrics) answered(s wire.Status) {
	if s == wire.StatusSuccess {
		m.success.Inc()
		return
	}
	m.answers.WithLabelValues(strconv.Itoa(int(s))).Inc()
}

func (m *metrics) located(recalled, asked int) {
	m.recalled.Add(float64(recalled))
	m.asked.Add(float64(asked))
}

// loggedIn counts a login by what the session store said.
func (m *metrics) loggedIn(err error) {
	var conflict *storage.ConflictError
	outcome := "failed"
	switch {
	case err == nil:
		outcome = "admitted"
	case errors.As(err, &conflict):
		outcome = "conflict"
	case errors.Is(err, storage.ErrSuperseded):
		outcome = "superseded"
	}
	m.logins.WithLabelValues(outcome).Inc()
}

func (m *metrics) committed(messages int, took time.Duration, err error) {
	m.commit.Observe(took.Seconds())
	m.batch.Observe(float64(messages))
	if err != nil {
		m.commits.WithLabelValues("failed").Inc()
		return
	}
	m.commits.WithLabelValues("ok").Inc()
	m.stored.Add(float64(messages))
}
