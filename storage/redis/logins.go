package redis

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-redis/redis/v8"
)

// loginPipeline is how many logins are sent together at most: about 2 ms of Redis. A connection that hangs does not stop
// those behind it: when as many wait, or nothing has been sent for loginLate, they go over another one, up to loginPipelines.
const (
	loginPipeline  = 64
	loginPipelines = 4
	loginLate      = 100 * time.Millisecond
)

// loginPause is the shortest time from one pipeline to the next when they hold more than one login, so that they hold
// several. A login takes 50 ms anyway, until all nodes know of it.
const loginPause = 5 * time.Millisecond

// logins sends logins that come at the same time in one pipeline: after a gateway or a link has broken there are
// thousands, and each by itself costs Redis and us a write, a read and a wake-up.
type logins struct {
	client *redis.Client

	mu       sync.Mutex
	waiting  []*loginCall // guarded by mu
	underWay int          // goroutines that send; guarded by mu
	sent     time.Time    // when one of them began to send last; guarded by mu
}

// loginCall is one run of the login script.
type loginCall struct {
	ctx    context.Context
	key    string
	args   []any
	answer []string
	err    error
	done   chan struct{} // closed when answer and err are set
}

// run returns the login script's answer, or the error of ctx if that ended before the login was sent.
func (l *logins) run(ctx context.Context, key string, args ...any) ([]string, error) {
	c := &loginCall{ctx: ctx, key: key, args: args, done: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, c)
	behind := len(l.waiting) >= loginPipeline || time.Since(l.sent) > loginLate
	if l.underWay == 0 || behind && l.underWay < loginPipelines {
		l.underWay++
		go l.work(context.WithoutCancel(ctx)) // see detach
	}
	l.mu.Unlock()
	<-c.done
	return c.answer, c.err
}

// work sends what waits, until nothing does.
func (l *logins) work(ctx context.Context) {
	for {
		l.mu.Lock()
		calls := l.waiting[:min(len(l.waiting), loginPipeline)]
		if l.waiting = l.waiting[len(calls):]; len(l.waiting) == 0 {
			l.waiting = nil
		}
		if len(calls) == 0 {
			l.underWay--
			l.mu.Unlock()
			return
		}
		begun := time.Now()
		l.sent = begun
		l.mu.Unlock()
		l.send(ctx, calls)
		if len(calls) > 1 {
			time.Sleep(loginPause - time.Since(begun))
		}
	}
}

// notRun begin the errors of a script that has not begun, or has stored nothing, and may run now.
var notRun = []string{"NOSCRIPT ", "LOADING ", "READONLY "}

// send sends the calls whose callers still wait, and a second time those that were not run.
func (l *logins) send(ctx context.Context, calls []*loginCall) {
	live := make([]*loginCall, 0, len(calls))
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err == nil {
			live = append(live, c)
		}
	}
	if again := l.try(ctx, live); len(again) > 0 {
		// The first by itself, with the script, for the others too. go-redis then waits a moment for a Redis that loads its data, and
		// leaves a connection to one that has become a replica. It does neither for a pipeline, and uses that connection for ever.
		first := again[0]
		first.answer, first.err = loginScript.Eval(ctx, l.client, []string{first.key}, first.args...).StringSlice()
		l.try(ctx, again[1:])
	}
	for _, c := range calls {
		close(c.done)
	}
}

// try sends the calls in one pipeline, and returns those that were not run. go-redis sends a pipeline again that was cut off: a login
// that was stored is stored again, and told again whom it has displaced.
func (l *logins) try(ctx context.Context, calls []*loginCall) (again []*loginCall) {
	if len(calls) == 0 {
		return nil
	}
	pipe := l.client.Pipeline()
	commands := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		commands[i] = loginScript.EvalSha(ctx, pipe, []string{c.key}, c.args...)
	}
	_, _ = pipe.Exec(ctx) // its error is that of each command that has no answer, and, where it was cut off, of those before it
	for i, c := range calls {
		command := commands[i]
		if command.Val() != nil {
			command.SetErr(nil)
		}
		if err := command.Err(); err != nil && slices.ContainsFunc(notRun, func(p string) bool { return strings.HasPrefix(err.Error(), p) }) {
			again = append(again, c)
		}
		c.answer, c.err = command.StringSlice()
	}
	return again
}
