package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/hermod-im/hermod/test/cluster"
)

// startWait bounds the start of a site, building included.
const startWait = 5 * time.Minute

// site is running servers.
type site struct {
	spec      siteSpec
	urls      string
	secret    string
	processes []string // NAME=PID
	dsn       string   // of the database; "" has none that can be asked
	close     func() error
}

// start runs the servers of a spec, with their data in a new folder of dir.
func (s siteSpec) start(ctx context.Context, dir string) (*site, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	if s.gateways == 0 {
		return s.startStandalone(ctx, dir)
	}
	return s.startCluster(ctx, dir)
}

func (s siteSpec) startStandalone(ctx context.Context, dir string) (*site, error) {
	var args []string
	for _, kv := range strings.Fields(s.set) {
		args = append(args, "--set", kv)
	}
	node, err := cluster.NewStandalone(dir, args...)
	if err != nil {
		return nil, err
	}
	if err := node.Start(ctx); err != nil {
		_ = node.Kill()
		return nil, err
	}
	secret, err := node.Secret()
	if err != nil {
		_ = node.Kill()
		return nil, err
	}
	return &site{spec: s, urls: node.WS, secret: secret, processes: []string{process(node.Name, node.PID())}, close: node.Stop}, nil
}

func (s siteSpec) startCluster(ctx context.Context, dir string) (*site, error) {
	c, err := cluster.Start(ctx, cluster.Options{
		Dir: dir, Gateways: s.gateways, Logics: s.logics, Set: strings.Fields(s.set), Env: []string{s.procs()},
	})
	if err != nil {
		return nil, err
	}
	running := &site{
		spec: s, urls: strings.Join(c.GatewayURLs, ","), secret: c.Secret, dsn: c.DSN, close: c.Close,
		processes: []string{process("mariadb", c.MySQL.Pid()), process("redis", c.Redis.Pid()), process("consul", c.Consul.Pid())},
	}
	for _, n := range append(c.Gateways, c.Logics...) {
		running.processes = append(running.processes, process(n.Name, n.PID()))
	}
	return running, nil
}

// procs gives each node its share of the cores, as on hosts of their own: processes that think they have all of them wake
// threads for work that one thread does as well.
func (s siteSpec) procs() string {
	return fmt.Sprintf("GOMAXPROCS=%d", max(1, runtime.NumCPU()/(s.gateways+s.logics)))
}

func process(name string, pid int) string { return fmt.Sprintf("%s=%d", name, pid) }
