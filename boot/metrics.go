package boot

import (
	"github.com/prometheus/client_golang/prometheus"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// transportCollector shows a server's transport counters to Prometheus.
type transportCollector struct {
	metrics *transport.Metrics

	accepted, refused, closed, open *prometheus.Desc
	bytes, frames, queueFull        *prometheus.Desc
	panics, handshaking             *prometheus.Desc
}

func newTransportCollector(service string, m *transport.Metrics) *transportCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("hermod", service, name), help, labels, nil)
	}
	return &transportCollector{
		metrics:     m,
		accepted:    desc("connections_accepted_total", "Connections that became a channel."),
		refused:     desc("connections_refused_total", "Connections that never became a channel, by reason: busy, tls, upgrade, login, stopping.", "reason"),
		closed:      desc("connections_closed_total", "Channels that ended, by reason (docs/protocol.md, close codes).", "reason"),
		open:        desc("connections", "Channels that are open."),
		bytes:       desc("bytes_total", "Bytes of frames, by direction: in, out.", "direction"),
		frames:      desc("frames_total", "Frames, by direction: in, out.", "direction"),
		queueFull:   desc("queue_full_total", "Frames that found their channel's queue full."),
		panics:      desc("panics_total", "Panics of listeners; each closed its channel."),
		handshaking: desc("connections_handshaking", "Connections that are not accepted yet."),
	}
}

// Describe implements prometheus.Collector.
func (c *transportCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.accepted, c.refused, c.closed, c.open, c.bytes, c.frames, c.queueFull, c.panics, c.handshaking} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *transportCollector) Collect(ch chan<- prometheus.Metric) {
	m := c.metrics
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	var ended uint64
	for i := range m.Closed {
		n := m.Closed[i].Load()
		ended += n
		if r := im.Reason(i); r != im.ReasonNone {
			counter(c.closed, n, r.String())
		}
	}
	accepted := m.Accepted.Load() // after Closed, so that open is never negative
	counter(c.accepted, accepted)
	ch <- prometheus.MustNewConstMetric(c.open, prometheus.GaugeValue, float64(accepted-ended))
	for i := range m.Refused {
		counter(c.refused, m.Refused[i].Load(), transport.Refusal(i).String())
	}
	counter(c.bytes, m.BytesIn.Load(), "in")
	counter(c.bytes, m.BytesOut.Load(), "out")
	counter(c.frames, m.FramesIn.Load(), "in")
	counter(c.frames, m.FramesOut.Load(), "out")
	counter(c.queueFull, m.QueueFull.Load())
	counter(c.panics, m.Panics.Load())
	ch <- prometheus.MustNewConstMetric(c.handshaking, prometheus.GaugeValue, float64(m.Handshaking.Load()))
}
