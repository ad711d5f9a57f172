package redis

import (
	"context"
	"errors"
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
	key    string
	args   []any
	answer []string
	err    error
	done   chan struct{} // closed when answer and err are set
}

// run returns the login script's answer.
func (l *logins) run(ctx context.Context, key string, args ...any) ([]string, error) {
	c := &loginCall{key: key, args: args, done: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, c)
	behind := len(l.waiting) >= loginPipeline || time.Since(l.sent) > loginLate
	if l.underWay == 0 || behind && l.underWay < loginPipelines {
		l.underWay++
		go l.work(ctx)
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

// errNoAnswer stands for what the client does not say of a command whose pipeline has failed.
var errNoAnswer = errors.New("no answer")

func (l *logins) send(ctx context.Context, calls []*loginCall) {
	pipe := l.client.Pipeline()
	commands := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		commands[i] = pipe.EvalSha(ctx, loginScript.Hash(), []string{c.key}, c.args...)
	}
	_, failed := pipe.Exec(ctx)
	for i, c := range calls {
		command := commands[i]
		if err := command.Err(); err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT ") { // it was not run
			command = loginScript.Eval(ctx, l.client, []string{c.key}, c.args...)
		}
		switch {
		case command.Err() == nil && command.Val() == nil:
			c.err = errors.Join(errNoAnswer, failed)
		default:
			c.answer, c.err = command.StringSlice()
		}
		close(c.done)
	}
}
