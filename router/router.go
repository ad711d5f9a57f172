// Package router tells clients over HTTP which gateways to connect to: those that are ready, in the
// caller's zone first, the same ones for the same account as long as they are there.
package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hermod-im/hermod/naming"
)

// Defaults of Config.
const (
	// DefaultListen is the address when none is given: loopback, any free port.
	DefaultListen = "127.0.0.1:0"
	// DefaultDomains is how many gateways a lookup returns: one to use and two to fall back to.
	DefaultDomains = 3
)

// Limits of the HTTP server. Requests are one line and have no body.
const (
	// readWait bounds reading a request.
	readWait = 5 * time.Second
	// writeWait bounds an answer.
	writeWait = 10 * time.Second
	// idleWait is how long a connection may wait for its next request.
	idleWait = time.Minute
	// stopWait is how long requests may take to end when Run is to return.
	stopWait = 5 * time.Second
	// maxHeader bounds a request's header, in bytes; a token in the path has up to 4 KiB.
	maxHeader = 16 << 10
)

// Config is what a Router needs to know.
type Config struct {
	// Listen is the address of the HTTP server. Defaults to DefaultListen.
	Listen string
	// Secret verifies the clients' tokens. Required.
	Secret []byte
	// Domains is the largest number of gateways in one answer. Defaults to DefaultDomains.
	Domains int
	// Zones says which network is in which zone; the longest prefix wins. May be empty.
	Zones []Zone
	// TrustedProxies are those whose X-Forwarded-For is believed. Empty: nobody's.
	TrustedProxies []netip.Prefix
	// ErrorLog gets what goes wrong in the HTTP server. May be nil: nothing is logged.
	// There is no access log: its lines would hold tokens.
	ErrorLog *log.Logger
}

// Router is the HTTP service. Make it with New.
type Router struct {
	// Static after construction.
	config   Config
	names    naming.Naming
	zones    zoneTable
	trusted  []netip.Prefix
	metrics  *metrics
	listener net.Listener

	// gateways is the last list of the registry, replaced as a whole; nil until the first one.
	gateways atomic.Pointer[[]gateway]
}

// New listens at once, so that Addr is known and a taken port is an error here; Run serves.
// The metrics are registered with reg, which may be nil.
func New(c Config, names naming.Naming, reg prometheus.Registerer) (*Router, error) {
	if len(c.Secret) == 0 {
		return nil, errors.New("router: Config.Secret is empty")
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Domains <= 0 {
		c.Domains = DefaultDomains
	}
	if c.ErrorLog == nil {
		c.ErrorLog = log.New(io.Discard, "", 0)
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for router: %w", err)
	}
	r := &Router{config: c, names: names, zones: newZoneTable(c.Zones), metrics: m, listener: l}
	for _, p := range c.TrustedProxies {
		r.trusted = append(r.trusted, plain(p))
	}
	return r, nil
}

// Addr is the address listened on.
func (r *Router) Addr() net.Addr { return r.listener.Addr() }

// Close releases the address of a Router whose Run is not called.
func (r *Router) Close() error { return r.listener.Close() }

// Run follows the registry and serves until ctx ends, then lets requests finish. It returns nil
// after ctx ended, or the error that stopped it. It is called once.
func (r *Router) Run(ctx context.Context) error {
	sub, err := r.names.Subscribe(naming.ServiceGateway, r.update)
	if err != nil {
		r.listener.Close() //nolint:errcheck // nothing was served
		return fmt.Errorf("subscribe to gateways: %w", err)
	}
	defer r.names.Unsubscribe(sub)

	server := &http.Server{
		Handler:        r.Handler(),
		ReadTimeout:    readWait,
		WriteTimeout:   writeWait,
		IdleTimeout:    idleWait,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       r.config.ErrorLog,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(r.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve router: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close() //nolint:errcheck // the slowest requests are cut off
	}
	<-served
	return nil
}

// Ready is nil when a lookup would be answered, for /readyz.
func (r *Router) Ready(context.Context) error {
	switch list := r.gateways.Load(); {
	case list == nil:
		return errors.New("the registry has not answered yet")
	case len(*list) == 0:
		return errors.New("no gateway is ready")
	default:
		return nil
	}
}

// update takes the registry's new list. The registry being down brings none, so the last one stays.
func (r *Router) update(list []naming.Instance) {
	ready := make([]gateway, 0, len(list))
	for _, i := range naming.Ready(list) {
		ready = append(ready, newGateway(i))
	}
	r.gateways.Store(&ready)
	r.metrics.gateways.Set(float64(len(ready)))
}
