package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hermod-im/hermod/verify"
)

const (
	// breath is how long everything works before a fault and after it.
	breath = 2 * time.Second
	// settleWait is how long everybody may take to have everything, once nothing is broken any more.
	settleWait = time.Minute
	// healWait is how long a fault may take to heal: nodes start, servers recover.
	healWait = 2 * time.Minute
)

// Load starts the workload on the cluster. What o leaves open is filled in.
func (s *Site) Load(ctx context.Context, o verify.Options) (*verify.Run, error) {
	o.URLs = slices.Concat(s.GatewayURLs, s.GatewayTCPURLs)
	o.Router, o.Secret, o.DSN, o.Log = s.Lookup, []byte(s.Secret), s.DSN, s.log
	return verify.Start(ctx, o)
}

// Run runs a row's faults under a load, one after the other and again until the row has lasted that long,
// and returns what the load has seen. The error says that the row could not be run or judged.
func (s *Site) Run(ctx context.Context, load *verify.Run, row Row, long time.Duration) (verify.Row, error) {
	seen := verify.Row{Name: row.Name, Converged: true}
	for begin, i := time.Now(), 0; i < len(row.Faults) || time.Since(begin) < long; i++ {
		load.Begin(row.Name)
		var err error
		if len(row.Faults) == 0 {
			err = hold(ctx, long)
		} else {
			err = s.harm(ctx, load, row.Faults[i%len(row.Faults)])
		}
		one, judged := s.settle(ctx, load)
		add(&seen, one)
		if err := errors.Join(err, judged); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// harm breaks one thing, and lets the load go on for a moment before and after it.
func (s *Site) harm(ctx context.Context, load *verify.Run, f Fault) error {
	s.log("%s", f.Name)
	if err := hold(ctx, breath); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healWait)
	defer cancel()
	if err := f.run(ctx); err != nil {
		return err
	}
	load.Healed()
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	return hold(ctx, breath)
}

// add adds what was seen in one part of a row to the row. The longest time to converge is the row's.
func add(sum *verify.Row, part verify.Row) {
	sum.Duration += part.Duration
	for _, number := range []struct {
		sum  *int64
		part int64
	}{
		{&sum.Sent, part.Sent},
		{&sum.Acked, part.Acked},
		{&sum.Live, part.Live},
		{&sum.Synced, part.Synced},
		{&sum.Lost, part.Lost},
		{&sum.Doubled, part.Doubled},
		{&sum.Reordered, part.Reordered},
		{&sum.Gaps, part.Gaps},
		{&sum.TwoIDs, part.TwoIDs},
		{&sum.NotStored, part.NotStored},
		{&sum.WrongReaders, part.WrongReaders},
		{&sum.Errors, part.Errors},
		{&sum.Unanswered, part.Unanswered},
		{&sum.Unknown, part.Unknown},
		{&sum.Repeated, part.Repeated},
		{&sum.Overtaken, part.Overtaken},
	} {
		*number.sum += number.part
	}
	sum.Healed = sum.Healed || part.Healed
	sum.Converged = sum.Converged && (part.Converged || !part.Healed)
	sum.Converge = max(sum.Converge, part.Converge)
	sum.Unjudged = cmp.Or(sum.Unjudged, part.Unjudged)
	sum.Examples = append(sum.Examples, part.Examples...)
}

// settle waits until everybody has everything, and says what was seen.
func (s *Site) settle(ctx context.Context, load *verify.Run) (verify.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	return load.Settle(ctx)
}

// RunAll runs every row whose name is chosen, and reports them all. The error says that a row could not be run
// or judged; what was seen is in the report even then.
func (s *Site) RunAll(ctx context.Context, o verify.Options, chosen func(name string) bool, long time.Duration) (verify.Report, error) {
	report := verify.Report{Seed: o.Seed}
	var common, own []Row // the latter with loads of their own
	for _, row := range s.Rows() {
		switch {
		case !chosen(row.Name):
		case row.Missing != nil:
			s.notRun(row, &report)
		case row.Hostile != verify.Hostile{}:
			own = append(own, row)
		default:
			common = append(common, row)
		}
	}
	err := s.runUnder(ctx, o, common, long, &report)
	for _, row := range own {
		if ctx.Err() != nil {
			break
		}
		o.Hostile = row.Hostile
		err = errors.Join(err, s.runUnder(ctx, o, []Row{row}, long, &report))
	}
	return report, err
}

// runUnder runs rows under one load.
func (s *Site) runUnder(ctx context.Context, o verify.Options, rows []Row, long time.Duration, report *verify.Report) error {
	if len(rows) == 0 {
		return nil
	}
	load, err := s.Load(ctx, o)
	if err != nil {
		return err
	}
	for _, row := range rows {
		s.log("=== %s", row.Name)
		seen, failed := s.Run(ctx, load, row, long)
		s.log("%s\n%s", row.Name, verify.Report{Rows: []verify.Row{seen}}.Table())
		if trouble := seen.Err(); trouble != nil {
			s.log("TROUBLE: %v", trouble)
		}
		report.Rows = append(report.Rows, seen)
		if failed != nil {
			err = fmt.Errorf("%s: %w", row.Name, failed)
			break
		}
	}
	finishing, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	end, failed := load.Finish(finishing)
	report.Run = end.Run
	if n := len(end.Rows); n > 0 {
		last := end.Rows[n-1]
		last.Name = "all that was said under this load, read anew"
		report.Rows = append(report.Rows, last)
	}
	return errors.Join(err, failed)
}

// notRun reports a row that cannot be run here: nobody shall think that it was.
func (s *Site) notRun(row Row, report *verify.Report) {
	s.log("NOT RUN: %s: %v", row.Name, row.Missing)
	report.Rows = append(report.Rows, verify.Row{Name: fmt.Sprintf("%s: NOT RUN: %v", row.Name, row.Missing)})
}
