package consul

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/naming"
)

const (
	// watchWait is how long Consul may hold a question to which there is no news.
	watchWait = time.Minute
	// watchSlack is how much later than that the answer may come: Consul adds up to a sixteenth to
	// spread the answers, and the network takes its time.
	watchSlack = watchWait/16 + 5*time.Second
	// watchPace is the time between two questions when there is news all the time.
	watchPace = 50 * time.Millisecond
	// watchRetryMin and watchRetryMax bound the pause after a failed question.
	watchRetryMin = 100 * time.Millisecond
	watchRetryMax = 5 * time.Second
)

// subscription is one goroutine that asks and calls.
type subscription struct {
	service string
	cancel  context.CancelFunc
	done    chan struct{}
}

// Service implements naming.Subscription.
func (s *subscription) Service() string { return s.service }

// Subscribe implements naming.Naming.
func (c *Client) Subscribe(service string, f func([]naming.Instance)) (naming.Subscription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, naming.ErrClosed
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s := &subscription{service: service, cancel: cancel, done: make(chan struct{})}
	c.wg.Go(func() {
		defer close(s.done)
		c.watch(ctx, service, f)
	})
	return s, nil
}

// Unsubscribe implements naming.Naming.
func (c *Client) Unsubscribe(sub naming.Subscription) {
	if s, ok := sub.(*subscription); ok {
		s.cancel()
		<-s.done
	}
}

// watch asks Consul about a service, each time for what has changed since, and tells f.
func (c *Client) watch(ctx context.Context, service string, f func([]naming.Instance)) {
	retry := &backoff.ExponentialBackOff{
		InitialInterval: watchRetryMin, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: watchRetryMax,
	}
	retry.Reset()
	v := newView(c.opts.Grace)
	failing := false
	var index uint64
	var wait time.Duration
	for ctx.Err() == nil {
		asked := time.Now()
		answer, next, err := c.ask(ctx, service, index, wait)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !failing {
				c.opts.Logger.Warnf("consul: cannot watch %s, keeping what is known and trying again: %v", service, err)
			}
			failing, index = true, 0
			v.interrupted()
			pause(ctx, retry.NextBackOff())
			continue
		}
		if failing {
			c.opts.Logger.Infof("consul: watching %s again", service)
		}
		failing = false
		retry.Reset()
		if index = nextIndex(index, next); index == 0 {
			v.interrupted()
		}
		var changed bool
		if changed, wait = v.update(answer, time.Now()); changed {
			f(v.list())
		}
		pause(ctx, watchPace-time.Since(asked))
	}
}

// ask waits for an answer that is newer than index, at most for the time given, 0 meaning watchWait.
func (c *Client) ask(ctx context.Context, service string, index uint64, wait time.Duration) ([]sighting, uint64, error) {
	if wait <= 0 || wait > watchWait {
		wait = watchWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait+watchSlack)
	defer cancel()
	entries, meta, err := c.query(ctx, service, &api.QueryOptions{WaitIndex: index, WaitTime: max(wait, time.Millisecond)})
	if err != nil {
		return nil, 0, err
	}
	answer := make([]sighting, len(entries))
	for n, e := range entries {
		answer[n] = sighting{Instance: c.instance(e), verdict: c.judge(e)}
	}
	return answer, meta.LastIndex, nil
}

// pause waits, or returns earlier when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
