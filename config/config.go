// Package config is the configuration of every hermod service: one Config, read from built-in
// defaults, a YAML file, the environment and --set flags, each overriding the one before. Unknown
// keys are errors. The services do not import this package; whoever composes them maps a Config to
// theirs.
package config

import "time"

// Config holds all keys of all services; a service reads the sections it needs. The koanf tag is a
// key's name within its section, the doc tag its documentation: [Keys], the sample file and
// docs/operations.md have no other source.
type Config struct {
	Node     Node     `koanf:"node"`
	Secret   string   `koanf:"secret" secret:"all" doc:"Signs the clients' tokens; the key that services use among themselves is derived from it. The same on every node of a cluster. At least 32 random bytes, for example from 'openssl rand -base64 32'. Required in a cluster; standalone makes one and keeps it in its data folder."`
	Runtime  Runtime  `koanf:"runtime"`
	Log      Log      `koanf:"log"`
	Admin    Admin    `koanf:"admin"`
	Registry Registry `koanf:"registry"`
	Database Database `koanf:"database"`
	Sessions Sessions `koanf:"sessions"`
	IDs      IDs      `koanf:"ids"`
	Links    Links    `koanf:"links"`
	Gateway  Gateway  `koanf:"gateway"`
	Logic    Logic    `koanf:"logic"`
	Router   Router   `koanf:"router"`
	Devices  Devices  `koanf:"devices"`
	Limits   Limits   `koanf:"limits"`
	Shutdown Shutdown `koanf:"shutdown"`
}

// Node says which node this is.
type Node struct {
	Name    string `koanf:"name" doc:"Name of this node, the same after a restart. Empty: the host's name."`
	Address string `koanf:"address" doc:"Host name or IP address under which other nodes and the clients reach this one, where no other key says so. Empty: the first address of the host that is not loopback."`
	Zone    string `koanf:"zone" doc:"Where this node runs; the router prefers gateways in the caller's zone. May be empty."`
}

// Runtime is how the process uses memory.
type Runtime struct {
	GCPercent   int  `koanf:"gc_percent" doc:"How far the heap may grow between two runs of the garbage collector, in percent of what is in use: memory for CPU time. 0: 400 for logic, 200 for standalone, 100 for gateways and routers. The environment variable GOGC wins."`
	MemoryLimit Size `koanf:"memory_limit" doc:"The garbage collector works harder as the process's memory nears this. Nine tenths of what a container may use is a good value. 0: no limit. The environment variable GOMEMLIMIT wins."`
}

// Log is what is logged and how. Logs go to standard error.
type Log struct {
	Level  string `koanf:"level" doc:"Least level that is logged: trace, debug, info, warn or error."`
	Format string `koanf:"format" doc:"text, json, or auto: text on a terminal, JSON otherwise."`
}

// Admin is the operators' HTTP port: /healthz, /readyz, /metrics, /debug/pprof.
type Admin struct {
	Listen string `koanf:"listen" doc:"Address of /healthz, /readyz, /metrics and /debug/pprof. There is no authentication: keep it on loopback or a private network. Empty: off. Standalone uses port 0 unless told otherwise."`
}

// Registry is where nodes find each other.
type Registry struct {
	Driver string `koanf:"driver" doc:"consul, or memory for services within one process."`
	Consul Consul `koanf:"consul"`
}

// Consul is the registry of a cluster.
type Consul struct {
	Address string        `koanf:"address" doc:"host:port or URL of the Consul agent, best the one on the same host."`
	Token   string        `koanf:"token" secret:"all" doc:"ACL token. Empty: none."`
	Prefix  string        `koanf:"prefix" doc:"Put before the services' names in Consul, so that several clusters can share one. May be empty."`
	TTL     time.Duration `koanf:"ttl" doc:"How long a node that died stays registered; renewed every third of it. At least 1s."`
}

