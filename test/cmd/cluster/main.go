// Command cluster runs 2 gateways, 2 logic nodes and a router on local MariaDB, Redis and Consul
// until it is interrupted: `make cluster`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/cluster"
)

// startWait bounds the start of everything.
const startWait = 2 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var o cluster.Options
	flag.StringVar(&o.Dir, "dir", filepath.Join(os.TempDir(), "hermod-cluster"), "folder of logs and data; data of an earlier run is used again")
	flag.IntVar(&o.Gateways, "gateways", 2, "number of gateways")
	flag.IntVar(&o.Logics, "logics", 2, "number of logic nodes")
	flag.IntVar(&o.BasePort, "port", 8080, "port of the router; the other ports follow it; 0 picks free ones")
	flag.Func("set", "config key for every node, as key=value; may be given again", func(kv string) error {
		o.Set = append(o.Set, kv)
		return nil
	})
	flag.Parse()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	starting, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	c, err := cluster.Start(starting, o)
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	describe(c, o.Dir)
	<-ctx.Done()
	fmt.Println("stopping")
	return nil
}

func describe(c *cluster.Cluster, dir string) {
	fmt.Printf("\nThe cluster is ready; logs are in %s.\n\n", dir)
	for i, n := range c.Gateways {
		fmt.Printf("  %-10s %s  %s  admin http://%s  pid %d\n", n.Name, c.GatewayURLs[i], c.GatewayTCPURLs[i], n.Admin, n.PID())
	}
	for _, n := range c.Logics {
		fmt.Printf("  %-10s admin http://%s  pid %d\n", n.Name, n.Admin, n.PID())
	}
	for i, n := range c.Routers {
		fmt.Printf("  %-10s %s  admin http://%s  pid %d\n", n.Name, c.RouterURLs[i], n.Admin, n.PID())
	}
	fmt.Printf("  mariadb    %s  pid %d\n  redis      %s  pid %d\n  consul     http://%s  pid %d\n", c.MySQL.Addr, c.MySQL.Pid(), c.Redis.Addr, c.Redis.Pid(), c.Consul.Addr, c.Consul.Pid())
	fmt.Printf("\n  export HERMOD_SECRET=%s\n  hermod chat --router %s --as alice --to bob\n\nStop with Ctrl-C.\n\n", c.Secret, c.RouterURL)
}
