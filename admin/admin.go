// Package admin is the operators' side of a process: an HTTP port with /healthz (alive), /readyz
// (would take traffic, or why not), /metrics (Prometheus) and /debug/pprof, and the logger.
// The port has no authentication; it belongs on loopback or a private network.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DefaultListen is the address when none is given: loopback, any free port.
const DefaultListen = "127.0.0.1:0"

// Time limits of the HTTP server.
const (
	// headerWait bounds reading a request's header.
	headerWait = 5 * time.Second
	// writeWait bounds an answer; a CPU profile of up to this length can be taken.
	writeWait = 2 * time.Minute
	// idleWait is how long a connection may wait for its next request.
	idleWait = 2 * time.Minute
	// checkWait bounds all checks of one /readyz together.
	checkWait = 2 * time.Second
	// stopWait is how long requests may take to end when Run is to return.
	stopWait = time.Second
	// maxHeader bounds a request's header, in bytes.
	maxHeader = 16 << 10
)

// Options say what a Server serves.
type Options struct {
	// Listen is the address. Defaults to DefaultListen.
	Listen string
	// Registry is what /metrics shows. May be nil: /metrics is then not found.
	Registry *prometheus.Registry
	// Checks decide about /readyz: 200 when all pass. None: always ready.
	Checks []Check
	// Version is shown by /healthz and /readyz. May be empty.
	Version string
	// ErrorLog gets what goes wrong in the HTTP server. May be nil: nothing is logged.
	ErrorLog *log.Logger
}

// Check is one condition of readiness.
type Check struct {
	// Name is what the reason is listed under, unique among the checks.
	Name string
	// Ready returns nil, or why the process should get no traffic now, in words fit for operators.
	// It is called concurrently and returns when ctx ends.
	Ready func(ctx context.Context) error
}

// Server is the operators' HTTP port.
type Server struct {
	options  Options
	listener net.Listener
	http     *http.Server
}

// New listens at once, so that Addr is known and a taken port is an error here; Run serves.
func New(o Options) (*Server, error) {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.ErrorLog == nil {
		o.ErrorLog = log.New(io.Discard, "", 0)
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for admin: %w", err)
	}
	s := &Server{options: o, listener: l}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       headerWait,
		WriteTimeout:      writeWait,
		IdleTimeout:       idleWait,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          o.ErrorLog,
	}
	return s, nil
}

// Addr is the address listened on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, then lets requests finish for a moment. It returns nil after ctx
// ended, or the error that stopped it. It is called once.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve admin: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	if err := s.http.Shutdown(stop); err != nil {
		s.http.Close() //nolint:errcheck // a profile still being taken is cut off
	}
	<-served
	return nil
}

// Close releases the address of a Server whose Run is not called.
func (s *Server) Close() error { return s.listener.Close() }

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if r := s.options.Registry; r != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: s.options.ErrorLog}))
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Status is the JSON of /healthz and /readyz.
type Status struct {
	// Status is "alive", "ready" or "not ready".
	Status string `json:"status"`
	// Version is that of Options.
	Version string `json:"version,omitempty"`
	// Reasons says for each check that fails why.
	Reasons map[string]string `json:"reasons,omitempty"`
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, Status{Status: "alive", Version: s.options.Version})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkWait)
	defer cancel()
	reasons := s.failing(ctx)
	if len(reasons) > 0 {
		answer(w, http.StatusServiceUnavailable, Status{"not ready", s.options.Version, reasons})
		return
	}
	answer(w, http.StatusOK, Status{Status: "ready", Version: s.options.Version})
}

// failing runs all checks at once and returns the reasons of those that fail.
func (s *Server) failing(ctx context.Context) map[string]string {
	errs := make([]chan error, len(s.options.Checks))
	for i, c := range s.options.Checks {
		errs[i] = make(chan error, 1)
		go func() { errs[i] <- c.Ready(ctx) }()
	}
	reasons := map[string]string{}
	for i, c := range s.options.Checks {
		if err := <-errs[i]; errors.Is(err, context.DeadlineExceeded) {
			reasons[c.Name] = "no answer within " + checkWait.String()
		} else if err != nil {
			reasons[c.Name] = err.Error()
		}
	}
	return reasons
}

func answer(w http.ResponseWriter, code int, s Status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(s) //nolint:errcheck // the caller has gone
}
