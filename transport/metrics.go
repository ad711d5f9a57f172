package transport

import (
	"sync/atomic"

	im "github.com/hermod-im/hermod"
)

// Refusal says why a connection never became a channel; the label that metrics count.
type Refusal uint8

// The refusals.
const (
	// RefusedBusy: too many handshakes at once.
	RefusedBusy Refusal = iota
	// RefusedTLS: the TLS handshake failed or took too long.
	RefusedTLS
	// RefusedUpgrade: the transport's own handshake failed or took too long.
	RefusedUpgrade
	// RefusedLogin: the Acceptor refused, or the login took too long.
	RefusedLogin
	// RefusedStopping: the server is shutting down.
	RefusedStopping
	numRefusals
)

// NumRefusals is the number of refusals, for counters indexed by Refusal.
const NumRefusals = int(numRefusals)

// String is the refusal's name.
func (r Refusal) String() string {
	return [...]string{"busy", "tls", "upgrade", "login", "stopping"}[r]
}

// Metrics counts what servers or clients do. The zero value is ready; several may share one.
// Open channels are Accepted less the sum of Closed.
type Metrics struct {
	Accepted  atomic.Uint64
	Refused   [NumRefusals]atomic.Uint64
	Closed    [im.NumReasons]atomic.Uint64
	BytesIn   atomic.Uint64
	BytesOut  atomic.Uint64
	FramesIn  atomic.Uint64
	FramesOut atomic.Uint64
	// QueueFull counts frames that found their channel's queue full.
	QueueFull atomic.Uint64
	// Panics counts those of listeners.
	Panics atomic.Uint64
	// Handshaking is the number of connections not accepted yet.
	Handshaking atomic.Int64
}
