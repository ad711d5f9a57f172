package verify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hermod-im/hermod/verify/oldclient"
)

// churnPause is about how often somebody joins a group or quits one.
const churnPause = 2 * time.Second

// guest is an account that joins a group during the run, and quits it, once.
type guest struct {
	account int
	topic   *topic
}

// churn lets accounts join and quit groups, until the run ends.
func (r *Run) churn() {
	rng := r.random(streamChurn)
	var waiting, here []guest
	for i := range r.topics {
		t := &r.topics[i]
		if t.group == "" || i%2 == 0 {
			continue
		}
		for _, a := range rng.Perm(len(r.accounts))[:3] {
			if !slices.Contains(t.members, a) {
				waiting = append(waiting, guest{account: a, topic: t})
			}
		}
	}
	rng.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
	for r.ctx.Err() == nil && len(waiting)+len(here) > 0 {
		pause(r.ctx, churnPause/2+time.Duration(rng.Int64N(int64(churnPause))))
		r.changing.Lock() // waits while a row settles
		switch {
		case len(waiting) > 0 && (len(here) == 0 || rng.IntN(2) == 0):
			if r.join(waiting[0]) {
				here = append(here, waiting[0])
			}
			waiting = waiting[1:]
		case len(here) > 0:
			r.quit(here[0])
			here = here[1:]
		}
		r.changing.Unlock()
	}
}

// join makes a guest a member. If it can not be found out from where on it reads, it counts as
// joining for ever: nothing is expected of it.
func (r *Run) join(g guest) bool {
	r.oracle.Joining(g.topic.number, g.account)
	var page oldclient.HistoryPage
	if !r.errand(g, func(c *oldclient.Client) (err error) {
		if err = c.Join(g.topic.group); err == nil {
			page, err = c.History(oldclient.HistoryOf{Group: g.topic.group}, 0, 1)
		}
		return err
	}) {
		return false
	}
	r.oracle.Joined(g.topic.number, g.account, page.JoinedSeq)
	return true
}

func (r *Run) quit(g guest) {
	r.oracle.Leaving(g.topic.number, g.account)
	if r.errand(g, func(c *oldclient.Client) error { return c.Quit(g.topic.group) }) {
		r.oracle.Left(g.topic.number, g.account)
	}
}

// churnWait is how long one change is tried: a row is not to wait for it for ever.
const churnWait = 10 * time.Second

// errand does it until it succeeds; false if it was refused or took too long.
func (r *Run) errand(g guest, do func(c *oldclient.Client) error) bool {
	ctx, cancel := context.WithTimeout(r.ctx, churnWait)
	defer cancel()
	for failures := 0; ctx.Err() == nil; failures++ {
		err := r.visit(ctx, g.account, "errand", do)
		var status *oldclient.StatusError
		switch {
		case err == nil:
			return true
		case errors.As(err, &status) && status.Status < 300 && failures > 0:
			return false // perhaps it was done before, unanswered
		case errors.As(err, &status) && status.Status < 300:
			r.oracle.Error("%s in group %s: %v", r.accounts[g.account].name, g.topic.group, err)
			return false
		}
		pause(ctx, jitter(failures, retryBase, retryMax))
	}
	return false
}
