package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Role is what a process does with a Config; it decides which keys are required.
type Role string

// The roles. A process may have several: standalone has all but RoleMigrate.
const (
	RoleGateway Role = "gateway"
	RoleLogic   Role = "logic"
	RoleRouter  Role = "router"
	RoleMigrate Role = "migrate"
)

// Bounds of values, where they are not obvious.
const (
	// minConsulTTL keeps the renewals, three a lease, from loading the agent.
	minConsulTTL = time.Second
	// minLease leaves time for a renewal to fail and be tried again.
	minLease = 3 * time.Second
	// maxIDNode is the largest node number in ten bits of a message id.
	maxIDNode = 1023
	// minPacket holds a login.
	minPacket = KiB
	// maxPacket keeps a length that a peer announces far from what int32 holds.
	maxPacket = GiB
	// headerRoom is what the gateway may add to a client's packet.
	headerRoom = 4 * KiB
	// maxOfflinePage is the largest page of the offline index (docs/protocol.md).
	maxOfflinePage = 2000
	// contentPage is how many messages one answer to chat.offline.content may hold (docs/protocol.md).
	contentPage = 200
	// messageRoom is what such an answer has for a message beside its body.
	messageRoom = 64
	// syncRoom holds a page of chat.sync or chat.history but for one message: 4 MiB of messages, and what goes with them.
	syncRoom = 5 * MiB
	// memberRoom holds a member of a group with an account of 64 bytes, the longest.
	memberRoom = 80
	// maxCount bounds every number that sizes something.
	maxCount = 100_000_000
)

// Validate checks every key and returns all problems at once, one a line, each with the key's name
// and what to do; nil if there are none. Keys are required only where one of the roles needs them.
func (c Config) Validate(roles ...Role) error {
	var v validation
	c.validateCommon(&v)
	c.validateGateway(&v)
	c.validateRuntime(&v)
	c.validateLogic(&v)
	c.validateRouter(&v)
	c.validateLimits(&v)
	c.validateRequired(&v, roles)
	return errors.Join(v.problems...)
}

// ShortSecret reports whether the secret is shorter than HS256 wants it to be: worth a warning at
// the start, not a refusal.
func (c Config) ShortSecret() bool { return len(c.Secret) < 32 }

