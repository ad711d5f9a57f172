// Package boot composes the services from a configuration: the one place that knows every
// constructor. The mains, standalone and the tests across services all build their nodes here.
package boot

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/admin"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/consul"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/transport"
)

// Env is what a node gets from the process around it.
type Env struct {
	// Log is the process's logger.
	Log *logrus.Logger
	// Naming is the registry. Open closes none that it was given.
	Naming naming.Naming
	// Sessions is the session store that several logic nodes of one process share. May be nil: each
	// opens the one that its configuration names. A node closes none that it was given.
	Sessions storage.Sessions
	// Metrics is where the node registers its metrics: one registry per node.
	Metrics *prometheus.Registry
	// Now is the wall clock of what logic nodes store: ids, times of sending, of login, of creation. May be
	// nil: time.Now. Leases and timeouts follow the monotonic clock.
	Now func() time.Time
	// LocationAge is logic.Config.LocationAge. Tests that lose pushes in the session store have it negative.
	LocationAge time.Duration
	// Version is shown by the admin port.
	Version string
}

// NewEnv makes the environment that the configuration asks for: its logger, its registry client,
// and metrics of the process. Close releases it.
func NewEnv(c config.Config, version string) (*Env, error) {
	log, err := admin.NewLogger(c.Log.Level, c.Log.Format, os.Stderr)
	if err != nil {
		return nil, err
	}
	env := &Env{Log: log, Metrics: admin.NewRegistry(version), Version: version}
	if c.ShortSecret() && c.Secret != "" {
		log.Warn("secret: shorter than 32 bytes; make one with 'openssl rand -base64 32'")
	}
	if c.Registry.Driver != config.DriverConsul {
		return nil, fmt.Errorf("registry.driver: %s is for services within one process: run 'hermod standalone', or use consul", c.Registry.Driver)
	}
	env.Naming, err = consul.New(consul.Options{
		Address: c.Registry.Consul.Address,
		Token:   c.Registry.Consul.Token,
		Prefix:  c.Registry.Consul.Prefix,
		TTL:     c.Registry.Consul.TTL,
		Logger:  log.WithField("part", "registry"),
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return env, nil
}

// Close releases the registry client.
func (e *Env) Close() error { return e.Naming.Close() }

// Service is a node that can be run.
type Service interface {
	// Run serves until ctx ends, then stops gracefully and returns nil; or the error that ended it.
	Run(ctx context.Context) error
	// Ready is nil when the node takes traffic, or says why not.
	Ready() error
	// Close releases what the node holds, after Run or instead of it.
	Close() error
}

// NewAdmin makes a service's admin port; nil if it is off. checks are further conditions of /readyz.
func NewAdmin(c config.Config, env *Env, s Service, checks ...admin.Check) (*admin.Server, error) {
	if c.Admin.Listen == "" {
		return nil, nil
	}
	checks = append(checks, admin.Check{Name: "service", Ready: func(context.Context) error { return s.Ready() }})
	return admin.New(admin.Options{
		Listen:   c.Admin.Listen,
		Registry: env.Metrics,
		Checks:   checks,
		Version:  env.Version,
		ErrorLog: admin.ErrorLog(env.Log),
	})
}

// Serve runs a service with its admin port until ctx ends, and closes it. checks are further
// conditions of /readyz.
func Serve(ctx context.Context, c config.Config, env *Env, s Service, checks ...admin.Check) error {
	port, err := NewAdmin(c, env, s, checks...)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if port != nil {
		env.Log.WithField("address", port.Addr().String()).Info("admin port")
	}
	return ServeWith(ctx, s, port)
}

// ServeWith runs a service until ctx ends, and closes it; the admin port, which may be nil, is
// served for as long as that.
func ServeWith(ctx context.Context, s Service, port *admin.Server) error {
	ended := make(chan error, 1)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var trimming sync.WaitGroup
	trimming.Go(func() { trim(serving) })
	if port == nil {
		ended <- nil
	} else {
		go func() { ended <- port.Run(serving) }()
	}
	err := s.Run(ctx)
	stop()
	trimming.Wait()
	return errors.Join(err, <-ended, s.Close())
}

// AwaitReady returns when the service takes traffic, or with the last reason why not when ctx ends.
func AwaitReady(ctx context.Context, s Service) error {
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		reason := s.Ready()
		if reason == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", reason)
		}
	}
}

// closeServer frees what a server holds that has not run, or has been shut down.
func closeServer(s *transport.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.Shutdown(ctx)
}

// instance is the registration of a node of this process: a new one for every run.
func instance(c config.Config, service string) naming.Instance {
	name := c.Node.Name
	if name == "" {
		name, _ = os.Hostname() // empty is taken as unnamed below
	}
	if name == "" {
		name = service
	}
	return naming.Instance{
		ID:      fmt.Sprintf("%s-%s-%s", service, name, runID()),
		Service: service,
		Node:    name,
		Zone:    c.Node.Zone,
		State:   naming.StateJoining,
		Meta:    map[string]string{},
	}
}

// runID tells the runs of a node apart, and with them all ids that are made of it (flaw 22): 40 random bits.
func runID() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// advertised is how others reach a listener: its port at the host it listens on, or at the node's
// address if it listens on all.
func advertised(c config.Config, listening net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listening.String(), nil
	}
	if host = c.Node.Address; host == "" {
		if host, err = hostAddress(); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

// hostAddress is the first address of the host that is not loopback; loopback if there is no other.
func hostAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("node.address is not set and the host's cannot be found: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}
