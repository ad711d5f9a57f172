package boot

import (
	"os"
	"runtime/debug"

	"github.com/hermod-im/hermod/config"
)

// logicGCPercent is the default of runtime.gc_percent where logic runs. It makes much garbage beside
// little that stays: at 100 the collector is a fifth of its CPU time, at 400 a twentieth. A gateway's heap is
// its connections, which a collector that waits would double for nothing.
const logicGCPercent = 400

// TuneRuntime sets up the process's garbage collector. What the environment says wins, as everywhere in Go.
func TuneRuntime(c config.Config, logic bool) {
	percent := c.Runtime.GCPercent
	if percent == 0 && logic {
		percent = logicGCPercent
	}
	if percent != 0 && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if limit := c.Runtime.MemoryLimit; limit != 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit))
	}
}
