package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// Redis emptied while running: the live sessions are back within a lease, and since pushes were lost
// meanwhile every client learns that it must sync (I4): by a hint, or by its connection's end.
func testRedisEmptied(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "emptied-alice", modern("d"))
	bob := c.user(t, c.GatewayTCPURLs[1], "emptied-bob", modern("d"))
	carol := c.user(t, c.GatewayURLs[1], "emptied-carol", legacy())

	begin := time.Now()
	require.NoError(t, redisCommand(t, c.Redis.Addr, "FLUSHALL"))
	for _, u := range []*user{alice, bob} {
		eventually(t, wait, "the session is stored again", func() bool {
			found := c.found(t, u.account)
			return len(found) == 1 && found[0].Channel == u.channel
		})
	}
	require.Less(t, time.Since(begin), lease)
	alice.hinted()
	bob.hinted()
	carol.closed(im.ReasonSyncNeeded)

	alice.say(bob.account, "are you there?")
	bob.hears(wire.CmdUserTalk, bob.account, alice.account, "are you there?")
}

// Redis restarted from a snapshot has the leases and not the sessions of who came since. The leases alone
// said that all was well, and those clients got no pushes until they came back.
func testRedisGoesBack(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "back-alice", modern("d"))
	require.NoError(t, redisCommand(t, c.Redis.Addr, "SAVE"))
	bob := c.user(t, c.GatewayURLs[0], "back-bob", modern("d"))
	carol := c.user(t, c.GatewayTCPURLs[0], "back-carol", legacy())
	require.NoError(t, c.Redis.Kill())
	require.NoError(t, c.Redis.Restart(within(t)))

	begin := time.Now()
	eventually(t, wait, "the session is stored again", func() bool {
		found := c.found(t, bob.account)
		return len(found) == 1 && found[0].Channel == bob.channel
	})
	require.Less(t, time.Since(begin), lease)
	alice.hinted()
	bob.hinted()
	carol.closed(im.ReasonSyncNeeded)
	alice.say(bob.account, "are you there?")
	bob.hears(wire.CmdUserTalk, bob.account, alice.account, "are you there?")
}

// Logins that a frozen logic node had been given are done when it goes on. Their clients have come back
// meanwhile, at the same gateway or, where they say which connection is the newer, at another: they
// were kicked by their own former logins.
func testLateLogins(t *testing.T, c *site) {
	node := c.Logics[0]
	const clients = 16 // about half of whose connections meet the frozen node
	// Those that came, not those that are open: connections of earlier tests may still be ending.
	accepted := func() float64 { return metric(t, "hermod_gateway_connections_accepted_total", "", c.Gateways[0]) }
	before := accepted()
	connect := func(i, gateway int, attempt uint64) (*user, <-chan *wire.LogicPkt) {
		req := modern("d")
		req.Token = c.token(t, fmt.Sprint("frozen-", i))
		if i%2 == 1 {
			req.Instance, req.Attempt = "run", attempt
		}
		d, err := dial(c.GatewayURLs[gateway])
		require.NoError(t, err)
		t.Cleanup(d.hangUp)
		answer, err := d.start(wire.CmdSignIn, "", req)
		require.NoError(t, err)
		return &user{d, t}, answer
	}

	require.NoError(t, node.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { _ = node.Signal(syscall.SIGCONT) })
	for i := range clients {
		connect(i, 0, 1)
	}
	eventually(t, wait, "the gateway has all first logins", func() bool { return accepted() >= before+clients })
	back, answers := make([]*user, clients), make([]<-chan *wire.LogicPkt, clients)
	for i := range back {
		back[i], answers[i] = connect(i, i%2, 2)
	}
	eventually(t, wait, "the other node has done its part", func() bool {
		done := 0
		for _, answer := range answers {
			done += len(answer)
		}
		return done > 0
	})
	require.NoError(t, node.Signal(syscall.SIGCONT))
	for i, answer := range answers {
		p, ok := <-answer
		require.True(t, ok)
		require.Equal(t, wire.StatusSuccess, p.Status, "the login of frozen-%d", i)
	}

	bob := c.user(t, c.GatewayTCPURLs[1], "frozen-bob", modern("d"))
	for i, u := range back {
		u.account = fmt.Sprint("frozen-", i)
		eventually(t, wait, u.account+" is reached", func() bool { // unless the link is given up: then it is hinted
			bob.say(u.account, "still there?")
			soon, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for {
				p, err := u.next(soon)
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded, "the connection of %s", u.account)
					return false
				}
				require.NotEqual(t, wire.CmdSignIn, p.Command, "%s was kicked", u.account)
				if p.Command == wire.CmdUserTalk {
					return true
				}
			}
		})
		require.Len(t, c.found(t, u.account), 1)
	}
}

// hinted takes the next push, which must be sync.hint.
func (u *user) hinted() {
	u.t.Helper()
	p, err := u.next(within(u.t))
	require.NoError(u.t, err, "%s waits for a hint", u.account)
	require.Equal(u.t, wire.CmdSyncHint, p.Command, "push to %s", u.account)
}

