package client

import (
	"errors"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
)

// Errors of the client. A request that the server refused is a *wire.Error. Compare with errors.Is
// and errors.As; Retryable says whether to try again.
var (
	// ErrClosed: the client is closed, or Run has ended; errors.Is also finds what ended it.
	ErrClosed = errors.New("client closed")
	// ErrDisplaced: a newer login of the same device took this one's place. Final.
	ErrDisplaced = errors.New("displaced by a newer login of this device")
	// ErrUnauthorized: the server refused the token, and the next one too. Final.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrDisconnected: the connection broke before the answer; the request may have been done. Retryable.
	ErrDisconnected = errors.New("disconnected before the answer")
	// ErrNoAnswer: the answer did not come in time; the request may have been done. Retryable.
	ErrNoAnswer = errors.New("no answer in time")
	// ErrQueueFull: too much waits to be sent or, the application being behind, to be received.
	// Nothing was sent. Retryable, later.
	ErrQueueFull = im.ErrQueueFull
	// ErrTooLarge: the request is above Options.MaxPacket.
	ErrTooLarge = im.ErrFrameTooLarge
)

// Retryable reports whether the same call may succeed later. A call that changes something and was
// not known to be refused may have been done already: a Talk is safe to repeat with the same
// Draft.ClientID, others are not.
func Retryable(err error) bool {
	var refused *wire.Error
	if errors.As(err, &refused) {
		return refused.Retryable()
	}
	return errors.Is(err, ErrDisconnected) || errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrQueueFull)
}
