package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

const (
	// settleWait bounds Settle and Finish where their context has no end.
	settleWait = time.Minute
	// auditWait is the least time for reading what is stored.
	auditWait = 15 * time.Second
	// auditPause is between two attempts at that.
	auditPause = 200 * time.Millisecond
	// raiseWait is how long a row's goal may be raised after Healed by what the database knows.
	raiseWait = 5 * time.Second
	// behindWait is how often it is said who is behind.
	behindWait = 3 * time.Second
)

// row is the present row.
type row struct {
	name  string
	began time.Time
	// converging is nil before Healed.
	converging *converging
}

// converging measures the time until every steady device has everything.
type converging struct {
	goal   *oracle.Goal
	cancel context.CancelFunc
	took   chan time.Duration // gets one value, if that ever is
}

// Begin gives the present row its name: a fault is about to happen. A row counts everything since
// the one before was settled.
func (r *Run) Begin(name string) {
	r.row.name = name
	r.o.Log("%s", name)
}

// Healed says that the fault is over: convergence is measured from here. What devices must have is
// what was known to be stored by then: by answers and deliveries, and by the database if there is a DSN.
func (r *Run) Healed() {
	if r.row.converging != nil {
		r.row.converging.end()
	}
	ctx, cancel := context.WithCancel(r.ctx)
	c := &converging{goal: r.oracle.NewGoal(true), cancel: cancel, took: make(chan time.Duration, 1)}
	r.row.converging = c
	began := time.Now()
	raised := make(chan struct{})
	r.working.Go(func() {
		defer close(raised)
		r.raise(ctx, c.goal)
	})
	r.working.Go(func() { c.wait(ctx, began, raised) })
}

// raise moves a goal on to what the database has.
func (r *Run) raise(ctx context.Context, g *oracle.Goal) {
	ctx, cancel := context.WithTimeout(ctx, raiseWait)
	defer cancel()
	for ctx.Err() == nil {
		last, err := r.ledger.last(ctx)
		if err == nil {
			for conversation, seq := range last {
				g.Raise(conversation, seq)
			}
			return
		}
		pause(ctx, auditPause)
	}
}

func (c *converging) wait(ctx context.Context, began time.Time, raised <-chan struct{}) {
	for {
		done := c.goal.Done()
		if !await(ctx, done) {
			return
		}
		took := time.Since(began)
		if !await(ctx, raised) {
			return
		}
		if c.goal.Done() == done { // raising it has not moved it on
			c.took <- took
			return
		}
	}
}

// result is how long it took; false if it has not happened. If everybody has everything it has, though
// who measures it may not have noticed yet.
func (c *converging) result(everything bool) (time.Duration, bool) {
	if everything {
		noticed := time.NewTimer(raiseWait)
		defer noticed.Stop()
		select {
		case took := <-c.took:
			return took, true
		case <-noticed.C:
			return 0, false
		}
	}
	select {
	case took := <-c.took:
		return took, true
	default:
		return 0, false
	}
}

func (c *converging) end() {
	c.cancel()
	c.goal.Drop()
}

