package oldclient

import "fmt"

// ProtocolError is something that no server may send.
type ProtocolError struct{ err error }

// Error says what it was.
func (e *ProtocolError) Error() string { return e.err.Error() }

// Unwrap is the cause.
func (e *ProtocolError) Unwrap() error { return e.err }

func against(format string, args ...any) error {
	return &ProtocolError{fmt.Errorf(format, args...)}
}
