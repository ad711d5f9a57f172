package component

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// envParent makes this test binary a program that starts a server and waits to be killed.
const envParent = "HERMOD_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(envParent) != "" {
		parent()
	}
	goleak.VerifyTestMain(m)
}

func parent() {
	p, err := StartRedis(context.Background(), "", RedisOptions{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.Pid(), p.dir)
	select {}
}

func TestServersDieWithTheirParent(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("starts a server, and needs Linux's parent-death signal")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envParent+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	_, err = fmt.Fscan(out, &pid, &dir)
	if killErr := errors.Join(cmd.Process.Kill(), cmd.Wait()); err != nil {
		t.Fatal(err, killErr)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// Nobody may wait for a grandchild: ask until it is gone, or a zombie that init has not collected yet.
	for running(pid) {
		if t.Context().Err() != nil {
			return
		}
		runtime.Gosched()
	}
}

// running reports whether there is such a process, other than a zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func start(t *testing.T, f func(context.Context) (*Process, error)) *Process {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a server")
	}
	p, err := f(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Close left its folder behind: %v", err)
		}
	})
	return p
}

func TestMySQLKeepsItsDataWhenKilled(t *testing.T) {
	p := start(t, func(ctx context.Context) (*Process, error) { return StartMySQL(ctx, "", MySQLOptions{}) })
	dsn := p.DSN
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{"CREATE DATABASE d", "CREATE TABLE d.t (i INT PRIMARY KEY)", "INSERT INTO d.t VALUES (7)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.DSN != dsn {
		t.Errorf("the DSN changed from %s to %s", dsn, p.DSN)
	}
	var i int
	if err := db.QueryRow("SELECT i FROM d.t").Scan(&i); err != nil || i != 7 {
		t.Errorf("after a kill and a restart: %d, %v; want 7", i, err)
	}
}

func TestRedisPersistsOnRequest(t *testing.T) {
	for _, persist := range []bool{false, true} {
		p := start(t, func(ctx context.Context) (*Process, error) {
			return StartRedis(ctx, "", RedisOptions{Persist: persist})
		})
		redis(t, p.Addr, "SET k v", "+OK")
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := "$-1"
		if persist {
			want = "$1"
		}
		redis(t, p.Addr, "GET k", want)
	}
}

// redis sends one command and checks the first line of the answer.
func redis(t *testing.T, addr, command, want string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := strings.Cut(string(buf[:n]), "\r\n"); got != want {
		t.Errorf("%s: %q, want %q", command, got, want)
	}
}

func TestConsulKeepsItsStateUnlessDev(t *testing.T) {
	for _, dev := range []bool{false, true} {
		p := start(t, func(ctx context.Context) (*Process, error) {
			return StartConsul(ctx, "", ConsulOptions{Dev: dev})
		})
		kv := "http://" + p.Addr + "/v1/kv/k"
		if status := request(t, http.MethodPut, kv); status != http.StatusOK {
			t.Fatalf("put: %d", status)
		}
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := http.StatusOK
		if dev {
			want = http.StatusNotFound
		}
		if status := request(t, http.MethodGet, kv); status != want {
			t.Errorf("dev %v: after a restart get says %d, want %d", dev, status, want)
		}
		if conn, err := net.Dial("tcp", p.DNSAddr); err != nil {
			t.Errorf("DNS: %v", err)
		} else {
			_ = conn.Close()
		}
	}
}

func request(t *testing.T, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func TestStopEndsAPausedServer(t *testing.T) {
	p := start(t, func(ctx context.Context) (*Process, error) { return StartRedis(ctx, "", RedisOptions{}) })
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > stopWait/2 {
		t.Errorf("Stop took %v", took)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestStartSaysWhyItFailed(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	_, err := StartRedis(t.Context(), t.TempDir(), RedisOptions{Args: []string{"--no-such-directive", "1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("error %v does not show the server's log", err)
	}
}

func TestStartNamesWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvCache, t.TempDir())
	_, err := StartConsul(t.Context(), t.TempDir(), ConsulOptions{})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make consul") {
		t.Errorf("consul: %v", err)
	}
	_, err = StartMySQL9(t.Context(), MySQLOptions{})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make mysql9-root") {
		t.Errorf("mysql9: %v", err)
	}
	_, err = lookPath("no-such-server", "install it")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "install it") {
		t.Errorf("lookPath: %v", err)
	}
}

func TestAddressesFromTheEnvironmentWin(t *testing.T) {
	t.Setenv(EnvMySQL, "dsn")
	t.Setenv(EnvRedis, "redis:1")
	t.Setenv(EnvConsul, "consul:1")
	t.Setenv(EnvMySQL9, "dsn9")
	if got := MySQL(t) + " " + Redis(t) + " " + Consul(t); got != "dsn redis:1 consul:1" {
		t.Errorf("got %s", got)
	}
	if got, ok := MySQL9(t); got != "dsn9" || !ok {
		t.Errorf("MySQL9: %q, %v", got, ok)
	}
}

func TestConsulVersionIsThePinnedOne(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join("..", "tools", "consul", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "github.com/hashicorp/consul v"+ConsulVersion+" ") {
		t.Errorf("ConsulVersion %s is not what test/tools/consul/go.mod pins", ConsulVersion)
	}
}

func TestVersionOf(t *testing.T) {
	const text = "/usr/sbin/mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)\n"
	if got := versionOf(text); got != "10.11.19" {
		t.Errorf("got %q", got)
	}
}
