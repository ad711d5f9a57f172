package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/component"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// goOn is how many messages each topic has after a disturbance before the next.
const goOn = 5

// testRestarts restarts every service and every component, in order and by SIGKILL, under a light
// conversation of new and old clients on both gateways and both transports. Nothing that was said
// with success is lost, and everybody hears of it without looking for it.
func testRestarts(t *testing.T, c *site) {
	o := startOracle(t, c)
	sdk := startConversation(t, c, "restarts-sdk")
	goesOn := func(t *testing.T, after string) {
		t.Helper()
		o.goesOn(t, goOn, after)
		sdk.goesOn(t, after)
	}
	goesOn(t, "the start")
	run := func(what string, steps ...func(t *testing.T) error) {
		t.Run(what, func(t *testing.T) {
			for _, step := range steps {
				require.NoError(t, step(t))
			}
			goesOn(t, what)
			awaitReady(t, c)
		})
		if t.Failed() {
			t.FailNow() // what comes after a loss says nothing
		}
	}
	talks := func(t *testing.T) error { o.says(t, goOn); return nil }

	for _, n := range c.Nodes() {
		start := func(t *testing.T) error { return n.Start(within(t)) }
		run(n.Name+" stopped", func(*testing.T) error { return n.Stop() }, start)
		run(n.Name+" killed", func(*testing.T) error { return n.Kill() }, start)
	}
	for _, p := range []*component.Process{c.Redis, c.MySQL, c.Consul} {
		restart := func(t *testing.T) error { return p.Restart(within(t)) }
		run(p.Kind.String()+" restarted", restart)
		run(p.Kind.String()+" killed", func(*testing.T) error { return p.Kill() }, restart)
	}
	run("conversation without redis", func(*testing.T) error { return c.Redis.Kill() }, talks,
		func(t *testing.T) error { return c.Redis.Restart(within(t)) })
	run("conversation without consul", func(*testing.T) error { return c.Consul.Kill() }, talks,
		func(t *testing.T) error { return c.Consul.Restart(within(t)) })
	run("look-ups refused by redis",
		func(t *testing.T) error { return redisCommand(t, c.Redis.Addr, "ACL SETUSER default -hgetall") }, talks,
		func(t *testing.T) error { return redisCommand(t, c.Redis.Addr, "ACL SETUSER default +@all") })
	run("everything killed at once",
		func(*testing.T) error { return killAll(c) },
		func(t *testing.T) error { return startAll(within(t), c) })
	o.hasOneWriter(t)
	o.end(t)
	sdk.check(t)
}

// killAll ends every process, the ones right after the others.
func killAll(c *site) error {
	errs := []error{c.MySQL.Kill(), c.Redis.Kill(), c.Consul.Kill()}
	for _, n := range c.Nodes() {
		errs = append(errs, n.Kill())
	}
	return errors.Join(errs...)
}

func startAll(ctx context.Context, c *site) error {
	for _, p := range []*component.Process{c.MySQL, c.Redis, c.Consul} {
		if err := p.Restart(ctx); err != nil {
			return err
		}
	}
	return c.StartNodes(ctx)
}

// awaitReady waits until every node takes traffic.
func awaitReady(t *testing.T, c *site) {
	t.Helper()
	for _, n := range c.Nodes() {
		require.NoError(t, n.AwaitReady(within(t)))
	}
}

// startOracle starts two conversations of two and a group, until the test ends.
func startOracle(t *testing.T, c *site) *oracle {
	t.Helper()
	o := newOracle()
	party := func(account string, login *pb.LoginReq, urls ...string) *party {
		return o.party(account, c.token(t, account), login, urls...)
	}
	ws, tcp := c.GatewayURLs, c.GatewayTCPURLs
	alice := party("restart-alice", modern("d"), ws[0], ws[1])
	bob := party("restart-bob", modern("d"), tcp[1], tcp[0])
	carol := party("restart-carol", legacy(), ws[1], ws[0])
	dave := party("restart-dave", legacy(), tcp[0], tcp[1])
	o.pair(alice, bob)
	o.pair(carol, alice)
	o.pair(bob, dave)
	founder := c.user(t, ws[0], "restart-alice", modern("founder"))
	var created pb.GroupCreateResp
	founder.must(wire.CmdGroupCreate, "", &pb.GroupCreateReq{Name: "all", Members: []string{bob.account, carol.account, dave.account}}, &created)
	founder.must(wire.CmdSignOut, "", nil, nil)
	o.group(created.GroupId, alice, bob, carol, dave)
	o.start(t)
	return o
}
