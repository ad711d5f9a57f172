package component

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
)

// RedisOptions are what a caller may choose about a Redis server.
type RedisOptions struct {
	// Port on 127.0.0.1. Defaults to a free one.
	Port int
	// Persist keeps the data over a restart, in an append-only file. Defaults to losing it.
	Persist bool
	// Args are added to the server's command line, where they win over ours.
	Args []string
}

// StartRedis runs Debian's redis-server in dir; "" means a temporary folder that Close removes.
// ctx bounds the start, not the server's life.
func StartRedis(ctx context.Context, dir string, opts RedisOptions) (*Process, error) {
	server, err := lookPath("redis-server", "install Debian's package redis-server (apt-get install redis-server), or run `make install`")
	if err != nil {
		return nil, err
	}
	dir, owned, err := makeDir(dir, KindRedis)
	if err != nil {
		return nil, err
	}
	return launch(ctx, opts.Port, func(port int) (*Process, error) {
		args := []string{
			server, "--bind", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", dir,
			"--daemonize", "no", "--save", "", "--appendonly", yesNo(opts.Persist),
		}
		p := &Process{
			Kind: KindRedis, dir: dir, ownsDir: owned,
			Addr: fmt.Sprintf("127.0.0.1:%d", port), argv: append(args, opts.Args...),
		}
		p.ready = func(ctx context.Context) error { return pingRedis(ctx, p.Addr) }
		return p, nil
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// pingRedis asks for a PONG. A server that still loads its data answers with an error instead.
func pingRedis(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if answer := strings.TrimSpace(line); answer != "+PONG" {
		return fmt.Errorf("PING was answered with %q", answer)
	}
	return nil
}
