package router

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// The results of a lookup, as metrics count them.
const (
	resultOK         = "ok"
	resultInvalid    = "token_invalid"
	resultExpired    = "token_expired"
	resultBadRequest = "bad_request"
	resultNoGateway  = "no_gateway"
)

type metrics struct {
	lookups  *prometheus.CounterVec
	gateways prometheus.Gauge
}

// newMetrics registers the router's metrics; reg may be nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hermod_router_lookups_total",
			Help: "Lookups answered, by result: ok, token_invalid, token_expired, bad_request or no_gateway.",
		}, []string{"result"}),
		gateways: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hermod_router_gateways",
			Help: "Gateways that are ready, in the last list of the registry.",
		}),
	}
	for _, result := range []string{resultOK, resultInvalid, resultExpired, resultBadRequest, resultNoGateway} {
		m.lookups.WithLabelValues(result) // shown from the start, as zero
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.lookups, m.gateways} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the router's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) count(result string) { m.lookups.WithLabelValues(result).Inc() }
