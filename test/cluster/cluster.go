package cluster

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver of the one statement below

	"github.com/hermod-im/hermod/test/component"
)

// Options say what a Cluster consists of.
type Options struct {
	// Dir holds logs and the components' data. Required.
	Dir string
	// Gateways and Logics are numbers of nodes. Default to 2.
	Gateways, Logics int
	// Routers is the number of routers. Defaults to 1.
	Routers int
	// Set is config keys for every node, as key=value.
	Set []string
	// NodeSet gives the keys of one node, which win over Set. It is called when the components run. May be nil.
	NodeSet func(c *Cluster, node string) ([]string, error)
	// Env is added to every node's environment.
	Env []string
	// MySQL and Redis are passed on.
	MySQL component.MySQLOptions
	Redis component.RedisOptions
	// BasePort, if not 0, is the router's port; gateways follow from there, so that a developer
	// finds them again. Otherwise all ports are free ones.
	BasePort int
}

// Cluster is gateways, logic nodes and routers on their own MariaDB, Redis and Consul.
type Cluster struct {
	Secret               string
	MySQL, Redis, Consul *component.Process
	Gateways, Logics     []*Node
	Routers              []*Node
	Router               *Node    // the first
	GatewayURLs          []string // ws://, in the order of Gateways
	GatewayTCPURLs       []string // tcp://
	RouterURLs           []string // http://, in the order of Routers
	RouterURL            string   // the first
	DSN                  string   // of the database

	binary, dir string
	options     Options
	ports       func() (string, error)
}

// databaseName is the database that the cluster uses.
const databaseName = "hermod"

// Start starts the components and all nodes, and waits until all are ready. An error leaves nothing running.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Gateways == 0 {
		o.Gateways = 2
	}
	if o.Logics == 0 {
		o.Logics = 2
	}
	if o.Routers == 0 {
		o.Routers = 1
	}
	c := &Cluster{Secret: rand.Text() + rand.Text(), dir: o.Dir, options: o}
	used := map[string]bool{}
	c.ports = func() (string, error) {
		for {
			addr, err := freePort()
			if err != nil || !used[addr] {
				used[addr] = true
				return addr, err
			}
		}
	}
	if o.BasePort != 0 {
		next := o.BasePort
		c.ports = func() (string, error) { next++; return fmt.Sprintf("127.0.0.1:%d", next-1), nil }
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if c.binary, err = Build(); err != nil {
		return nil, err
	}
	if err := c.startComponents(ctx); err != nil {
		return nil, err
	}
	if err := c.migrate(ctx); err != nil {
		return nil, err
	}
	if err := c.addNodes(o); err != nil {
		return nil, err
	}
	if err := c.StartNodes(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) startComponents(ctx context.Context) (err error) {
	if c.MySQL, err = component.StartMySQL(ctx, filepath.Join(c.dir, "mysql"), c.options.MySQL); err != nil {
		return err
	}
	if c.Redis, err = component.StartRedis(ctx, filepath.Join(c.dir, "redis"), c.options.Redis); err != nil {
		return err
	}
	c.Consul, err = component.StartConsul(ctx, filepath.Join(c.dir, "consul"), component.ConsulOptions{})
	return err
}

// migrate makes the database and runs `hermod migrate`, as an operator would.
func (c *Cluster) migrate(ctx context.Context) error {
	db, err := sql.Open("mysql", c.MySQL.DSN)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // one statement
	if _, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS "+databaseName); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	base, params, _ := strings.Cut(c.MySQL.DSN, "?")
	if c.DSN = base + databaseName; params != "" {
		c.DSN += "?" + params
	}
	cmd := exec.CommandContext(ctx, c.binary, "migrate", "--set", "database.dsn="+c.DSN)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("hermod migrate: %w\n%s", err, out)
	}
	return nil
}

func (c *Cluster) addNodes(o Options) error {
	for i := range o.Routers {
		listen, err1 := c.ports()
		n, err2 := c.node("router", routerName(i), listen, "router.listen="+listen)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		c.Routers = append(c.Routers, n)
		c.RouterURLs = append(c.RouterURLs, "http://"+listen)
	}
	c.Router, c.RouterURL = c.Routers[0], c.RouterURLs[0]
	for i := range o.Gateways {
		ws, err1 := c.ports()
		tcp, err2 := c.ports()
		n, err3 := c.node("gateway", fmt.Sprintf("gateway-%d", i+1), ws, "gateway.ws="+ws, "gateway.tcp="+tcp)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		c.Gateways = append(c.Gateways, n)
		c.GatewayURLs = append(c.GatewayURLs, "ws://"+ws)
		c.GatewayTCPURLs = append(c.GatewayTCPURLs, "tcp://"+tcp)
	}
	for i := range o.Logics {
		listen, err1 := c.ports()
		n, err2 := c.node("logic", fmt.Sprintf("logic-%d", i+1), listen, "logic.listen="+listen)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		c.Logics = append(c.Logics, n)
	}
	return nil
}

// routerName is "router" for the first.
func routerName(i int) string {
	if i == 0 {
		return "router"
	}
	return fmt.Sprintf("router-%d", i+1)
}

// node makes a node of a service with its own name, address, admin port and keys.
func (c *Cluster) node(service, name, address string, set ...string) (*Node, error) {
	admin, err := c.ports()
	if err != nil {
		return nil, err
	}
	var own []string
	if c.options.NodeSet != nil {
		if own, err = c.options.NodeSet(c, name); err != nil {
			return nil, err
		}
	}
	args := []string{service}
	for _, kv := range slices.Concat([]string{
		"node.name=" + name,
		"admin.listen=" + admin,
		"registry.consul.address=" + c.Consul.Addr,
		"sessions.redis.addr=" + c.Redis.Addr,
		"database.dsn=" + c.DSN,
	}, set, c.options.Set, own) {
		args = append(args, "--set", kv)
	}
	return &Node{
		Name:    name,
		Address: address,
		Admin:   admin,
		Env:     append([]string{"HERMOD_SECRET=" + c.Secret}, c.options.Env...),
		LogPath: filepath.Join(c.dir, name+".log"),
		binary:  c.binary,
		args:    args,
	}, nil
}

// StartNodes starts those of hermod's processes that do not run, all at once, and waits until all are ready.
func (c *Cluster) StartNodes(ctx context.Context) error {
	for _, n := range c.Nodes() {
		if n.Running() {
			continue
		}
		if err := n.start(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes() {
		if err := n.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Nodes are all of hermod's processes: logic nodes, gateways, routers.
func (c *Cluster) Nodes() []*Node { return slices.Concat(c.Logics, c.Gateways, c.Routers) }

// Close stops the nodes, the clients' side first, and then the components.
func (c *Cluster) Close() error {
	var errs []error
	nodes := c.Nodes()
	for i := len(nodes) - 1; i >= 0; i-- {
		errs = append(errs, nodes[i].Stop())
	}
	for _, p := range []*component.Process{c.Consul, c.Redis, c.MySQL} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// freePort is a loopback address that was free a moment ago, and that no outgoing connection takes
// while its node is down.
func freePort() (string, error) {
	port, err := component.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// freePorts is freePort, n different ones.
func freePorts(n int) ([]string, error) {
	var out []string
	for len(out) < n {
		addr, err := freePort()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out, nil
}

// awaitLine waits for the first line of a file.
func awaitLine(ctx context.Context, path string) (string, error) {
	for {
		data, err := os.ReadFile(path)
		if line, _, ok := strings.Cut(string(data), "\n"); err == nil && ok {
			return line, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(readyPoll):
		}
	}
}
