package verify_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/verify"
)

const secret = "a secret of a test, 32 bytes long"

// standalone is a whole system in this process.
func standalone(t *testing.T) *boot.Standalone {
	t.Helper()
	c, err := boot.StandaloneConfig(t.TempDir())
	require.NoError(t, err)
	c.Secret = secret
	c.Gateway.WS, c.Gateway.TCP, c.Router.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", ""
	c.Limits.Enabled = false
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := boot.NewStandalone(t.Context(), c, &boot.Env{Log: log, Metrics: prometheus.NewRegistry(), Version: "test"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- boot.ServeWith(ctx, s, nil) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	ready, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	require.NoError(t, boot.AwaitReady(ready, s))
	return s
}

// A system without faults has nothing but zeros, whoever misbehaves.
func TestNoFaults(t *testing.T) {
	s := standalone(t)
	r, err := verify.Start(t.Context(), verify.Options{
		URLs: []string{s.Gateway.WS, s.Gateway.TCP}, Router: s.Router.URL(), Secret: []byte(secret),
		Accounts: 24, Groups: 6, Devices: 3, OldClients: 0.25, Rate: 200,
		Hostile: verify.Hostile{Drop: 0.1, Resend: 0.1, Deaf: 0.1, Flap: 0.1},
		Seed:    7, Log: t.Logf,
	})
	require.NoError(t, err)
	r.Begin("nothing")
	require.NoError(t, r.GoesOn(t.Context(), 800))
	r.Healed()
	row, err := r.Settle(t.Context())
	require.NoError(t, err)
	require.NoError(t, row.Err())
	report, err := r.Finish(t.Context())
	t.Logf("\n%s", report.Table())
	t.Logf("%+v", report.Rows)
	require.NoError(t, err)
	require.NoError(t, report.Err())
}
