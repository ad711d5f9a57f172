package component

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// mysql9Root is where `make mysql9-root` puts a Debian unstable with MySQL 9, inside the cache.
const mysql9Root = "mysql9"

// mysql9Data is where the servers keep their data, inside that root.
const mysql9Data = "/srv/hermod"

// mysql9Init lets root in over TCP, as in a fresh MariaDB; MySQL's root is bound to the socket's "localhost".
const mysql9Init = `CREATE USER IF NOT EXISTS root@'127.0.0.1';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
`

// StartMySQL9 runs MySQL 9 in the root that `make mysql9-root` made, with its data in a new folder
// inside that root, which Close removes. It needs to be root. ctx bounds the start.
func StartMySQL9(ctx context.Context, opts MySQLOptions) (*Process, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(cache, mysql9Root)
	if _, err := os.Stat(filepath.Join(root, "usr/sbin/mysqld")); err != nil {
		return nil, fmt.Errorf("MySQL 9: %w: run `make mysql9-root` as root (%v)", ErrMissing, err)
	}
	if err := mysql9Template(ctx, root); err != nil {
		return nil, fmt.Errorf("make an empty MySQL 9: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Join(root, mysql9Data), "run-")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.CopyFS(filepath.Join(dir, "data"), os.DirFS(filepath.Join(root, mysql9Data, "template"))),
		os.WriteFile(filepath.Join(dir, "init.sql"), []byte(mysql9Init), 0o644),
	)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	inside := filepath.Join(mysql9Data, filepath.Base(dir))
	return launch(ctx, opts.Port, func(port int) (*Process, error) {
		args := mysqlArgs("/usr/sbin/mysqld", port, inside+"/data", inside+"/sock", inside+"/pid")
		args = append(args, "--init-file="+inside+"/init.sql", "--secure-file-priv=", "--mysqlx=OFF")
		p := &Process{Kind: KindMySQL9, dir: dir, ownsDir: true, chroot: root, argv: append(args, opts.Args...)}
		p.serveSQL(port)
		return p, nil
	})
}

// mysql9Template makes the empty MySQL that new servers start from.
func mysql9Template(ctx context.Context, root string) error {
	template := filepath.Join(root, mysql9Data, "template")
	if _, err := os.Stat(template); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return once(template, func(dir string) error {
		inside := filepath.Join(mysql9Data, filepath.Base(dir))
		cmd := exec.CommandContext(ctx, "/usr/sbin/mysqld", "--no-defaults", "--user=root", "--initialize-insecure",
			"--secure-file-priv=", "--innodb-redo-log-capacity=16M", "--datadir="+inside)
		cmd.SysProcAttr = ChildAttr(root)
		cmd.Dir = "/"
		return runQuiet(cmd)
	})
}
