package bench

import (
	"errors"
	"os/exec"
	"time"
)

// FloorOptions describe a run of Floor.
type FloorOptions struct {
	// Pairs are senders with a receiver each. Defaults to 100.
	Pairs int
	// Window is how many messages of a sender are under way. Defaults to 1.
	Window int
	// Warmup and Duration are as in TalkOptions. Duration is required.
	Warmup, Duration time.Duration
	// Spawn makes the command of a process that calls FloorRelay with its standard input and output. Required.
	Spawn func() *exec.Cmd
}

func (o FloorOptions) withDefaults() (FloorOptions, error) {
	if o.Pairs == 0 {
		o.Pairs = 100
	}
	if o.Window == 0 {
		o.Window = 1
	}
	if o.Pairs < 1 || o.Window < 1 || o.Window > maxFloorWindow || o.Duration <= 0 || o.Spawn == nil {
		return o, errors.New("give at least 1 pair, a window of 1 to 256 and a duration")
	}
	return o, nil
}

// maxFloorWindow keeps what is under way of a sender below what a socket takes at once.
const maxFloorWindow = 256

// FloorResult is what the sockets of a message cost where nothing else is done for it: a process with
// one epoll loop reads it, writes an acknowledgement to its sender, and writes it to its receiver. What a server
// takes for a message is compared with it: both grow on a machine that is slow at the moment.
type FloorResult struct {
	Messages int64   `json:"messages"`
	Rate     float64 `json:"rate"`   // messages per second
	CPU      float64 `json:"cpu_us"` // µs of the relay for each message
}

// Sizes on the wire, with framing, as those of a talk with a 64-byte body.
const (
	floorMessage = 128
	floorAck     = 96
)
