package faults

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/test/component"
)

// How many there are of each.
const (
	gateways = 3
	logics   = 3
	routers  = 2
)

// gateway is how the names of gateways begin.
const gateway = "gateway"

// Site is the cluster under test, and what is needed to break it.
type Site struct {
	*cluster.Cluster
	// Lookup is the URL of what stands before the routers, and knows which of them answer.
	Lookup string

	proxies *proxies
	disk    *disk
	shifted string // the program of a logic node with another clock
	front   *http.Server
	dir     string
	log     func(format string, args ...any)
}

// Start starts the cluster with its files in dir, which Finish removes; log hears what happens, in lines without an end.
func Start(ctx context.Context, dir string, log func(format string, args ...any)) (_ *Site, err error) {
	s := &Site{proxies: newProxies(log), dir: dir, log: log}
	defer func() {
		if err != nil {
			_ = s.Close()
			_ = os.RemoveAll(dir) // err has the end of the log
		}
	}()
	data := filepath.Join(dir, "mysql")
	if s.disk, err = newDisk(data); err != nil {
		return nil, err
	}
	if s.shifted, err = cluster.BuildProgram("./test/cmd/logic-with-clock"); err != nil {
		return nil, err
	}
	s.Cluster, err = cluster.Start(ctx, cluster.Options{
		Dir: dir, Gateways: gateways, Logics: logics, Routers: routers,
		// The defaults, but sooner, so that a run of all faults ends within the hour.
		Set:     []string{"sessions.lease=6s", "registry.consul.ttl=3s", "shutdown.drain=4s"},
		NodeSet: s.nodeSet,
		// The disk grows by a megabyte at a time, and is soon too small when it is full.
		MySQL: component.MySQLOptions{Args: []string{"--innodb-file-per-table=0", "--innodb-autoextend-increment=1"}},
		// What Redis has acknowledged survives its crash; the faults that empty it do so themselves.
		Redis: component.RedisOptions{Persist: true},
	})
	if err != nil {
		return nil, err
	}
	return s, s.balance()
}

// nodeSet puts proxies between a node and those that it dials.
func (s *Site) nodeSet(c *cluster.Cluster, node string) ([]string, error) {
	consul, err1 := s.proxies.between(node, c.Consul.Addr)
	if err1 == nil && strings.HasPrefix(node, gateway) {
		consul, err1 = s.proxies.lens(node, consul)
	}
	mysql, err2 := s.proxies.between(node, c.MySQL.Addr)
	redis, err3 := s.proxies.between(node, c.Redis.Addr)
	dsn, err4 := withAddress(c.DSN, mysql)
	return []string{
		"registry.consul.address=" + consul,
		"sessions.redis.addr=" + redis,
		"database.dsn=" + dsn,
	}, errors.Join(err1, err2, err3, err4)
}

// balance starts what operators put before their routers.
func (s *Site) balance() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Lookup = "http://" + listener.Addr().String()
	s.front = &http.Server{Handler: &balancer{routers: s.RouterURLs}}
	go func() { _ = s.front.Serve(listener) }() // until Close
	return nil
}

// awaitReady waits until every node takes traffic.
func (s *Site) awaitReady(ctx context.Context) error {
	for _, n := range s.Nodes() {
		if err := n.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close stops everything.
func (s *Site) Close() error {
	var errs []error
	if s.front != nil {
		errs = append(errs, s.front.Close())
	}
	if s.Cluster != nil {
		errs = append(errs, s.Cluster.Close())
	}
	return errors.Join(append(errs, s.proxies.close(), s.disk.close())...)
}
