package faults

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// metricPoll is the time between two looks at a metric.
const metricPoll = 50 * time.Millisecond

// failedCommits is how many commits the logic nodes have failed to make.
func (s *Site) failedCommits(ctx context.Context) (sum float64, err error) {
	for _, n := range s.Logics {
		_, body, err := n.Get(ctx, "/metrics")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(body) {
			value, ok := strings.CutPrefix(strings.TrimSpace(line), `hermod_logic_commits_total{outcome="failed"} `)
			if !ok {
				continue
			}
			failed, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			sum += failed
		}
	}
	return sum, nil
}

// awaitFailedCommit waits until more commits have failed than before.
func (s *Site) awaitFailedCommit(ctx context.Context, before float64) error {
	for {
		now, err := s.failedCommits(ctx)
		if err != nil {
			return err
		}
		if now > before {
			return nil
		}
		if err := hold(ctx, metricPoll); err != nil {
			return fmt.Errorf("no commit has failed: %w", err)
		}
	}
}
