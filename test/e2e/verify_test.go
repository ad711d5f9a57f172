package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify"
)

// An operator's first look at a system: hermod verify, with the limits that a system has by default.
func TestVerifyCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t)
	size := []string{"verify", "--data", s.Data, "--accounts", "12", "--groups", "3", "--rate", "50", "--duration", "1s"}
	out, log, status := hermod(t, append(size, "--router", s.HTTP, "--rows", "2")...)
	require.Zero(t, status, log)
	require.Equal(t, 2+2+2, strings.Count(out, "\n"), out) // run and seed; head; two rows
	require.Contains(t, out, "| row 2 |")
	require.Contains(t, log, "seed")

	out, log, status = hermod(t, append(size, "--url", s.WS, "--json", "--quiet", "--seed", "7")...)
	require.Zero(t, status, log)
	require.Empty(t, log)
	var report verify.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	require.EqualValues(t, 7, report.Seed)
	require.Len(t, report.Rows, 1)
	require.Positive(t, report.Rows[0].Acked)
	require.NoError(t, report.Err())

	_, log, status = hermod(t, append(size, "--router", s.HTTP, "--secret", "another one, and at least 32 bytes long")...)
	require.Equal(t, 1, status)
	require.Contains(t, log, "is this the cluster's secret?")
}