func (c Config) validateCommon(v *validation) {
	v.oneOf("log.level", c.Log.Level, "trace", "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "auto", "text", "json")
	v.listen("admin.listen", c.Admin.Listen)
	v.oneOf("registry.driver", c.Registry.Driver, DriverConsul, DriverMemory)
	v.oneOf("database.driver", c.Database.Driver, DriverMySQL, DriverSQLite)
	v.oneOf("sessions.driver", c.Sessions.Driver, DriverRedis, DriverMemory)
	v.atLeast("registry.consul.ttl", c.Registry.Consul.TTL, minConsulTTL)
	v.between("database.max_open", c.Database.MaxOpen, 3, 10_000)
	v.atLeast("sessions.lease", c.Sessions.Lease, minLease)
	v.between("sessions.redis.db", c.Sessions.Redis.DB, 0, 1<<20)
	v.between("ids.node", c.IDs.Node, -1, maxIDNode)
	v.positive("links.dial_wait", c.Links.DialWait)
	least := c.leastLinkPacket()
	v.check("links.max_packet", c.Links.MaxPacket >= least && c.Links.MaxPacket <= maxPacket,
		"is %v: must be %v to %v with these gateway.max_packet, limits.max_body and limits.max_group_members", c.Links.MaxPacket, least, maxPacket)
	v.size("links.queue_bytes", c.Links.QueueBytes, c.Links.MaxPacket, GiB)
	v.check("shutdown.drain", c.Shutdown.Drain >= 0, "must not be negative")
}

// leastLinkPacket holds the largest packets that services send each other, in whole MiB: an answer that is larger never
// reaches who asked.
func (c Config) leastLinkPacket() Size {
	body := min(c.Limits.MaxBody, c.Gateway.MaxPacket)
	least := max(
		c.Gateway.MaxPacket,
		contentPage*(body+messageRoom),
		syncRoom+body,
		memberRoom*Size(c.Limits.MaxGroupMembers),
	)
	return (least + headerRoom + MiB - 1) / MiB * MiB
}

func (c Config) validateGateway(v *validation) {
	g := c.Gateway
	v.listen("gateway.ws", g.WS)
	v.listen("gateway.tcp", g.TCP)
	v.url("gateway.public_ws", g.PublicWS, "ws", "wss")
	v.url("gateway.public_tcp", g.PublicTCP, "tcp", "tls")
	v.check("gateway.tls.key", (g.TLS.Cert == "") == (g.TLS.Key == ""), "and gateway.tls.cert: set both, or neither")
	v.positive("gateway.login_wait", g.LoginWait)
	v.positive("gateway.read_wait", g.ReadWait)
	v.positive("gateway.write_wait", g.WriteWait)
	v.size("gateway.max_packet", g.MaxPacket, minPacket, maxPacket)
	v.size("gateway.queue_bytes", g.QueueBytes, g.MaxPacket, GiB)
	v.between("gateway.max_connections", g.MaxConnections, 1, maxCount)
}

func (c Config) validateRuntime(v *validation) {
	v.between("runtime.gc_percent", c.Runtime.GCPercent, 0, 10_000)
	if c.Runtime.MemoryLimit != 0 {
		v.size("runtime.memory_limit", c.Runtime.MemoryLimit, 16*MiB, 1024*GiB)
	}
}

func (c Config) validateLogic(v *validation) {
	v.listen("logic.listen", c.Logic.Listen)
	v.address("logic.advertise", c.Logic.Advertise)
	v.between("logic.shards", c.Logic.Shards, 1, 4096)
	v.atLeast("logic.commit_interval", c.Logic.CommitInterval, 0)
	v.check("logic.commit_interval", c.Logic.CommitInterval <= time.Second, "is %s: must be at most 1s", formatDuration(c.Logic.CommitInterval))
	v.between("logic.batch_max", c.Logic.BatchMax, 1, 4096)
	v.between("logic.queue_max", c.Logic.QueueMax, c.Logic.BatchMax, maxCount)
	v.positive("logic.timeout", c.Logic.Timeout)
	v.between("logic.handlers", c.Logic.Handlers, 1, maxCount)
}

func (c Config) validateRouter(v *validation) {
	v.listen("router.listen", c.Router.Listen)
	v.between("router.domains", c.Router.Domains, 1, 100)
	for _, entry := range c.Router.Zones {
		cidr, zone, _ := strings.Cut(entry, "=")
		_, err := netip.ParsePrefix(cidr)
		v.check("router.zones", err == nil && zone != "", "has %q: write it as CIDR=zone, such as 10.1.0.0/16=fra", entry)
	}
	for _, cidr := range c.Router.TrustedProxies {
		_, err := netip.ParsePrefix(cidr)
		v.check("router.trusted_proxies", err == nil, "has %q: write it as a CIDR, such as 10.1.0.0/16", cidr)
	}
}

func (c Config) validateLimits(v *validation) {
	v.oneOf("devices.scope", c.Devices.Scope, ScopeDevice, ScopePlatform)
	v.oneOf("devices.conflict", c.Devices.Conflict, PolicyDisplace, PolicyRefuse)
	v.oneOf("devices.max_policy", c.Devices.MaxPolicy, PolicyDisplace, PolicyRefuse)
	l := c.Limits
	for _, n := range []struct {
		key   string
		value int
	}{
		{"limits.connection_rate", l.ConnectionRate},
		{"limits.connection_burst", l.ConnectionBurst},
		{"limits.account_rate", l.AccountRate},
		{"limits.account_burst", l.AccountBurst},
		{"limits.login_rate", l.LoginRate},
		{"limits.login_burst", l.LoginBurst},
		{"limits.max_devices", l.MaxDevices},
		{"limits.max_group_members", l.MaxGroupMembers},
		{"limits.max_groups", l.MaxGroups},
	} {
		v.between(n.key, n.value, 1, maxCount)
	}
	v.size("limits.max_body", l.MaxBody, 1, maxPacket)
	v.between("limits.offline_page", l.OfflinePage, 1, maxOfflinePage)
}

// validateRequired checks what is needed by some roles only.
func (c Config) validateRequired(v *validation, roles []Role) {
	is := func(some ...Role) bool {
		return slices.ContainsFunc(roles, func(r Role) bool { return slices.Contains(some, r) })
	}
	if is(RoleGateway, RoleLogic, RoleRouter) {
		v.required("secret", c.Secret)
		if c.Registry.Driver == DriverConsul {
			v.required("registry.consul.address", c.Registry.Consul.Address)
		}
	}
	if is(RoleGateway) {
		v.check("gateway.ws", c.Gateway.WS != "" || c.Gateway.TCP != "", "and gateway.tcp are both empty: set at least one")
	}
	if is(RoleLogic) {
		c.validateRedis(v)
		v.required("logic.listen", c.Logic.Listen)
		v.check("ids.node", c.IDs.Node >= 0 || c.Registry.Driver != DriverMemory,
			"is -1, but registry.driver memory leases no numbers: set 0 to %d", maxIDNode)
	}
	if is(RoleLogic, RoleMigrate) {
		v.required("database.dsn", c.Database.DSN)
	}
	if is(RoleRouter) {
		v.required("router.listen", c.Router.Listen)
	}
}

func (c Config) validateRedis(v *validation) {
	r := c.Sessions.Redis
	switch {
	case c.Sessions.Driver != DriverRedis:
	case r.SentinelMaster == "":
		v.required("sessions.redis.addr", r.Addr)
		v.check("sessions.redis.sentinel_addrs", len(r.SentinelAddrs) == 0, "is set: set sessions.redis.sentinel_master too")
	default:
		v.check("sessions.redis.sentinel_addrs", len(r.SentinelAddrs) > 0, "is empty: set it, sentinel_master needs it")
	}
}

// validation gathers problems.
type validation struct{ problems []error }

func (v *validation) check(key string, ok bool, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, fmt.Errorf(key+" "+format, args...))
	}
}