// await waits until done is closed, or reports false when ctx ends.
func await(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// Settle pauses sending and misbehaviour, waits until every device has everything that is stored,
// judges, and goes on. When ctx ends before (a minute, if it has no end), what is missing is lost.
// The error says that the row could not be judged, because what is stored could not be learned; it
// is also the row's.
func (r *Run) Settle(ctx context.Context) (Row, error) {
	r.quiet()
	defer r.resume()
	return r.settle(ctx, false)
}

// Finish is Settle for good: a fresh device of every account syncs everything from nothing, and all
// that was ever answered must be stored. Nothing of the run is left on line.
func (r *Run) Finish(ctx context.Context) (Report, error) {
	if r.ended {
		return Report{}, errors.New("verify: the run has ended")
	}
	r.ended = true
	r.quiet()
	if r.row.name == "" {
		r.row.name = "end"
	}
	_, err := r.settle(ctx, true)
	r.resume()
	r.stop()
	return Report{Run: r.Name, Seed: r.Seed, Rows: r.rows}, err
}

// quiet lets nobody begin anything.
func (r *Run) quiet() {
	r.calm.Store(true)
	r.speaking.Lock()
	r.changing.Lock()
}

func (r *Run) resume() {
	r.changing.Unlock()
	r.speaking.Unlock()
	r.calm.Store(false)
}

// settle ends the row.
func (r *Run) settle(ctx context.Context, whole bool) (Row, error) {
	ctx, cancel := bounded(ctx, settleWait)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	began := time.Now()
	await(ctx, r.oracle.Idle())
	idle := time.Since(began)
	err := r.audit(ctx, whole)
	if whole {
		err = errors.Join(err, r.openFresh(ctx))
	}
	audited := time.Since(began)
	goal := r.oracle.NewGoal(false)
	defer goal.Drop()
	reached := r.awaitGoal(ctx, goal)
	r.o.Log("settled in %.1f s: sends %.1f s, audit %.1f s, all is there: %v", time.Since(began).Seconds(), idle.Seconds(), (audited - idle).Seconds(), reached)
	counts, examples := r.oracle.Judge(goal)
	row := newRow(r.row.name, counts, examples)
	row.Duration = time.Since(r.row.began)
	if c := r.row.converging; c != nil {
		row.Healed = true
		row.Converge, row.Converged = c.result(reached)
		c.end()
	}
	if err != nil {
		row.Unjudged = err.Error()
	}
	r.rows = append(r.rows, row)
	r.row.name, r.row.began, r.row.converging = "", time.Now(), nil
	return row, err
}

// awaitGoal waits for a goal, and says who is behind while that takes long.
func (r *Run) awaitGoal(ctx context.Context, g *oracle.Goal) bool {
	for {
		some, cancel := context.WithTimeout(ctx, behindWait)
		reached := await(some, g.Done())
		cancel()
		if reached || ctx.Err() != nil {
			return reached
		}
		devices, lacks := g.Behind(3)
		r.o.Log("%d devices are behind: %s", devices, strings.Join(lacks, "; "))
	}
}

// audit reads what is stored, again and again if need be.
func (r *Run) audit(ctx context.Context, whole bool) error {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(r.ctx, max(auditWait, time.Until(deadline)))
	defer cancel()
	for {
		a := r.oracle.NewAudit(whole)
		err := r.ledger.rows(ctx, a.From(), a.Stored)
		if err == nil {
			a.Done()
			return nil
		}
		if pause(ctx, auditPause); ctx.Err() != nil {
			return fmt.Errorf("verify: what is stored could not be read: %w", err)
		}
		r.o.Log("reading what is stored: %v", err)
	}
}

// openFresh brings a new device of each account on line, which asks for everything once.
func (r *Run) openFresh(ctx context.Context) error {
	return parallel(len(r.accounts), 8, func(i int) error {
		d := &oracle.Device{Account: i, Name: "fresh"}
		r.oracle.Open(d)
		for ctx.Err() == nil {
			// A sync that breaks begins again from nothing, and is shown when it is complete.
			shown, err := r.syncAll(ctx, i)
			if err == nil {
				for _, m := range shown {
					r.oracle.Delivered(d, m)
				}
				return nil
			}
			r.o.Log("fresh device of %s: %v", r.accounts[i].name, err)
			pause(ctx, auditPause)
		}
		return fmt.Errorf("verify: a fresh device of %s: %w", r.accounts[i].name, ctx.Err())
	})
}

func (r *Run) syncAll(ctx context.Context, account int) (list []oracle.Delivery, err error) {
	err = r.visit(ctx, account, "fresh", func(c *oldclient.Client) error {
		cursors := map[string]int64{}
		for {
			page, err := c.Sync(cursors, 0)
			if err != nil {
				return err
			}
			for _, d := range page.Conversations {
				cursors[d.Conversation] = max(cursors[d.Conversation], d.JoinedSeq)
				for _, m := range d.Messages {
					cursors[d.Conversation] = m.Seq
					list = append(list, oracle.Delivery{
						Conversation: d.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID, Synced: true,
					})
				}
			}
			if !page.More {
				return nil
			}
		}
	})
	return list, err
}
