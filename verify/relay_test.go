package verify

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// greeter says its name to whoever connects, and then echoes.
func greeter(t *testing.T, name string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return "tcp://" + l.Addr().String()
}

// A relay carries bytes both ways, cuts them off, and goes elsewhere the next time.
func TestRelay(t *testing.T) {
	gateways := []string{greeter(t, "a"), greeter(t, "b")}
	var mu sync.Mutex
	next := 0
	pick := func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return gateways[next%2], nil
	}
	r, err := newRelay("tcp", pick, func() bool { return false }, rand.New(rand.NewPCG(1, 1)))
	require.NoError(t, err)
	r.mean = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx) })
	defer running.Wait()
	defer cancel()

	address, err := r.url(ctx)
	require.NoError(t, err)
	u, err := url.Parse(address)
	require.NoError(t, err)
	heard := map[string]bool{}
	for len(heard) < 3 { // "a", "b" and an echo
		c, err := net.Dial("tcp", u.Host)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, _ = io.WriteString(c, "!")
		all, err := io.ReadAll(c) // until it is cut
		var late net.Error
		if err != nil {
			require.False(t, errors.As(err, &late) && late.Timeout(), "never cut")
		}
		for _, x := range all {
			heard[string(x)] = true
		}
		require.NoError(t, c.Close())
	}
}
