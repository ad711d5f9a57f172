package wire

import (
	"fmt"
	"time"

	"github.com/hermod-im/hermod/wire/pb"
)

// Status is the outcome of a request, in the header of its response. The numbers come from
// wire/proto/header.proto, the one source for all languages. Existing clients drop the connection
// and log in again on any status ≥ 400, so errors of one request stay below; 10-99 belong to clients.
type Status int32

// The statuses that a server answers.
const (
	StatusSuccess         = Status(pb.Status_STATUS_SUCCESS)
	StatusNoDestination   = Status(pb.Status_STATUS_NO_DESTINATION)
	StatusInvalidBody     = Status(pb.Status_STATUS_INVALID_PACKET_BODY)
	StatusInvalidCommand  = Status(pb.Status_STATUS_INVALID_COMMAND)
	StatusUnauthorized    = Status(pb.Status_STATUS_UNAUTHORIZED)
	StatusConflict        = Status(pb.Status_STATUS_CONFLICT)
	StatusSystemException = Status(pb.Status_STATUS_SYSTEM_EXCEPTION)
	StatusNotImplemented  = Status(pb.Status_STATUS_NOT_IMPLEMENTED)
	StatusRateLimited     = Status(pb.Status_STATUS_RATE_LIMITED)
	StatusSessionNotFound = Status(pb.Status_STATUS_SESSION_NOT_FOUND)
)

// Retryable reports whether the same request may succeed later, unchanged.
func (s Status) Retryable() bool { return s == StatusSystemException || s == StatusRateLimited }

// String is the status' name and number.
func (s Status) String() string {
	switch s {
	case StatusSuccess:
		return "success (0)"
	case StatusNoDestination:
		return "no destination (100)"
	case StatusInvalidBody:
		return "invalid packet body (101)"
	case StatusInvalidCommand:
		return "invalid command (103)"
	case StatusUnauthorized:
		return "unauthorized (105)"
	case StatusConflict:
		return "conflict (106)"
	case StatusSystemException:
		return "system exception (300)"
	case StatusNotImplemented:
		return "not implemented (301)"
	case StatusRateLimited:
		return "rate limited (302)"
	case StatusSessionNotFound:
		return "session not found (404)"
	default:
		return fmt.Sprintf("status %d", int32(s))
	}
}

// Error is a refused request: what the client is told. Message is fit for users and never holds
// an internal detail.
type Error struct {
	Status  Status
	Message string
	// RetryAfter is how long to wait before the same request; 0: the client decides.
	RetryAfter time.Duration
}

// Errorf makes an Error.
func Errorf(s Status, format string, args ...any) *Error {
	return &Error{Status: s, Message: fmt.Sprintf(format, args...)}
}

// Error gives status and message.
func (e *Error) Error() string { return e.Status.String() + ": " + e.Message }

// Resp is the body of the answer that says so.
func (e *Error) Resp() *pb.ErrorResp {
	ms := (e.RetryAfter + time.Millisecond - 1) / time.Millisecond // not too early
	return &pb.ErrorResp{Message: e.Message, RetryAfterMs: int64(ms)}
}

// ErrorOf is the error that an answer with this status and body says.
func ErrorOf(s Status, resp *pb.ErrorResp) *Error {
	return &Error{Status: s, Message: resp.GetMessage(), RetryAfter: time.Duration(resp.GetRetryAfterMs()) * time.Millisecond}
}

// Retryable reports whether the same request may succeed later, unchanged.
func (e *Error) Retryable() bool { return e.Status.Retryable() }
