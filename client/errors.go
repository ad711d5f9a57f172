package client

import (
	"errors"
	"fmt"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// Errors of the client. A request that the server refused is a *wire.Error. Compare with errors.Is
// and errors.As; Retryable says whether to try again.
var (
	// ErrClosed: the client is closed, or Run has ended; errors.Is also finds what ended it.
	ErrClosed = errors.New("client closed")
	// ErrDisplaced: a newer login took this one's place: of the same device, or of another one that the
	// server's policy prefers. Final. errors.As finds a *DisplacedError if the server has said more.
	ErrDisplaced = errors.New("displaced by a newer login")
	// ErrConflict: another device is signed in, and the server's policy lets it stay. Final.
	ErrConflict = errors.New("another device is signed in")
	// ErrUnauthorized: the server refused the token, and the next one too. Final.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrDisconnected: the connection broke before the answer; the request may have been done. Retryable.
	ErrDisconnected = errors.New("disconnected before the answer")
	// ErrOutcomeUnknown: the message was sent, and whether it is stored was not told until the context
	// or the client ended, which errors.Is finds too. It is not sent again by itself. Retryable, with the
	// same Draft.ClientID, unless the client is closed.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrNoAnswer: the answer did not come in time; the request may have been done. Retryable.
	ErrNoAnswer = errors.New("no answer in time")
	// ErrQueueFull: too much waits to be sent or, the application being behind, to be received.
	// Nothing was sent. Retryable, later.
	ErrQueueFull = im.ErrQueueFull
	// ErrTooLarge: the request is above Options.MaxPacket.
	ErrTooLarge = im.ErrFrameTooLarge
)

// DisplacedError is the ErrDisplaced that says by whom.
type DisplacedError struct {
	// Reason is "device" for a newer login of the same device, "platform" for one of another device
	// of the platform, "limit" if the account has too many devices (docs/protocol.md, "login.signin").
	Reason string
	// Device and Platform are those of the newer login.
	Device, Platform string
}

// Error names the reason and the device.
func (e *DisplacedError) Error() string {
	return fmt.Sprintf("%v: %s: device %q, platform %q", ErrDisplaced, e.Reason, e.Device, e.Platform)
}

// Is makes it an ErrDisplaced.
func (e *DisplacedError) Is(target error) bool { return target == ErrDisplaced }

// Retryable reports whether the same call may succeed later. A call that changes something and was
// not known to be refused may have been done already: a Talk is safe to repeat with the same
// Draft.ClientID, others are not.
func Retryable(err error) bool {
	var refused *wire.Error
	if errors.As(err, &refused) {
		return refused.Retryable()
	}
	if errors.Is(err, ErrClosed) {
		return false
	}
	return errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrDisconnected) || errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrQueueFull)
}