// The sessions of a killed gateway end within its lease, and the router tells nobody to go there any
// more. What is said meanwhile waits for the next login, at another gateway, where pushes come again.
func testGatewayKilled(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[1], "killed-alice", legacy())
	bob := c.user(t, c.GatewayURLs[0], "killed-bob", modern("phone"))
	carol := c.user(t, c.GatewayTCPURLs[0], "killed-carol", legacy())
	require.Len(t, c.found(t, bob.account), 1)

	begin := time.Now()
	require.NoError(t, c.Gateways[0].Kill())
	lost := []*pb.MessageResp{alice.say(bob.account, "in your absence"), alice.say(carol.account, "in your absence")}
	for _, u := range []*user{bob, carol} {
		require.Error(t, u.await(within(t), func() bool { return false }), "its connection has ended")
		eventually(t, wait, "the session ends", func() bool { return len(c.found(t, u.account)) == 0 })
	}
	// A renewal before the kill, and a second in which another node's look at the lease is remembered.
	require.Less(t, time.Since(begin), lease+time.Second)
	eventually(t, wait, "the router knows", func() bool {
		_, domains, err := lookup(within(t), c.RouterURL, c.token(t, bob.account), "")
		return err == nil && slices.Equal(domains, c.GatewayURLs[1:])
	})

	bob = c.user(t, c.GatewayTCPURLs[1], bob.account, modern("phone"))
	carol = c.user(t, c.GatewayURLs[1], carol.account, legacy())
	news := bob.sync(nil, 0).Conversations
	require.Len(t, news, 1)
	require.Equal(t, lost[0].MessageId, news[0].Messages[0].MessageId)
	var index pb.MessageIndexResp
	carol.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{}, &index)
	require.Len(t, index.Indexes, 1)
	require.Equal(t, lost[1].MessageId, index.Indexes[0].MessageId)
	for _, u := range []*user{bob, carol} {
		alice.say(u.account, "welcome back")
		u.hears(wire.CmdUserTalk, u.account, alice.account, "welcome back")
	}
	require.NoError(t, c.Gateways[0].Start(within(t)))
}

// conversation is a light load through the SDK with an oracle outside of it: what was said with
// success must be heard once and in order by the other side, whatever is restarted meanwhile.
type conversation struct {
	from, to *client.Client
	silence  func() // ends talking
	stop     func() // ends everything

	mu    sync.Mutex
	said  []string // stored, in the order of sending
	heard []string // in the order of delivery
	errs  []error
}

func startConversation(t *testing.T, c *site, name string) *conversation {
	t.Helper()
	online, leave := context.WithCancel(context.Background())
	talking, silence := context.WithCancel(context.Background())
	var clients, talk sync.WaitGroup
	v := &conversation{
		silence: func() { silence(); talk.Wait() },
		stop:    func() { silence(); leave(); talk.Wait(); clients.Wait() },
	}
	t.Cleanup(v.stop)
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
		clients.Go(func() { _ = k.Run(online) }) // it ends with online
		require.NoError(t, k.Online(within(t)))
		return k
	}
	v.to = join(name+"-to", func(m client.Message) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.heard = append(v.heard, m.Body)
	})
	v.from = join(name+"-from", nil)
	talk.Go(func() { v.talk(talking, online, name) })
	return v
}

// talk says one thing after the other until talking ends, and finishes the last.
func (v *conversation) talk(talking, online context.Context, name string) {
	next := time.NewTicker(pace)
	defer next.Stop()
	for n := 0; talking.Err() == nil; n++ {
		body := name + " " + strconv.Itoa(n)
		_, err := v.from.Talk(online, name+"-to", client.Text(body))
		v.mu.Lock()
		if v.said = append(v.said, body); err != nil {
			v.errs = append(v.errs, fmt.Errorf("%s: %w", body, err))
		}
		v.mu.Unlock()
		select {
		case <-next.C:
		case <-talking.Done():
		}
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
	v.silence()
	eventually(t, wait, "all that was said is heard", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.heard) >= len(v.said)
	})
	v.stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	require.Empty(t, v.errs, "no send has failed for good")
	require.Equal(t, v.said, v.heard)
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

// A gateway that stops closes its clients with "going away", and with it their sessions end and the
// router's answers change at once: nothing waits for a lease.
func testGoingAway(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "away-alice", legacy())
	bob := c.user(t, c.GatewayTCPURLs[0], "away-bob", modern("d"))
	require.NoError(t, c.Gateways[0].Stop())
	for _, u := range []*user{alice, bob} {
		u.closed(im.ReasonGoingAway)
		require.Empty(t, c.found(t, u.account), "its sessions have ended with it")
	}
	eventually(t, wait, "the router knows", func() bool {
		_, domains, err := lookup(within(t), c.RouterURL, c.token(t, alice.account), "")
		return err == nil && slices.Equal(domains, c.GatewayURLs[1:])
	})
	require.NoError(t, c.Gateways[0].Start(within(t)))
	eventually(t, wait, "the router knows", func() bool {
		_, domains, err := lookup(within(t), c.RouterURL, c.token(t, alice.account), "")
		return err == nil && len(domains) == len(c.Gateways)
	})
}
