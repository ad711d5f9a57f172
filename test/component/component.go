// Package component runs the real servers that hermod needs, privately: MariaDB, MySQL 9, Redis
// and a Consul agent, each on free loopback ports, with its data in a folder of its own.
//
// A Start function returns when the server answers: a query, a PING, an elected leader. The Process
// it returns can be stopped, killed and restarted on the same port and data, which is what fault
// tests are made of. Servers die with the program that started them, however it dies (on Linux).
//
// Tests ask for an address instead: MySQL, Redis and Consul take it from the environment, or start
// a server for the test. A package with many such tests starts them once, in its TestMain, with
// Main or Wrap.
package component

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Kind is one of the servers that this package can run.
type Kind int

// The kinds of server.
const (
	KindMySQL Kind = iota
	KindRedis
	KindConsul
	KindMySQL9
)

// The environment variables that name a running server, so that none is started. What they hold is
// what Process.Target says of a server started here.
const (
	EnvMySQL  = "HERMOD_TEST_MYSQL"  // DSN of a MariaDB or MySQL account that may create databases
	EnvRedis  = "HERMOD_TEST_REDIS"  // host:port; its keys are the tests' to delete
	EnvConsul = "HERMOD_TEST_CONSUL" // host:port of the HTTP interface of a Consul agent
	EnvMySQL9 = "HERMOD_TEST_MYSQL9" // as EnvMySQL, a real MySQL 9
	// EnvRequireMySQL9 set to 1 makes a test that could use MySQL 9 fail without EnvMySQL9.
	EnvRequireMySQL9 = "HERMOD_TEST_REQUIRE_MYSQL9"
	// EnvCache overrides the folder of CacheDir.
	EnvCache = "HERMOD_CACHE"
	// EnvConsulBinary names the consul program to run.
	EnvConsulBinary = "HERMOD_CONSUL"
)

// ConsulVersion is the version of the agent that `make consul` builds, as test/tools/consul/go.mod pins it.
const ConsulVersion = "1.13.9"

// ErrMissing: a program that is needed is not installed. The error's text says how to get it.
var ErrMissing = errors.New("not installed")

// Kinds are the kinds that a test run needs by default.
func Kinds() []Kind { return []Kind{KindMySQL, KindRedis, KindConsul} }

// String is the name of the server.
func (k Kind) String() string {
	switch k {
	case KindMySQL:
		return "mariadb"
	case KindRedis:
		return "redis"
	case KindConsul:
		return "consul"
	case KindMySQL9:
		return "mysql9"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Env is the environment variable that names a running server of this kind.
func (k Kind) Env() string {
	switch k {
	case KindMySQL:
		return EnvMySQL
	case KindRedis:
		return EnvRedis
	case KindConsul:
		return EnvConsul
	default:
		return EnvMySQL9
	}
}

// CacheDir is where what is expensive to make is kept between runs and checkouts: the Consul
// program, an empty MariaDB, the root of MySQL 9. It is $HERMOD_CACHE, or hermod in the user's cache.
func CacheDir() (string, error) {
	if dir := os.Getenv(EnvCache); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder (set %s): %w", EnvCache, err)
	}
	return filepath.Join(dir, "hermod"), nil
}

// lookPath finds a program on PATH or in the folders for system programs, which the PATH of an
// ordinary Debian user lacks.
func lookPath(program, hint string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w: %s", program, ErrMissing, hint)
}
