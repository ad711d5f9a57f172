package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hermod-im/hermod/admin"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/wire/token"
)

// Standalone is a whole system in one process: a gateway, a logic node and a router that find each
// other in a registry in memory, and talk over links as in a cluster.
type Standalone struct {
	Gateway *Gateway
	Logic   *Logic
	Router  *Router
}

// The files of standalone's data folder.
const (
	databaseFile = "hermod.db"
	secretFile   = "secret"
)

// StandaloneConfig is standalone's default with its files in a data folder, which is made if missing.
func StandaloneConfig(data string) (config.Config, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return config.Config{}, fmt.Errorf("data folder: %w", err)
	}
	return config.Standalone(filepath.Join(data, databaseFile)), nil
}

// SecretFile is where standalone keeps the signing secret it has made.
func SecretFile(data string) string { return filepath.Join(data, secretFile) }

// StandaloneSecret is the secret in a data folder, made at the first call.
func StandaloneSecret(data string) (string, error) {
	return token.LoadOrCreateSecret(SecretFile(data))
}

// NewStandalone builds the three nodes of one process. env.Naming must be nil: the registry is its own,
// and a configuration that names another one is refused.
func NewStandalone(ctx context.Context, c config.Config, env *Env) (_ *Standalone, err error) {
	if c.Registry.Driver != config.DriverMemory {
		return nil, fmt.Errorf("registry.driver: %s is for a cluster: run 'hermod gateway', 'hermod logic' and 'hermod router', or use memory", c.Registry.Driver)
	}
	registry := memory.NewRegistry()
	node := *env
	s := &Standalone{}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	node.Naming = registry.Client()
	if s.Logic, err = NewLogic(ctx, c, &node); err != nil {
		return nil, err
	}
	node.Naming = registry.Client()
	if s.Gateway, err = NewGateway(c, &node); err != nil {
		return nil, err
	}
	node.Naming = registry.Client()
	if s.Router, err = NewRouter(c, &node); err != nil {
		return nil, err
	}
	return s, nil
}

// Run serves until ctx ends, then stops the clients' side first. A part that fails stops the others.
func (s *Standalone) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	outer, stopOuter := context.WithCancel(ctx)
	defer stopOuter()

	logicDone := run(inner, s.Logic, stopOuter)
	gatewayDone := run(outer, s.Gateway, stopOuter)
	routerDone := run(outer, s.Router, stopOuter)
	err := errors.Join(<-gatewayDone, <-routerDone)
	stop()
	return errors.Join(err, <-logicDone)
}

// run runs a service on a goroutine of its own; ended is called when it has.
func run(ctx context.Context, s Service, ended func()) <-chan error {
	done := make(chan error, 1)
	go func() {
		defer ended()
		done <- s.Run(ctx)
	}()
	return done
}

// Ready implements Service.
func (s *Standalone) Ready() error {
	return errors.Join(s.Logic.Ready(), s.Gateway.Ready(), s.Router.Ready())
}

// Checks are those of the parts, for /readyz.
func (s *Standalone) Checks() []admin.Check { return s.Logic.Checks() }

// Close releases what the parts hold.
func (s *Standalone) Close() error {
	var errs []error
	if s.Router != nil {
		errs = append(errs, s.Router.Close())
	}
	if s.Gateway != nil {
		errs = append(errs, s.Gateway.Close())
	}
	if s.Logic != nil {
		errs = append(errs, s.Logic.Close())
	}
	return errors.Join(errs...)
}
