package logic

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hermod-im/hermod/wire"
)

// metrics are a logic node's counters.
type metrics struct {
	requests *prometheus.CounterVec
	answers  *prometheus.CounterVec
	success  prometheus.Counter // of answers; looked up once
	commits  *prometheus.CounterVec
	stored   prometheus.Counter
	batch    prometheus.Histogram
	commit   prometheus.Histogram
	pushed   prometheus.Counter
	unpushed *prometheus.CounterVec
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
	r.MustRegister(m.requests, m.answers, m.commits, m.stored, m.batch, m.commit, m.pushed, m.unpushed)
	m.success = m.answers.WithLabelValues("0")
	return m
}

// measure is the middleware that counts requests.
func (m *metrics) measure(next Handler) Handler {
	return func(c *Context) error {
		m.requests.WithLabelValues(string(c.Packet.Command)).Inc()
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
