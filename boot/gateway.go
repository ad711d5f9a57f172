package boot

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/gateway"
	"github.com/hermod-im/hermod/limit"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

// Gateway is a gateway node and where clients reach it.
type Gateway struct {
	*gateway.Gateway
	// WS and TCP are the URLs as advertised; empty where the transport is off.
	WS, TCP string

	server *transport.Server
}

// NewGateway listens at once, so that a taken port is an error here.
func NewGateway(c config.Config, env *Env) (*Gateway, error) {
	endpoints, err := clientEndpoints(c.Gateway)
	if err != nil {
		return nil, err
	}
	metrics := new(transport.Metrics)
	env.Metrics.MustRegister(newTransportCollector("gateway", metrics))
	log := env.Log.WithField("service", naming.ServiceGateway)
	channels := transport.NewChannelMap()
	batch := new(transport.Batch) // clients and links: what comes of one goes to the other
	server := transport.NewServer(transport.Options{
		LoginWait:  c.Gateway.LoginWait,
		ReadWait:   c.Gateway.ReadWait,
		WriteWait:  c.Gateway.WriteWait,
		MaxPacket:  int(c.Gateway.MaxPacket),
		QueueBytes: int(c.Gateway.QueueBytes),
		Driver:     driver(c.Gateway.Poll),
		Batch:      batch,
		Metrics:    metrics,
		Logf:       log.Errorf,
	}, endpoints...)
	if err := server.Listen(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{server: server}
	self := instance(c, naming.ServiceGateway)
	if err := g.advertise(c, &self, server.Addrs()); err != nil {
		return nil, errors.Join(fmt.Errorf("gateway: %w", err), g.Close())
	}
	g.Gateway = gateway.New(gateway.Config{
		Instance:       self,
		Secret:         []byte(c.Secret),
		LoginWait:      c.Gateway.LoginWait,
		MaxConnections: c.Gateway.MaxConnections,
		Lease:          c.Sessions.Lease,
		Drain:          c.Shutdown.Drain,
		Rate:           rate(c.Limits, c.Limits.ConnectionRate, c.Limits.ConnectionBurst),
		LoginRate:      rate(c.Limits, c.Limits.LoginRate, c.Limits.LoginBurst),
		AccountRate:    rate(c.Limits, c.Limits.AccountRate, c.Limits.AccountBurst),
	}, gateway.Deps{
		Naming:   env.Naming,
		Server:   server,
		Channels: channels,
		NewLink:  linkClient(c, batch, log.Errorf),
		Metrics:  env.Metrics,
		Log:      log,
	})
	return g, nil
}

// Close frees the listeners of a gateway that has not run.
func (g *Gateway) Close() error { return closeServer(g.server) }

// clientEndpoints are the listeners for clients: WebSocket first if it is on.
func clientEndpoints(c config.Gateway) ([]transport.Endpoint, error) {
	var secure *tls.Config
	if c.TLS.Cert != "" {
		var err error
		if secure, err = transport.LoadTLS(c.TLS.Cert, c.TLS.Key); err != nil {
			return nil, fmt.Errorf("gateway.tls: %w", err)
		}
	}
	var out []transport.Endpoint
	if c.WS != "" {
		out = append(out, transport.Endpoint{Address: c.WS, Protocol: websocket.Protocol(), TLS: secure})
	}
	if c.TCP != "" {
		out = append(out, transport.Endpoint{Address: c.TCP, Protocol: tcp.Protocol(), TLS: secure})
	}
	return out, nil
}

// advertise fills in the URLs, and the registration with them.
func (g *Gateway) advertise(c config.Config, self *naming.Instance, addrs []net.Addr) error {
	schemes := [2]string{"ws://", "tcp://"}
	if c.Gateway.TLS.Cert != "" {
		schemes = [2]string{"wss://", "tls://"}
	}
	for i, l := range []struct {
		listen, public string
		url            *string
	}{{c.Gateway.WS, c.Gateway.PublicWS, &g.WS}, {c.Gateway.TCP, c.Gateway.PublicTCP, &g.TCP}} {
		if l.listen == "" {
			continue
		}
		address, err := advertised(c, addrs[0])
		if err != nil {
			return err
		}
		addrs = addrs[1:]
		if self.Address == "" {
			self.Address = address
		}
		if *l.url = l.public; l.public == "" {
			*l.url = schemes[i] + address
		}
	}
	self.Meta["ws"], self.Meta["tcp"] = g.WS, g.TCP
	self.Meta["load"], self.Meta["capacity"] = "0", fmt.Sprint(c.Gateway.MaxConnections)
	return nil
}

func driver(poll bool) transport.Driver {
	if poll {
		return transport.DriverAuto
	}
	return transport.DriverGoroutine
}

// rate is a limit, or none if limits are off.
func rate(l config.Limits, perSecond, burst int) limit.Rate {
	if !l.Enabled {
		return limit.Rate{}
	}
	return limit.Rate{PerSecond: float64(perSecond), Burst: burst}
}

// linkClient makes clients with a link's limits.
func linkClient(c config.Config, batch *transport.Batch, logf func(string, ...any)) func(id, name string) im.Client {
	return func(id, name string) im.Client {
		return tcp.NewClient(id, name, transport.ClientOptions{
			DialWait:   c.Links.DialWait,
			MaxPacket:  int(c.Links.MaxPacket),
			QueueBytes: int(c.Links.QueueBytes),
			Heartbeat:  linkHeartbeat,
			ReadWait:   linkReadWait,
			Driver:     driver(c.Gateway.Poll),
			Batch:      batch,
			Logf:       logf,
		})
	}
}
