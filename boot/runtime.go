package boot

import (
	"os"
	"runtime/debug"

	"github.com/hermod-im/hermod/config"
)

// What runtime.gc_percent is if it is 0. A logic node makes much garbage beside little that stays: at 100 the collector is
// a fifth of its CPU time, at 400 a twentieth. A gateway's heap is its connections, which a collector that waits would
// double for nothing. Standalone is both: at 400, what its connections hold lies scattered among the garbage of
// the logins, and takes up 350 bytes more for each.
const (
	GatewayGCPercent    = 100
	LogicGCPercent      = 400
	StandaloneGCPercent = 200
)

// TuneRuntime sets up the process's garbage collector. What the environment says wins, as everywhere in Go.
func TuneRuntime(c config.Config, percent int) {
	if c.Runtime.GCPercent != 0 {
		percent = c.Runtime.GCPercent
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if limit := c.Runtime.MemoryLimit; limit != 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit))
	}
}
