package faults

import (
	"context"
	"errors"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"

	"github.com/hermod-im/hermod/test/cluster"
)

const (
	// cutFor is how long a cut link stays so.
	cutFor = 10 * time.Second
	// silentFor is how long a half-open link stays so: longer than the silence after which it is given up.
	silentFor = 20 * time.Second
	// slowFor is how long a link is slow.
	slowFor = 20 * time.Second
	// delay is what each direction of a delayed link adds, in milliseconds.
	delay = 500
	// throttle is what each direction of a throttled link carries, in kilobytes a second.
	throttle = 4
)

// links are faults of the connections between gateways and logic nodes: of all of one logic node, and of one
// pair, when two logic nodes may write the same conversation.
func (s *Site) links() []Row {
	row := func(name string, lasts time.Duration, harm, heal func(*toxiproxy.Proxy) error) Row {
		return each(name, s.Logics, func(n *cluster.Node) Fault {
			return Fault{
				Name: name + " of " + n.Name, On: []string{linksOf(n)}, Lasts: lasts,
				Inject: func(context.Context) error { return s.proxies.each("", n.Address, harm) },
				Heal:   func(context.Context) error { return s.proxies.each("", n.Address, heal) },
			}
		})
	}
	return []Row{
		row("links cut", cutFor, cut, mend),
		row("links delayed by 500 ms", slowFor, poison("latency", map[string]int{"latency": delay}), cure),
		row("links half-open", silentFor, poison(vanishing, nil), cure),
		row("links throttled to 4 kB/s", slowFor, poison("bandwidth", map[string]int{"rate": throttle}), cure),
		s.parted(),
	}
}

// linksOf is what a fault of a node's links takes hold of.
func linksOf(n *cluster.Node) string { return "links of " + n.Name }

// parted cuts each gateway from another logic node, so that no two gateways agree on who is there.
func (s *Site) parted() Row {
	const name = "each gateway cut from another logic node"
	between := func(do func(*toxiproxy.Proxy) error) error {
		var errs []error
		for i, g := range s.Gateways {
			errs = append(errs, s.proxies.each(g.Name, s.Logics[i%len(s.Logics)].Address, do))
		}
		return errors.Join(errs...)
	}
	fault := Fault{
		Name: name, Lasts: silentFor,
		Inject: func(context.Context) error { return between(cut) },
		Heal:   func(context.Context) error { return between(mend) },
	}
	for _, n := range s.Logics {
		fault.On = append(fault.On, linksOf(n))
	}
	return Row{Name: name, Faults: []Fault{fault}}
}

// stores are faults of the connections between logic nodes and their stores.
func (s *Site) stores() []Row {
	row := func(name, on, store string, harm func(*toxiproxy.Proxy) error) Row {
		return Row{Name: name, Faults: []Fault{{
			Name: name, On: []string{on}, Lasts: silentFor,
			Inject: func(context.Context) error { return s.proxies.each("", store, harm) },
			Heal:   func(context.Context) error { return s.proxies.each("", store, cure) },
		}}}
	}
	latency := poison("latency", map[string]int{"latency": delay})
	return []Row{
		row("connections to MariaDB half-open", onMySQL, s.MySQL.Addr, poison(vanishing, nil)),
		row("connections to MariaDB delayed by 500 ms", onMySQL, s.MySQL.Addr, latency),
		row("connections to Redis half-open", onRedis, s.Redis.Addr, poison(vanishing, nil)),
		row("connections to Redis delayed by 500 ms", onRedis, s.Redis.Addr, latency),
		row("connections to Consul half-open", onConsul, s.Consul.Addr, poison(vanishing, nil)),
	}
}