func (v *validation) required(key, value string) {
	v.check(key, value != "", "is not set: set it in the config file, as %s, or with --set", envName(key))
}

func (v *validation) oneOf(key, value string, allowed ...string) {
	v.check(key, slices.Contains(allowed, value), "is %q: must be one of %s", value, strings.Join(allowed, ", "))
}

func (v *validation) between(key string, n, least, most int) {
	v.check(key, n >= least && n <= most, "is %d: must be %d to %d", n, least, most)
}

func (v *validation) size(key string, n, least, most Size) {
	v.check(key, n >= least && n <= most, "is %v: must be %v to %v", n, least, most)
}

func (v *validation) positive(key string, d time.Duration) {
	v.check(key, d > 0, "is %s: must be more than zero", formatDuration(d))
}

func (v *validation) atLeast(key string, d, least time.Duration) {
	v.check(key, d >= least, "is %s: must be at least %s", formatDuration(d), formatDuration(least))
}

// listen: host:port to listen on, any host, port 0 allowed; empty is allowed.
func (v *validation) listen(key, value string) {
	v.check(key, value == "" || isHostPort(value), "is %q: must be host:port, such as 127.0.0.1:8000 or :8000", value)
}

// address: host:port that others can dial; empty is allowed.
func (v *validation) address(key, value string) {
	host, port, _ := net.SplitHostPort(value)
	v.check(key, value == "" || isHostPort(value) && host != "" && port != "0",
		"is %q: must be host:port that other nodes can reach", value)
}

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (v *validation) url(key, value string, schemes ...string) {
	u, err := url.Parse(value)
	v.check(key, value == "" || err == nil && u.Host != "" && slices.Contains(schemes, u.Scheme),
		"is %q: must be a URL that begins with %s://", value, strings.Join(schemes, ":// or "))
}
