package component

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	_ "github.com/go-sql-driver/mysql" // database/sql's "mysql"
)

// MySQLOptions are what a caller may choose about a MariaDB or MySQL server.
type MySQLOptions struct {
	// Port on 127.0.0.1. Defaults to a free one.
	Port int
	// Args are added to the server's command line, where they win over ours.
	Args []string
}

const mariadbHint = "install Debian's package mariadb-server (apt-get install mariadb-server), or run `make install`"

// mysqlArgs is the command line that MariaDB and MySQL share. Commits are durable, as in
// production (I1): tests that kill the server rely on it.
func mysqlArgs(server string, port int, data, socket, pidFile string) []string {
	args := []string{
		server, "--no-defaults",
		"--datadir=" + data, "--socket=" + socket, "--pid-file=" + pidFile,
		"--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", port), "--skip-networking=0",
		"--innodb-flush-log-at-trx-commit=1",
		"--character-set-server=utf8mb4",
		"--performance-schema=OFF", "--skip-log-bin", "--skip-name-resolve", "--max-connections=500",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	return args
}

// StartMySQL runs Debian's MariaDB with its data in dir, which is made if need be and used again if
// it holds data of an earlier run; "" means a temporary folder that Close removes.
// ctx bounds the start, not the server's life.
func StartMySQL(ctx context.Context, dir string, opts MySQLOptions) (*Process, error) {
	server, err := lookPath("mariadbd", mariadbHint)
	if err != nil {
		return nil, err
	}
	dir, owned, err := makeDir(dir, KindMySQL)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := mariadbData(ctx, server, data); err != nil {
		return nil, fmt.Errorf("make an empty MariaDB: %w", err)
	}
	return launch(ctx, opts.Port, func(port int) (*Process, error) {
		args := mysqlArgs(server, port, data, filepath.Join(dir, "sock"), filepath.Join(dir, "pid"))
		p := &Process{Kind: KindMySQL, dir: dir, ownsDir: owned, argv: append(args, opts.Args...)}
		p.serveSQL(port)
		return p, nil
	})
}

// serveSQL sets how a MySQL server is reached and found ready.
func (p *Process) serveSQL(port int) {
	p.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	p.DSN = fmt.Sprintf("root@tcp(%s)/", p.Addr)
	p.ready = func(ctx context.Context) error {
		db, err := sql.Open("mysql", p.DSN)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}
}

// mariadbData puts an empty MariaDB into data, unless one is there. Making one takes seconds, so a
// template is kept in the cache, one for each version of the server.
func mariadbData(ctx context.Context, server, data string) error {
	if _, err := os.Stat(filepath.Join(data, "mysql")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	template, err := mariadbTemplate(ctx, server)
	if err != nil {
		return err
	}
	return os.CopyFS(data, os.DirFS(template))
}

// mariadbTemplate returns the folder of an empty MariaDB in the cache.
func mariadbTemplate(ctx context.Context, server string) (string, error) {
	version, err := exec.CommandContext(ctx, server, "--no-defaults", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", server, err)
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	template := filepath.Join(cache, "mariadb-"+versionOf(string(version)))
	return template, once(template, func(dir string) error {
		install, err := lookPath("mariadb-install-db", mariadbHint)
		if err != nil {
			return err
		}
		args := []string{
			"--no-defaults", "--datadir=" + dir, "--auth-root-authentication-method=normal", "--skip-test-db",
			"--skip-name-resolve",        // it would insist on finding this machine's name
			"--innodb-log-file-size=16M", // a small template copies faster; the server grows it if asked to
		}
		if os.Geteuid() == 0 {
			args = append(args, "--user=root")
		}
		return runQuiet(exec.CommandContext(ctx, install, args...))
	})
}

// versionOf cuts "10.11.19" out of what `mariadbd --version` prints.
func versionOf(text string) string {
	_, after, _ := strings.Cut(text, "Ver ")
	version, _, _ := strings.Cut(after, "-")
	return strings.TrimSpace(version)
}

// once makes a folder if it is not there: fill gets another folder beside it that is renamed when
// complete, so an interrupted or concurrent making does no harm.
func once(dir string, fill func(dir string) error) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	if err := fill(part); err != nil {
		return err
	}
	err = os.Rename(part, dir)
	if _, statErr := os.Stat(dir); statErr == nil {
		return nil // ours, or that of a process that was faster
	}
	return err
}

// runQuiet runs a command whose output matters only when it fails.
func runQuiet(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
