package logic

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// answers gives answers after a delay, the same for all. Those that are due within a few milliseconds leave in one
// write for each gateway: a login alone would cost a timer, a goroutine and a write.
type answers struct {
	delay  time.Duration
	writes Batch

	mu      sync.Mutex
	waiting []answer // by time; guarded by mu
}

type answer struct {
	due  time.Time
	c    *Context
	body proto.Message
}

// answerGap is the shortest time between two looks at what is due.
const answerGap = 5 * time.Millisecond

func newAnswers(delay time.Duration, w Batch) *answers { return &answers{delay: delay, writes: w} }

// add answers and finishes the request after the delay, and answerGap later at most.
func (a *answers) add(c *Context, body proto.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, answer{time.Now().Add(a.delay), c, body})
	if len(a.waiting) == 1 {
		time.AfterFunc(a.delay, a.give)
	}
}

// give answers what is due, and comes again for the rest.
func (a *answers) give() {
	due := a.take()
	a.writes.Begin()
	defer a.writes.End()
	for _, d := range due {
		d.c.Respond(d.body)
		d.c.finish()
	}
}

func (a *answers) take() []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, n := time.Now(), 0
	for n < len(a.waiting) && !a.waiting[n].due.After(now) {
		n++
	}
	due := a.waiting[:n:n]
	if a.waiting = a.waiting[n:]; len(a.waiting) == 0 {
		a.waiting = nil
	} else {
		time.AfterFunc(max(answerGap, a.waiting[0].due.Sub(now)), a.give)
	}
	return due
}
