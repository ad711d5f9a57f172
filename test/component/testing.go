package component

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
)

// MySQL returns the DSN, without a database name, of an account that may create databases: from
// HERMOD_TEST_MYSQL, or of a MariaDB started for this test. A test without its server fails; with
// -short it is skipped.
func MySQL(t testing.TB) string { return need(t, KindMySQL) }

// Redis returns the host:port of a Redis: from HERMOD_TEST_REDIS, or started for this test. Tests
// share it: prefix your keys. A test without its server fails; with -short it is skipped.
func Redis(t testing.TB) string { return need(t, KindRedis) }

// Consul returns the host:port of a Consul agent's HTTP interface: from HERMOD_TEST_CONSUL, or
// started for this test. A test without its server fails; with -short it is skipped.
func Consul(t testing.TB) string { return need(t, KindConsul) }

// MySQL9 returns the DSN of HERMOD_TEST_MYSQL9, and whether there is one. Starting MySQL 9 needs
// root and 600 MB, so it is not started for a test: `make test-mysql` does, and sets
// HERMOD_TEST_REQUIRE_MYSQL9=1, with which a test without it fails.
func MySQL9(t testing.TB) (dsn string, ok bool) {
	t.Helper()
	dsn = os.Getenv(EnvMySQL9)
	if dsn == "" && os.Getenv(EnvRequireMySQL9) == "1" {
		t.Fatalf("%s=1, but %s is not set; run `make test-mysql`", EnvRequireMySQL9, EnvMySQL9)
	}
	return dsn, dsn != ""
}

// Database creates a new database on the server of dsn, dropped when the test ends, and returns
// the DSN with its name.
func Database(t testing.TB, dsn string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatalf("parse the DSN of the test's MySQL: %v", err)
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatalf("open the test's MySQL: %v", err)
	}
	name := "hermod_test_" + uuid.NewString()[:8]
	if _, err := db.Exec("CREATE DATABASE " + name + " CHARACTER SET utf8mb4"); err != nil {
		t.Fatalf("create a database for the test: %v", err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec("DROP DATABASE " + name); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
		_ = db.Close()
	})
	cfg.DBName = name
	return cfg.FormatDSN()
}

func need(t testing.TB, k Kind) string {
	t.Helper()
	if target := os.Getenv(k.Env()); target != "" {
		return target
	}
	if testing.Short() {
		t.Skipf("-short, and no %s: needs %s", k.Env(), k)
	}
	p, err := Start(t.Context(), k)
	if err != nil {
		t.Fatalf("this test needs %s: %v", k, err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("end %s: %v", k, err)
		}
	})
	return p.Target()
}

// Start runs a server of the kind with its defaults and its data in a temporary folder.
func Start(ctx context.Context, k Kind) (*Process, error) {
	switch k {
	case KindMySQL:
		return StartMySQL(ctx, "", MySQLOptions{})
	case KindRedis:
		return StartRedis(ctx, "", RedisOptions{})
	case KindConsul:
		return StartConsul(ctx, "", ConsulOptions{})
	case KindMySQL9:
		return StartMySQL9(ctx, MySQLOptions{})
	default:
		return nil, fmt.Errorf("unknown component %v", k)
	}
}

// StartMissing starts those of the kinds that no environment variable names, and names them in this
// process's environment, for its tests and children. The function it returns ends them again.
func StartMissing(ctx context.Context, kinds ...Kind) (end func() error, err error) {
	var started []*Process
	end = func() error {
		var errs []error
		for _, p := range started {
			errs = append(errs, os.Unsetenv(p.Kind.Env()), p.Close())
		}
		return errors.Join(errs...)
	}
	for _, k := range kinds {
		if os.Getenv(k.Env()) != "" {
			continue
		}
		p, err := Start(ctx, k)
		if err != nil {
			return nil, errors.Join(err, end())
		}
		started = append(started, p)
		if err := os.Setenv(k.Env(), p.Target()); err != nil {
			return nil, errors.Join(err, end())
		}
	}
	return end, nil
}

// Main runs a package's tests with the servers they share; call it from TestMain. With -short
// nothing is started.
func Main(m *testing.M, kinds ...Kind) { os.Exit(Wrap(m, kinds...).Run()) }

// Runner is a testing.M, or what wraps one.
type Runner interface{ Run() int }

// Wrap makes a Runner that starts the servers, runs m and ends the servers: for a TestMain that
// wraps further, as in goleak.VerifyTestMain(component.Wrap(m, component.KindRedis)).
func Wrap(m Runner, kinds ...Kind) Runner { return &wrapped{m: m, kinds: kinds} }

type wrapped struct {
	m     Runner
	kinds []Kind
}

// Run implements Runner.
func (w *wrapped) Run() int {
	if !flag.Parsed() {
		flag.Parse()
	}
	if testing.Short() {
		return w.m.Run()
	}
	end, err := StartMissing(context.Background(), w.kinds...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start what the tests need:", err)
		return 1
	}
	code := w.m.Run()
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, "end what the tests needed:", err)
		return max(code, 1)
	}
	return code
}
