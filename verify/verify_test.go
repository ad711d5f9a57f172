package verify_test

import (
	"context"
	"database/sql"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/verify"
)

const secret = "a secret of a test, 32 bytes long"

// standalone is a whole system in this process, with its files in a folder.
func standalone(t *testing.T, data string) *boot.Standalone {
	t.Helper()
	c, err := boot.StandaloneConfig(data)
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
	s := standalone(t, t.TempDir())
	r, err := verify.Start(t.Context(), verify.Options{
		URLs: []string{s.Gateway.WS, s.Gateway.TCP}, Router: s.Router.URL(), Secret: []byte(secret),
		Accounts: 24, Groups: 6, Devices: 3, OldClients: 0.25, Rate: 200,
		Hostile: verify.Hostile{Drop: 0.2, Resend: 0.1, Deaf: 0.1, Flap: 0.1},
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

// A system that loses what it has acknowledged is found out.
func TestDatabaseThatForgets(t *testing.T) {
	data := t.TempDir()
	s := standalone(t, data)
	r, err := verify.Start(t.Context(), verify.Options{
		URLs: []string{s.Gateway.WS}, Secret: []byte(secret), Accounts: 6, Groups: 2, Devices: 2, Rate: 100, Seed: 1, Log: t.Logf,
	})
	require.NoError(t, err)
	require.NoError(t, r.GoesOn(t.Context(), 100))
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "hermod.db")+"?_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	defer db.Close() //nolint:errcheck // done with it
	result, err := db.ExecContext(t.Context(), "DELETE FROM messages WHERE seq = 2")
	require.NoError(t, err)
	forgotten, err := result.RowsAffected()
	require.NoError(t, err)
	require.Positive(t, forgotten)
	row, err := r.Settle(t.Context())
	require.NoError(t, err)
	require.Equal(t, forgotten, row.NotStored)
	require.ErrorContains(t, row.Err(), "not stored")

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // for what will never come
	defer cancel()
	report, err := r.Finish(ctx)
	require.NoError(t, err)
	last := report.Rows[len(report.Rows)-1]
	require.GreaterOrEqual(t, last.Lost, 2*forgotten, "new devices of two accounts at least lack each")
	require.Error(t, report.Err())
}
