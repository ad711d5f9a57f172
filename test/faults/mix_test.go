package faults

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify"
)

const (
	// mixFor is how long faults are mixed, and mixLimit bounds the whole test: five minutes or so.
	mixFor   = 3*time.Minute + 30*time.Second
	mixLimit = 8 * time.Minute
	// mixRate is messages a second: what two cores carry with the race detector on both sides.
	mixRate = 100
)

// TestMix breaks a cluster under load at random. HERMOD_FAULTS_SEED, which it prints, repeats its choices.
func TestMix(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs MariaDB, Redis and Consul, and five minutes")
	}
	seed, err := SeedFrom(os.Getenv(EnvSeed))
	require.NoError(t, err)
	t.Logf("%s=%d", EnvSeed, seed)
	ctx, cancel := context.WithTimeout(context.Background(), mixLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "hermod-faults-")
	require.NoError(t, err)
	s, err := Start(ctx, dir, t.Logf)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := s.Finish(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	report, err := s.Mix(ctx, verify.Options{
		Seed: seed, Rate: mixRate, OldClients: 0.1, Hostile: verify.Hostile{Drop: 0.05, Resend: 0.05, Deaf: 0.05, Flap: 0.02},
	}, mixFor)
	t.Logf("\n%s", report.Table())
	require.NoError(t, err)
	require.NoError(t, report.Err())
}