// Database keeps messages and groups.
type Database struct {
	Driver         string `koanf:"driver" doc:"mysql (MySQL 8 or later, MariaDB 10.11 or later) or sqlite (one process only)."`
	DSN            string `koanf:"dsn" secret:"password" doc:"mysql: user:password@tcp(host:3306)/database. sqlite: the file's path. Required by logic and migrate."`
	MaxOpen        int    `koanf:"max_open" doc:"Most connections of one node to MySQL, half of them for what is written; at least 3. SQLite has one writer and as many readers as it needs."`
	MigrateOnStart bool   `koanf:"migrate_on_start" doc:"Bring the schema up to date when logic starts. In a cluster run 'hermod migrate' instead."`
}

// Sessions keep where each device is connected.
type Sessions struct {
	Driver string        `koanf:"driver" doc:"redis, or memory for services within one process."`
	Lease  time.Duration `koanf:"lease" doc:"How long the sessions of a gateway that died remain; gateways have them renewed every third of it. At least 3s."`
	Redis  Redis         `koanf:"redis"`
}

// Redis is a single Redis server or one that Sentinel names.
type Redis struct {
	Addr             string   `koanf:"addr" doc:"host:port of the server. Not used with Sentinel."`
	Username         string   `koanf:"username" doc:"ACL user. Empty: the default user."`
	Password         string   `koanf:"password" secret:"all" doc:"Password of the user. Empty: none."`
	DB               int      `koanf:"db" doc:"Number of the database."`
	TLS              bool     `koanf:"tls" doc:"Connect with TLS, verified against the system's certificates."`
	SentinelMaster   string   `koanf:"sentinel_master" doc:"Name of the master that the Sentinels watch. Empty: no Sentinel."`
	SentinelAddrs    []string `koanf:"sentinel_addrs" doc:"host:port of each Sentinel. Required with sentinel_master."`
	SentinelPassword string   `koanf:"sentinel_password" secret:"all" doc:"Password of the Sentinels. Empty: none."`
}

// IDs makes message ids.
type IDs struct {
	Node int `koanf:"node" doc:"This node's number in message ids, 0 to 1023; no two running nodes may share one. -1: leased from the registry."`
}

// Links are the TCP connections between services.
type Links struct {
	DialWait   time.Duration `koanf:"dial_wait" doc:"How long dialling another service and its handshake may take."`
	QueueBytes Size          `koanf:"queue_bytes" doc:"Most that may wait to be written to one other service. When full, requests are answered with status 300 at once."`
	MaxPacket  Size          `koanf:"max_packet" doc:"Largest packet from another service. It must hold an answer with 200 messages of limits.max_body, and the members of a group."`
}

// Gateway holds the clients' connections.
type Gateway struct {
	WS             string        `koanf:"ws" doc:"Address to listen on for WebSocket clients. Empty: off."`
	TCP            string        `koanf:"tcp" doc:"Address to listen on for TCP clients. Empty: off."`
	PublicWS       string        `koanf:"public_ws" doc:"ws:// or wss:// URL under which clients reach this gateway, as the router tells them. Empty: made of node.address and the port of ws."`
	PublicTCP      string        `koanf:"public_tcp" doc:"tcp:// or tls:// URL under which TCP clients reach this gateway. Empty: made of node.address and the port of tcp."`
	TLS            TLS           `koanf:"tls"`
	LoginWait      time.Duration `koanf:"login_wait" doc:"How long a new connection may take until its login is complete."`
	ReadWait       time.Duration `koanf:"read_wait" doc:"Silence after which a connection is closed. Clients ping every 55s."`
	WriteWait      time.Duration `koanf:"write_wait" doc:"Deadline of one write to a client's socket."`
	MaxPacket      Size          `koanf:"max_packet" doc:"Largest packet from a client."`
	QueueBytes     Size          `koanf:"queue_bytes" doc:"Most that may wait to be written to one client. When full, the client is disconnected and has to sync."`
	MaxConnections int           `koanf:"max_connections" doc:"Connections beyond this number are refused. The router sends new clients where most of it is free."`
	Poll           bool          `koanf:"poll" doc:"Wait for all idle connections with epoll instead of one goroutine each. Linux only; connections with TLS always use goroutines."`
}

