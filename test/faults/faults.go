package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hermod-im/hermod/verify"
)

// Fault is one thing that goes wrong, and its end.
type Fault struct {
	Name string
	// On names what the fault takes hold of; faults that share a name do not overlap.
	On []string
	// Lasts is the time between the injection and the healing.
	Lasts time.Duration
	// Inject returns when the fault is in force.
	Inject func(context.Context) error
	// Heal returns when what was broken works again by itself: a process is ready, a link is open.
	Heal func(context.Context) error
}

// Row is a line of the table: faults that come one after the other.
type Row struct {
	Name   string
	Faults []Fault
	// Missing is why the row cannot be run here; nil if it can.
	Missing error
	// Hostile clients are what goes wrong in the row, which has a load of its own.
	Hostile verify.Hostile
}

// Rows are all faults.
func (s *Site) Rows() []Row {
	var rows []Row
	for _, family := range [][]Row{
		s.calm(), s.killedNodes(), s.pausedNodes(), s.rolling(), s.components(), s.links(), s.stores(),
		s.clocks(), s.disks(), s.hostile(),
	} {
		rows = append(rows, family...)
	}
	return rows
}

// calm is a row without a fault, to compare the others with.
func (s *Site) calm() []Row { return []Row{{Name: "none"}} }

// each makes the row of the same fault of several things.
func each[T any](name string, things []T, fault func(T) Fault) Row {
	row := Row{Name: name}
	for _, t := range things {
		row.Faults = append(row.Faults, fault(t))
	}
	return row
}

// hold keeps a fault in force.
func hold(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run injects, holds and heals.
func (f *Fault) run(ctx context.Context) error {
	if err := f.Inject(ctx); err != nil {
		return fmt.Errorf("inject %s: %w", f.Name, err)
	}
	held := hold(ctx, f.Lasts)
	if err := f.Heal(ctx); err != nil {
		return errors.Join(held, fmt.Errorf("heal %s: %w", f.Name, err))
	}
	return held
}
