package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hermod-im/hermod/verify"
)

// What a round of a mix consists of.
const (
	// mixFaults is the most faults of a round.
	mixFaults = 4
	// mixSpread is the time within which they begin.
	mixSpread = 10 * time.Second
)

// Mix runs rounds of faults that overlap, chosen at random by the load's seed, until it has lasted that long.
// Every round is a row of the report, named after its faults. The error says that a round could not be run or judged.
func (s *Site) Mix(ctx context.Context, o verify.Options, long time.Duration) (report verify.Report, err error) {
	var choice []Fault
	for _, row := range s.Rows() {
		if row.Missing != nil {
			s.notRun(row, &report)
			continue
		}
		choice = append(choice, row.Faults...)
	}
	load, err := s.Load(ctx, o)
	if err != nil {
		return report, err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	for begin := time.Now(); err == nil && time.Since(begin) < long; {
		err = s.round(ctx, load, pick(rng, choice))
	}
	finishing, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	end, failed := load.Finish(finishing)
	report.Run, report.Seed, report.Rows = end.Run, end.Seed, append(report.Rows, end.Rows...)
	return report, errors.Join(err, failed)
}

// planned is a fault of a round.
type planned struct {
	Fault
	after time.Duration
}

// pick chooses the faults of a round, which do not touch the same things.
func pick(rng *rand.Rand, choice []Fault) []planned {
	var out []planned
	for range mixFaults {
		f := choice[rng.IntN(len(choice))]
		if slices.ContainsFunc(out, func(p planned) bool { return p.conflicts(&f) }) {
			continue
		}
		after := time.Duration(0)
		if len(out) > 0 {
			after = time.Duration(rng.Int64N(int64(mixSpread))).Truncate(100 * time.Millisecond)
		}
		out = append(out, planned{f, after})
	}
	return out
}

// conflicts reports whether two faults take hold of the same thing.
func (f *Fault) conflicts(other *Fault) bool {
	return slices.Contains(f.On, onAll) || slices.Contains(other.On, onAll) ||
		slices.ContainsFunc(f.On, func(on string) bool { return slices.Contains(other.On, on) })
}

// round runs faults side by side.
func (s *Site) round(ctx context.Context, load *verify.Run, faults []planned) error {
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = fmt.Sprintf("%s at %.1fs", f.Name, f.after.Seconds())
	}
	name := strings.Join(names, ", ")
	s.log("%s", name)
	load.Begin(name)
	healing, cancel := context.WithTimeout(ctx, healWait)
	defer cancel()
	errs := make([]error, len(faults))
	var wg sync.WaitGroup
	for i, f := range faults {
		wg.Go(func() {
			if errs[i] = hold(healing, f.after); errs[i] == nil {
				errs[i] = f.run(healing)
			}
		})
	}
	wg.Wait()
	load.Healed()
	err := errors.Join(errs...)
	if err == nil {
		err = s.awaitReady(healing)
	}
	_, judged := s.settle(ctx, load)
	return errors.Join(err, judged)
}
