//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Group needs epoll: errors.ErrUnsupported.
func Group(context.Context, GroupOptions) (*GroupResult, error) {
	return nil, fmt.Errorf("bench group needs Linux: %w", errors.ErrUnsupported)
}

// Connect needs epoll: errors.ErrUnsupported.
func Connect(context.Context, ConnectOptions) (*ConnectResult, error) {
	return nil, fmt.Errorf("bench connect needs Linux: %w", errors.ErrUnsupported)
}

// ConnectWorker needs epoll: errors.ErrUnsupported.
func ConnectWorker(context.Context, io.Reader, io.Writer) error {
	return fmt.Errorf("bench connect needs Linux: %w", errors.ErrUnsupported)
}

// Floor needs epoll: errors.ErrUnsupported.
func Floor(context.Context, FloorOptions) (*FloorResult, error) {
	return nil, fmt.Errorf("bench floor needs Linux: %w", errors.ErrUnsupported)
}

// FloorRelay needs epoll: errors.ErrUnsupported.
func FloorRelay(io.Reader, io.Writer) error {
	return fmt.Errorf("bench floor needs Linux: %w", errors.ErrUnsupported)
}