// TLS of the gateway's listeners.
type TLS struct {
	Cert string `koanf:"cert" doc:"PEM file of the certificate chain. Empty: no TLS, as behind a proxy that ends it."`
	Key  string `koanf:"key" doc:"PEM file of the private key."`
}

// Logic decides and stores.
type Logic struct {
	Listen         string        `koanf:"listen" doc:"Address to listen on for gateways. Other services only: keep it off public networks."`
	Advertise      string        `koanf:"advertise" doc:"host:port under which gateways reach this node. Empty: made of node.address and the port of listen."`
	Shards         int           `koanf:"shards" doc:"Conversations are spread over this many writers; each commits one batch at a time. More of them make smaller, dearer transactions; they pay where a commit takes long for reasons other than its size."`
	CommitInterval time.Duration `koanf:"commit_interval" doc:"Shortest time from the beginning of one commit of a writer to that of the next under load: fewer, larger transactions, for as much latency at most. 0: none."`
	BatchMax       int           `koanf:"batch_max" doc:"Most messages in one commit."`
	QueueMax       int           `koanf:"queue_max" doc:"Most messages that wait for one writer. Beyond it, or beyond 64 MiB of bodies, requests are answered with status 300 at once."`
	Timeout        time.Duration `koanf:"timeout" doc:"How long one request may take."`
	Handlers       int           `koanf:"handlers" doc:"Most requests other than talk that are worked on at once. Beyond it they wait, bounded by the links' queues."`
}

// Router tells clients which gateways to use.
type Router struct {
	Listen         string   `koanf:"listen" doc:"Address of the HTTP server."`
	Domains        int      `koanf:"domains" doc:"Most gateways that one lookup returns."`
	Zones          []string `koanf:"zones" doc:"Which network is in which zone, as CIDR=zone, for example 10.1.0.0/16=fra. The longest prefix wins."`
	TrustedProxies []string `koanf:"trusted_proxies" doc:"CIDRs of the proxies whose X-Forwarded-For is believed. Empty: nobody's."`
}

// Devices says which devices of one account may be signed in together. The same on every logic node.
type Devices struct {
	Scope     string `koanf:"scope" doc:"device: each device of an account has its session, up to limits.max_devices. platform: one device of each platform, such as ios or web; another one of the same platform conflicts. A device that connects again replaces its own session in any case."`
	Conflict  string `koanf:"conflict" doc:"What a login does that conflicts. displace: it wins, and the session that is there is closed (4002). refuse: it gets status 106 and is closed (4006), as long as the other one's connection lives."`
	MaxPolicy string `koanf:"max_policy" doc:"What a login of one more device than limits.max_devices does. displace: the device that logged in first is closed. refuse: the login is refused."`
}

// Limits bound what one user can use up.
type Limits struct {
	Enabled         bool `koanf:"enabled" doc:"Enforce the rates below. Off for load tests only; sizes, members, groups and devices are always bounded."`
	ConnectionRate  int  `koanf:"connection_rate" doc:"Packets a second from one connection, in the long run."`
	ConnectionBurst int  `koanf:"connection_burst" doc:"Packets that one connection may send at once."`
	AccountRate     int  `koanf:"account_rate" doc:"Requests a second from one account over all its devices at one logic node, and logins a second at one gateway, in the long run."`
	AccountBurst    int  `koanf:"account_burst" doc:"Requests that one account may make at once."`
	LoginRate       int  `koanf:"login_rate" doc:"Logins a second that one gateway takes, in the long run; others are told to try again."`
	LoginBurst      int  `koanf:"login_burst" doc:"Logins that one gateway takes at once."`
	MaxDevices      int  `koanf:"max_devices" doc:"Devices of one account that may be connected; devices.max_policy says what happens to one more."`
	MaxGroupMembers int  `koanf:"max_group_members" doc:"Members of one group."`
	MaxGroups       int  `koanf:"max_groups" doc:"Groups that one account may create or join, counting those that others have added it to."`
	MaxBody         Size `koanf:"max_body" doc:"Largest message, body and extra together; gateway.max_packet bounds it too."`
	OfflinePage     int  `koanf:"offline_page" doc:"Entries in one page of the offline index; at most 2000."`
}

