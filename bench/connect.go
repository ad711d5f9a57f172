package bench

import (
	"errors"
	"os/exec"
	"time"

	im "github.com/hermod-im/hermod"
)

// ConnectOptions are the load of Connect: connections that log in and then only ping.
type ConnectOptions struct {
	// URLs of gateways, ws://ADDRESS:PORT or tcp://ADDRESS:PORT, all of one kind.
	URLs   []string
	Secret []byte
	// App is the tenant. Defaults to "default".
	App         string
	Connections int
	// Rate is how many logins a second are begun; 0: as fast as they go.
	Rate float64
	// Parallel is how many logins are under way at once, in all workers together: a login takes 50 ms
	// at least (docs/decisions/0010), so 256 are 5,000 a second. Defaults to 256.
	Parallel int
	// Workers is how many processes share the connections. Defaults to as many as the limit of
	// descriptors asks for.
	Workers int
	// Spawn makes the command of a process that calls ConnectWorker with its standard input and output.
	// Nil: all connections are this process's.
	Spawn func() *exec.Cmd
	// InTurn has the processes log in one after the other, each with the whole Rate and Parallel, at one gateway after the
	// other, and ping in rounds of a second (a fiftieth of Heartbeat if that is less): a hundred processes that are all
	// busy at once, or woken for every ping, have the cores for nothing else.
	InTurn bool
	// Sources is from how many addresses to connect to a gateway on loopback. Defaults to one for
	// every 20,000 connections: a source has about 28,000 ports for each gateway.
	Sources int
	// Hold is how long the connections are kept before they are measured, and then while pings are.
	Hold time.Duration
	// Heartbeat is the interval of pings. Defaults to im.DefaultHeartbeat.
	Heartbeat time.Duration
	Processes []Process
	// Progress is told now and then how many are logged in. May be nil.
	Progress func(connected int)
}

// DefaultParallel is that of ConnectOptions.Parallel.
const DefaultParallel = 256

func (o ConnectOptions) withDefaults() (ConnectOptions, error) {
	if len(o.URLs) == 0 || o.Connections < 1 || o.Hold < 0 {
		return o, errors.New("give a URL, at least 1 connection and a time to hold them")
	}
	if o.App == "" {
		o.App = "default"
	}
	if o.Parallel == 0 {
		o.Parallel = DefaultParallel
	}
	if o.Workers < 0 || o.Workers > o.Connections || (o.Workers > 1 && o.Spawn == nil) {
		return o, errors.New("give each process at least 1 connection")
	}
	if o.Sources == 0 {
		o.Sources = 1 + o.Connections/20_000
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = im.DefaultHeartbeat
	}
	if o.Progress == nil {
		o.Progress = func(int) {}
	}
	return o, nil
}

// ConnectResult is what Connect measured.
type ConnectResult struct {
	Connections int     `json:"connections"` // logged in
	Parallel    int     `json:"parallel"`    // logins under way at most
	Failed      int     `json:"failed"`      // logins
	Failure     string  `json:"failure,omitempty"`
	LoginRate   float64 `json:"login_rate"` // logins per second
	Login       Latency `json:"login"`      // connect → answer

	// LoginCPU is µs for each login; Memory is bytes of resident memory for each connection, after Hold.
	LoginCPU Cost `json:"login_cpu_us"`
	Memory   Cost `json:"memory_bytes"`
	// HeartbeatCPU is µs for each ping, while nothing else happens.
	HeartbeatCPU Cost  `json:"heartbeat_cpu_us"`
	Pings        int64 `json:"pings"`
	Pongs        int64 `json:"pongs"`
	// Dropped are connections that ended before the run did.
	Dropped int64  `json:"dropped"`
	Dropage string `json:"dropped_for,omitempty"` // the first one's reason

	// Workers are the processes that the connections were made from, and OwnMemory is all that they
	// took, divided by the connections: bytes, pages that they share counted once.
	Workers   int     `json:"workers"`
	OwnMemory float64 `json:"own_memory_bytes"`
}

// Clean reports whether every connection was made, was held, and had its pings answered.
func (r *ConnectResult) Clean() bool { return r.Failed == 0 && r.Dropped == 0 && r.Pongs >= r.Pings }
