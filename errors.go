package im

import "errors"

// Errors shared by servers, channels and clients. Compare with errors.Is.
var (
	// ErrChannelNotFound: no channel has this id (any more). Sync the receiver.
	ErrChannelNotFound = errors.New("channel not found")
	// ErrChannelClosed: the channel or client has been closed; nothing was queued.
	ErrChannelClosed = errors.New("channel closed")
	// ErrQueueFull: the bytes waiting for this peer would exceed its bound; nothing was queued.
	ErrQueueFull = errors.New("queue full")
	// ErrServerClosed: Start was called after Shutdown.
	ErrServerClosed = errors.New("server closed")
	// ErrFrameTooLarge: a peer announced a frame above the limit; nothing was allocated for it.
	ErrFrameTooLarge = errors.New("frame too large")
	// ErrProtocol: a peer broke the framing of its transport.
	ErrProtocol = errors.New("protocol error")
)

// Reason says why a channel ended. It gives the close code that the client sees and the label
// that the metrics count.
type Reason uint8

// The reasons, with the close code a client gets for each (docs/protocol.md, "Close codes").
const (
	// ReasonNone: still open.
	ReasonNone Reason = iota
	// ReasonClosedByPeer: the client closed, or its connection broke.
	ReasonClosedByPeer
	// ReasonGoingAway: the server is stopping; reconnect elsewhere. 1001.
	ReasonGoingAway
	// ReasonProtocolError: bytes that are no frame or no packet. 1002.
	ReasonProtocolError
	// ReasonUnsupportedData: a text frame. 1003.
	ReasonUnsupportedData
	// ReasonTooLarge: a frame or packet above the limit. 1009.
	ReasonTooLarge
	// ReasonInternal: the server failed; reconnect. 1011.
	ReasonInternal
	// ReasonUnauthorized: no valid login in time. 4001; get a new token first.
	ReasonUnauthorized
	// ReasonDisplaced: a newer login of the same device. 4002; do not reconnect by itself.
	ReasonDisplaced
	// ReasonSlowConsumer: the queue to this client was full. 4003; reconnect and sync.
	ReasonSlowConsumer
	// ReasonTimeout: nothing heard for the read wait. 4004; reconnect.
	ReasonTimeout
	// ReasonWriteTimeout: the socket took nothing for the write wait. No close frame can be sent.
	ReasonWriteTimeout
	// ReasonSyncNeeded: pushes may have been lost and this client understands no hint. 4005; reconnect and sync.
	ReasonSyncNeeded
	// ReasonSignedOut: the client asked to sign out. 1000.
	ReasonSignedOut
	// ReasonUnavailable: the service cannot take the login now. 1013; try again later.
	ReasonUnavailable
	// ReasonConflict: another device is signed in, and this one may not take over. 4006; do not reconnect by itself.
	ReasonConflict
	numReasons
)

// NumReasons is the number of reasons, for counters indexed by Reason.
const NumReasons = int(numReasons)

var reasons = [numReasons]struct {
	code uint16
	name string
}{
	ReasonNone:            {1005, "none"},
	ReasonClosedByPeer:    {1000, "closed_by_peer"},
	ReasonGoingAway:       {1001, "going_away"},
	ReasonProtocolError:   {1002, "protocol_error"},
	ReasonUnsupportedData: {1003, "unsupported_data"},
	ReasonTooLarge:        {1009, "too_large"},
	ReasonInternal:        {1011, "internal"},
	ReasonUnauthorized:    {4001, "unauthorized"},
	ReasonDisplaced:       {4002, "displaced"},
	ReasonSlowConsumer:    {4003, "slow_consumer"},
	ReasonTimeout:         {4004, "timeout"},
	ReasonWriteTimeout:    {1006, "write_timeout"},
	ReasonSyncNeeded:      {4005, "sync_needed"},
	ReasonSignedOut:       {1000, "signed_out"},
	ReasonUnavailable:     {1013, "unavailable"},
	ReasonConflict:        {4006, "conflict"},
}

// Code is the WebSocket close code that tells the peer, also sent on TCP.
func (r Reason) Code() uint16 {
	if r >= numReasons {
		return 1011
	}
	return reasons[r].code
}

// String is the name of the reason: the text of the close frame and the label in metrics.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return reasons[r].name
}

// CloseError is an error that says with which reason the channel should be closed.
type CloseError struct {
	Reason Reason
	Err    error // may be nil
}

// Error names the reason and the cause.
func (e *CloseError) Error() string {
	if e.Err == nil {
		return e.Reason.String()
	}
	return e.Reason.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *CloseError) Unwrap() error { return e.Err }

// ReasonOf is the reason that err asks for: that of a CloseError in its chain, the fitting one for
// this package's errors, or otherwise.
func ReasonOf(err error, otherwise Reason) Reason {
	var c *CloseError
	switch {
	case errors.As(err, &c):
		return c.Reason
	case errors.Is(err, ErrFrameTooLarge):
		return ReasonTooLarge
	case errors.Is(err, ErrProtocol):
		return ReasonProtocolError
	default:
		return otherwise
	}
}
