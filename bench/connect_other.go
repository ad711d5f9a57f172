//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
)

// Connect needs epoll: errors.ErrUnsupported.
func Connect(context.Context, ConnectOptions) (*ConnectResult, error) {
	return nil, fmt.Errorf("bench connect needs Linux: %w", errors.ErrUnsupported)
}
