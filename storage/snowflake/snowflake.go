// Package snowflake makes message and conversation ids: 41 bits of milliseconds, 10 bits of node
// number, 12 bits of step, as bwmarrin/snowflake does, with what that library leaves open: an id is
// above a floor that the caller gives, and it is issued only while the node number is ours (I10).
package snowflake

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/bwmarrin/snowflake"

	"github.com/hermod-im/hermod/storage"
)

// The layout of an id. These are the library's defaults: New refuses to work when something has
// changed its globals, because ids of two layouts would collide.
const (
	// Epoch is the Unix time of timestamp 0, in milliseconds. The 41 bits last until 2080.
	Epoch     int64 = 1288834974657
	nodeBits        = 10
	stepBits        = 12
	timeShift       = nodeBits + stepBits
	maxStep   int64 = 1<<stepBits - 1
	// MaxNode is the largest node number.
	MaxNode int64 = 1<<nodeBits - 1
)

// Grant is the right to issue ids with a node number and timestamps in (After, Until], in Unix milliseconds.
type Grant struct {
	Number int64
	// After is the time up to which an earlier holder of the number may have issued ids.
	After int64
	// Until is the time up to which the lease has promised that we may: its persisted high mark.
	Until int64
}

// clockGrain is below what tells another clock from the host's, read a moment before.
const clockGrain = 10 * time.Second

// Lease holds a node number. Safe for concurrent use.
type Lease interface {
	// Grant returns what may be issued now, without blocking. Its error wraps storage.ErrNoLease.
	Grant() (Grant, error)
	// Extend raises the grant's Until to at least the given Unix millisecond, which may lie ahead of
	// every clock, and returns the new grant. It may block for a few seconds.
	Extend(until int64) (Grant, error)
}

// Generator is storage.IDs. Safe for concurrent use.
type Generator struct {
	lease Lease
	// clock makes the function that generates ids in the normal case; tests replace it.
	clock func(number int64) (func() int64, error)

	mu       sync.Mutex
	grant    Grant        // that generate was made for
	generate func() int64 // nil before the first id
	last     int64
}

var _ storage.IDs = (*Generator)(nil)

// New returns a generator of ids whose node number the lease gives.
func New(lease Lease) (*Generator, error) { return NewAt(lease, time.Now) }

// NewAt is New with the wall clock that now reads. As New does, it reads the clock when it gets a
// node number and follows the monotonic clock from there.
func NewAt(lease Lease, now func() time.Time) (*Generator, error) {
	if snowflake.Epoch != Epoch || snowflake.NodeBits != nodeBits || snowflake.StepBits != stepBits {
		return nil, errors.New("snowflake: the library's epoch or bits have been changed")
	}
	return &Generator{lease: lease, clock: libraryClock(now)}, nil
}

// libraryClock generates with bwmarrin/snowflake, which reads the host's clock and then follows the
// monotonic one: steps of the wall clock do not reach it. Where now is another clock than the host's, its
// distance is added to the ids.
func libraryClock(now func() time.Time) func(number int64) (func() int64, error) {
	return func(number int64) (func() int64, error) {
		node, err := snowflake.NewNode(number)
		if err != nil {
			return nil, fmt.Errorf("snowflake: %w", err)
		}
		shift := now().Round(0).Sub(time.Now().Round(0)).Round(clockGrain).Milliseconds() << timeShift
		return func() int64 { return int64(node.Generate()) + shift }, nil
	}
}

// Next returns the id of the current time, or the successor of floor or of the last id with our
// node number where the clock is behind them. It blocks when the lease must be extended first,
// which only a floor ahead of every clock needs.
func (g *Generator) Next(floor int64) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	grant, err := g.lease.Grant()
	if err != nil {
		return 0, err
	}
	// Twice: an extension may come back with another number, when the lease was lost on the way.
	for range 2 {
		if err := g.adopt(grant); err != nil {
			return 0, err
		}
		id := g.generate()
		if low := max(floor, g.last); id <= low {
			if id, err = successor(low, grant.Number); err != nil {
				return 0, err
			}
		}
		if Millis(id) <= grant.Until {
			g.last = id
			return id, nil
		}
		if grant, err = g.lease.Extend(Millis(id)); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("the lease does not reach the id: %w", storage.ErrNoLease)
}

// adopt prepares for a grant whose number or start has changed. Caller holds mu.
func (g *Generator) adopt(grant Grant) error {
	if g.generate == nil || grant.Number != g.grant.Number {
		generate, err := g.clock(grant.Number)
		if err != nil {
			return err
		}
		g.generate = generate
	}
	// Whatever the clock says, nothing up to After is issued again.
	if grant.After >= Epoch {
		g.last = max(g.last, compose(grant.After, MaxNode, maxStep))
	}
	g.grant = grant
	return nil
}

// successor is the smallest id above low that carries the node number.
func successor(low, number int64) (int64, error) {
	low = max(low, 0)
	millis, node, step := Millis(low), Node(low), low&maxStep
	switch {
	case node < number:
		step = 0
	case node == number && step < maxStep:
		step++
	default:
		millis, step = millis+1, 0
	}
	if millis-Epoch > math.MaxInt64>>timeShift {
		return 0, errors.New("snowflake: no id is above the floor")
	}
	return compose(millis, number, step), nil
}

func compose(millis, node, step int64) int64 {
	return (millis-Epoch)<<timeShift | node<<stepBits | step
}

// Millis is the time of an id, in Unix milliseconds.
func Millis(id int64) int64 { return id>>timeShift + Epoch }

// Node is the node number of an id.
func Node(id int64) int64 { return id >> stepBits & MaxNode }

// Time is the time of an id.
func Time(id int64) time.Time { return time.UnixMilli(Millis(id)) }

// Fixed is a lease of a number that the operator has given to this node alone. It never ends. It
// remembers nothing: after a restart with a clock that has stepped back, only the floor keeps ids
// from repeating, so draw one above everything stored first (storage/sql.Store.PrimeIDs).
type Fixed int64

// Grant returns the number, for all times.
func (f Fixed) Grant() (Grant, error) {
	if f < 0 || int64(f) > MaxNode {
		return Grant{}, fmt.Errorf("node number %d is not in 0–%d: %w", int64(f), MaxNode, storage.ErrNoLease)
	}
	return Grant{Number: int64(f), Until: math.MaxInt64}, nil
}

// Extend returns the same.
func (f Fixed) Extend(int64) (Grant, error) { return f.Grant() }