// Shutdown is how a node stops.
type Shutdown struct {
	Drain time.Duration `koanf:"drain" doc:"How long a stopping node takes to let requests finish and to move its clients elsewhere, spread over this time."`
}

// Default is the configuration of a node in a cluster before anything is set.
func Default() Config {
	return Config{
		Log:      Log{Level: "info", Format: "auto"},
		Admin:    Admin{Listen: "127.0.0.1:9600"},
		Registry: Registry{Driver: DriverConsul, Consul: Consul{Address: "127.0.0.1:8500", TTL: 10 * time.Second}},
		Database: Database{Driver: DriverMySQL, MaxOpen: 16},
		Sessions: Sessions{Driver: DriverRedis, Lease: 15 * time.Second, Redis: Redis{Addr: "127.0.0.1:6379"}},
		IDs:      IDs{Node: -1},
		Links:    Links{DialWait: 5 * time.Second, QueueBytes: 64 * MiB, MaxPacket: 16 * MiB},
		Gateway: Gateway{
			WS: ":8000", TCP: ":8001",
			LoginWait: 10 * time.Second, ReadWait: 3 * time.Minute, WriteWait: 10 * time.Second,
			MaxPacket: 64 * KiB, QueueBytes: MiB, MaxConnections: 1_000_000, Poll: true,
		},
		Logic:   Logic{Listen: ":8100", Shards: 1, CommitInterval: 2 * time.Millisecond, BatchMax: 500, QueueMax: 20_000, Handlers: 64, Timeout: 10 * time.Second},
		Router:  Router{Listen: ":8080", Domains: 3},
		Devices: Devices{Scope: ScopeDevice, Conflict: PolicyDisplace, MaxPolicy: PolicyDisplace},
		Limits: Limits{
			Enabled:        true,
			ConnectionRate: 50, ConnectionBurst: 200, AccountRate: 100, AccountBurst: 400,
			LoginRate: 1000, LoginBurst: 2000,
			MaxDevices: 10, MaxGroupMembers: 100_000, MaxGroups: 1000, MaxBody: 60 * KiB, OfflinePage: 2000,
		},
		Shutdown: Shutdown{Drain: 10 * time.Second},
	}
}

// Standalone is the default of a process that is a whole system: everything in memory but the
// messages, which are in the SQLite file at database, and nothing reachable from other hosts.
func Standalone(database string) Config {
	c := Default()
	c.Node.Name, c.Node.Address = "standalone", "127.0.0.1"
	c.Admin.Listen = "127.0.0.1:0"
	c.Registry.Driver = DriverMemory
	c.Sessions.Driver = DriverMemory
	c.Database.Driver, c.Database.DSN, c.Database.MigrateOnStart = DriverSQLite, database, true
	c.IDs.Node = 0
	c.Gateway.WS, c.Gateway.TCP = "127.0.0.1:8000", "127.0.0.1:8001"
	c.Logic.Listen = "127.0.0.1:0"
	c.Router.Listen = "127.0.0.1:8080"
	return c
}

// The values of Devices.
const (
	ScopeDevice    = "device"
	ScopePlatform  = "platform"
	PolicyDisplace = "displace"
	PolicyRefuse   = "refuse"
)

// The drivers.
const (
	DriverMemory = "memory"
	DriverConsul = "consul"
	DriverRedis  = "redis"
	DriverMySQL  = "mysql"
	DriverSQLite = "sqlite"
)
