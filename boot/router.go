package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/hermod-im/hermod/admin"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/router"
)

// Router is a router node.
type Router struct{ *router.Router }

// NewRouter listens at once, so that a taken port is an error here.
func NewRouter(c config.Config, env *Env) (*Router, error) {
	zones, err := router.ParseZones(c.Router.Zones)
	if err != nil {
		return nil, fmt.Errorf("router.zones: %w", err)
	}
	trusted := make([]netip.Prefix, len(c.Router.TrustedProxies))
	for i, p := range c.Router.TrustedProxies {
		if trusted[i], err = netip.ParsePrefix(p); err != nil {
			return nil, fmt.Errorf("router.trusted_proxies: %w", err)
		}
	}
	r, err := router.New(router.Config{
		Listen:         c.Router.Listen,
		Secret:         []byte(c.Secret),
		Domains:        c.Router.Domains,
		Zones:          zones,
		TrustedProxies: trusted,
		ErrorLog:       admin.ErrorLog(env.Log.WithField("service", naming.ServiceRouter)),
	}, env.Naming, env.Metrics)
	if err != nil {
		return nil, err
	}
	return &Router{r}, nil
}

// Ready implements Service.
func (r *Router) Ready() error { return r.Router.Ready(context.Background()) }

// Close releases the address of a router that was never run.
func (r *Router) Close() error {
	if err := r.Router.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// URL is where the router is reached from this host.
func (r *Router) URL() string { return "http://" + r.Addr().String() }
