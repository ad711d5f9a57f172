//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
)

// Group needs epoll: errors.ErrUnsupported.
func Group(context.Context, GroupOptions) (*GroupResult, error) {
	return nil, fmt.Errorf("bench group needs Linux: %w", errors.ErrUnsupported)
}

// Connect needs epoll: errors.ErrUnsupported.
func Connect(context.Context, ConnectOptions) (*ConnectResult, error) {
	return nil, fmt.Errorf("bench connect needs Linux: %w", errors.ErrUnsupported)
}
