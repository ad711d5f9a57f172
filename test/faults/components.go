package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/component"
)

// What faults of components take hold of.
const (
	onMySQL  = "mariadb"
	onRedis  = "redis"
	onConsul = "consul"
	// onAll is held by everything that breaks one thing for less than all.
	onAll = "everything"
)

// components are faults of what hermod stands on.
func (s *Site) components() []Row {
	kill := func(name, on string, p *component.Process) Row {
		return Row{Name: name, Faults: []Fault{{
			Name: name, On: []string{on}, Lasts: killedFor,
			Inject: func(context.Context) error { return p.Kill() },
			Heal:   p.Restart,
		}}}
	}
	pause := func(name, on string, p *component.Process) Row {
		return Row{Name: name, Faults: []Fault{{
			Name: name, On: []string{on}, Lasts: pausedFor,
			Inject: func(context.Context) error { return p.Signal(syscall.SIGSTOP) },
			Heal:   func(context.Context) error { return p.Signal(syscall.SIGCONT) },
		}}}
	}
	return []Row{
		kill("SIGKILL of mariadbd", onMySQL, s.MySQL),
		pause("SIGSTOP of mariadbd", onMySQL, s.MySQL),
		kill("SIGKILL of redis-server", onRedis, s.Redis),
		pause("SIGSTOP of redis-server", onRedis, s.Redis),
		s.redisFlushed(),
		s.redisEmptied(),
		kill("SIGKILL of consul", onConsul, s.Consul),
		pause("SIGSTOP of consul", onConsul, s.Consul),
		s.everything(),
	}
}

// redisFlushed empties Redis while it runs, several times.
func (s *Site) redisFlushed() Row {
	const times = 3
	row := Row{Name: "Redis emptied while running"}
	for range times {
		row.Faults = append(row.Faults, Fault{
			Name: row.Name, On: []string{onRedis}, Lasts: time.Second,
			Inject: func(ctx context.Context) error { return redisCommand(ctx, s.Redis.Addr, "FLUSHALL") },
			Heal:   func(context.Context) error { return nil },
		})
	}
	return row
}

// redisEmptied kills Redis, and what comes back has lost everything.
func (s *Site) redisEmptied() Row {
	const name = "Redis restarted empty"
	return Row{Name: name, Faults: []Fault{{
		Name: name, On: []string{onRedis}, Lasts: killedFor,
		Inject: func(context.Context) error {
			if err := s.Redis.Kill(); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(s.dir, "redis", "appendonlydir"))
		},
		Heal: s.Redis.Restart,
	}}}
}

// everything kills every process at once.
func (s *Site) everything() Row {
	const name = "everything killed at once"
	kill := func(context.Context) error {
		var errs []error
		for _, n := range s.Nodes() {
			errs = append(errs, n.Signal(syscall.SIGKILL))
		}
		for _, p := range s.servers() {
			errs = append(errs, p.Signal(syscall.SIGKILL))
		}
		for _, n := range s.Nodes() {
			errs = append(errs, n.Kill()) // waits
		}
		for _, p := range s.servers() {
			errs = append(errs, p.Kill())
		}
		return errors.Join(errs...)
	}
	start := func(ctx context.Context) error {
		for _, p := range s.servers() {
			if err := p.Restart(ctx); err != nil {
				return err
			}
		}
		return s.StartNodes(ctx)
	}
	return Row{Name: name, Faults: []Fault{{Name: name, On: []string{onAll}, Lasts: time.Second, Inject: kill, Heal: start}}}
}

func (s *Site) servers() []*component.Process {
	return []*component.Process{s.MySQL, s.Redis, s.Consul}
}

// redisCommand gives Redis one command, which it must confirm.
func redisCommand(ctx context.Context, addr, command string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the answer is what counts
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(answer, "+OK") {
		err = fmt.Errorf("redis: %s: %s", command, strings.TrimSpace(answer))
	}
	return err
}
