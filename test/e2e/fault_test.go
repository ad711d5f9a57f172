package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/wire"
)

// Redis emptied while running: the live sessions are back within a lease, and pushes reach them.
func testRedisEmptied(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "emptied-alice", modern("d"))
	bob := c.user(t, c.GatewayURLs[1], "emptied-bob", modern("d"))
	redisCommand(t, c.Redis.Addr, "FLUSHALL")
	eventually(t, wait, "the sessions are stored again", func() bool {
		return len(c.found(t, "emptied-alice")) == 1 && len(c.found(t, "emptied-bob")) == 1
	})
	// Whatever was pushed meanwhile reached nobody, so there may be a hint to sync first (I4).
	bob.skipHints = true
	alice.say("emptied-bob", "are you there?")
	bob.hears(wire.CmdUserTalk, "emptied-bob", "emptied-alice", "are you there?")
}

// The sessions of a killed gateway end with its lease; what is said meanwhile waits for the next login.
func testGatewayKilled(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[1], "killed-alice", legacy())
	c.user(t, c.GatewayURLs[0], "killed-bob", legacy())
	require.Len(t, c.found(t, "killed-bob"), 1)

	require.NoError(t, c.Gateways[0].Kill())
	alice.say("killed-bob", "while you are away")
	begin := time.Now()
	eventually(t, wait, "the session ends", func() bool { return len(c.found(t, "killed-bob")) == 0 })
	require.Less(t, time.Since(begin), 2*lease, "with the lease, and the second that its end may be cached")

	back := c.user(t, c.GatewayURLs[1], "killed-bob", legacy())
	alice.say("killed-bob", "welcome back")
	back.hears(wire.CmdUserTalk, "killed-bob", "killed-alice", "welcome back")
	require.NoError(t, c.Gateways[0].Start(within(t)))
}

// conversation is a light load through the SDK with an oracle outside of it: what was said with
// success must be heard once and in order by the other side, whatever is restarted meanwhile.
type conversation struct {
	from, to *client.Client
	stop     context.CancelFunc
	done     sync.WaitGroup

	mu    sync.Mutex
	said  []string // stored, in the order of sending
	heard []string // in the order of delivery
	errs  []error
}

func startConversation(t *testing.T, c *site, name string) *conversation {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	v := &conversation{stop: stop}
	join := func(account string, hear func(client.Message)) *client.Client {
		k, err := client.New(client.Options{
			Router:     c.RouterURL,
			Token:      client.StaticToken(c.token(t, account)),
			Device:     "d",
			OnMessage:  hear,
			BackoffMax: time.Second,
			AnswerWait: 2 * time.Second,
		})
		require.NoError(t, err)
		v.done.Go(func() { _ = k.Run(ctx) }) // it ends with ctx
		require.NoError(t, k.Online(within(t)))
		return k
	}
	v.to = join(name+"-to", func(m client.Message) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.heard = append(v.heard, m.Body)
	})
	v.from = join(name+"-from", nil)
	v.done.Go(func() { v.talk(ctx, name) })
	t.Cleanup(func() { stop(); v.done.Wait() })
	return v
}

// talk says one thing after the other until ctx ends. What ctx cuts off is not counted.
func (v *conversation) talk(ctx context.Context, name string) {
	for n := 0; ctx.Err() == nil; n++ {
		body := name + " " + strconv.Itoa(n)
		_, err := v.from.Talk(ctx, name+"-to", client.Text(body))
		v.mu.Lock()
		switch {
		case err == nil:
			v.said = append(v.said, body)
		case ctx.Err() == nil && !errors.Is(err, context.Canceled):
			v.errs = append(v.errs, fmt.Errorf("%s: %w", body, err))
		}
		v.mu.Unlock()
	}
}

// count is how much has been said and heard.
func (v *conversation) count() (said, heard int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.said), len(v.heard)
}

// goesOn waits until more is said and heard than before.
func (v *conversation) goesOn(t *testing.T, after string) {
	t.Helper()
	said, heard := v.count()
	eventually(t, wait, "the conversation goes on after: "+after, func() bool {
		s, h := v.count()
		return s >= said+5 && h >= heard+5
	})
}

// check ends the conversation and compares: nothing lost, doubled or out of order.
func (v *conversation) check(t *testing.T) {
	t.Helper()
	eventually(t, wait, "all that was said is heard", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.said) > 0 && slices.Contains(v.heard, v.said[len(v.said)-1])
	})
	v.stop()
	v.done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	require.Empty(t, v.errs, "no send has failed for good")
	// What was cut off at the end may have been stored, and heard, too.
	require.GreaterOrEqual(t, len(v.heard), len(v.said))
	require.LessOrEqual(t, len(v.heard), len(v.said)+1)
	require.Equal(t, v.said, v.heard[:len(v.said)])
}

// Every service and every component is restarted under a light conversation.
func testRestarts(t *testing.T, c *site) {
	v := startConversation(t, c, "restarts")
	v.goesOn(t, "the start")
	restart := func(what string, down, up func() error) {
		t.Helper()
		require.NoError(t, down(), what)
		require.NoError(t, up(), what)
		v.goesOn(t, what)
	}
	var nodes []*cluster.Node
	nodes = append(append(nodes, c.Gateways...), c.Logics...)
	for _, n := range append(nodes, c.Router) {
		start := func() error { return n.Start(within(t)) }
		restart(n.Name+" stopped", n.Stop, start)
		restart(n.Name+" killed", n.Kill, start)
	}
	restart("Redis", c.Redis.Kill, func() error { return c.Redis.Restart(within(t)) })
	restart("MariaDB", c.MySQL.Kill, func() error { return c.MySQL.Restart(within(t)) })
	require.NoError(t, c.Consul.Kill())
	v.goesOn(t, "Consul killed: who knows each other needs no registry")
	require.NoError(t, c.Consul.Restart(within(t)))
	for _, n := range c.Nodes() {
		require.NoError(t, n.AwaitReady(within(t)))
	}
	v.goesOn(t, "Consul")
	v.check(t)
}

// A logic node that stops hands over: no client sees an error and no connection closes.
func testHandover(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "handover-alice", modern("d"))
	bob := c.user(t, c.GatewayURLs[1], "handover-bob", modern("d"))
	stopped := make(chan error, 1)
	go func() { stopped <- c.Logics[0].Stop() }()
	for n := 0; ; n++ {
		body := strconv.Itoa(n)
		alice.say("handover-bob", body)
		bob.hears(wire.CmdUserTalk, "handover-bob", "handover-alice", body)
		select {
		case err := <-stopped:
			require.NoError(t, err)
			alice.say("handover-bob", "after")
			bob.hears(wire.CmdUserTalk, "handover-bob", "handover-alice", "after")
			require.NoError(t, c.Logics[0].Start(within(t)))
			return
		default:
		}
	}
}

// A gateway that stops closes its clients with "going away".
func testGoingAway(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "away-alice", legacy())
	require.NoError(t, c.Gateways[0].Stop())
	alice.closed(im.ReasonGoingAway)
	require.Empty(t, c.found(t, "away-alice"), "its sessions have ended with it")
	require.NoError(t, c.Gateways[0].Start(within(t)))
}
