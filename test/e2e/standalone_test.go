package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// readyWithin is how soon a standalone is to be ready.
const readyWithin = 2 * time.Second

// hermod runs the binary to its end and returns what it printed and its exit status.
func hermod(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return hermodReading(t, nil, args...)
}

// hermodReading is hermod with an input.
func hermodReading(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	binary, err := cluster.Build()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		status = exit.ExitCode()
	}
	return out.String(), errs.String(), status
}

// startStandalone runs one until the test ends.
func startStandalone(t *testing.T, args ...string) *cluster.Standalone {
	t.Helper()
	s, err := cluster.NewStandalone(t.TempDir(), args...)
	require.NoError(t, err)
	require.NoError(t, s.Start(within(t)))
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("standalone did not stop in order: %v", err)
		}
		checkLog(t, s.Node)
	})
	return s
}

// A newcomer's first minute: start, token, talk, restart, crash.
func TestStandalone(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	_, err := cluster.Build() // is not what is measured
	require.NoError(t, err)
	begin := time.Now()
	s := startStandalone(t)
	took, limit := time.Since(begin), readyWithin
	t.Logf("ready after %s", took)
	if os.Getenv("HERMOD_TEST_RACE") == "1" {
		limit *= 5 // the detector's price
	}
	require.Less(t, took, limit)

	info, err := os.Stat(filepath.Join(s.Data, "secret"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	secret, err := s.Secret()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(secret), 32)

	out, _, status := hermod(t, "token", "--account", "alice", "--data", s.Data)
	require.Zero(t, status)
	require.Regexp(t, `^[\w-]+\.[\w-]+\.[\w-]+\n$`, out, "just the token")
	aliceToken := strings.TrimSpace(out)
	code, domains, err := lookup(within(t), s.HTTP, aliceToken, "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{s.WS}, domains)

	alice := newUser(t, s.WS, aliceToken, legacy())
	bob := newUser(t, s.TCP, issue(t, secret, "default", "bob"), legacy())
	first := alice.say("bob", "hello")
	bob.hears(wire.CmdUserTalk, "bob", "alice", "hello")

	require.NoError(t, s.Stop(), "SIGTERM ends it with status 0")
	require.NoError(t, s.Start(within(t)))
	again, err := s.Secret()
	require.NoError(t, err)
	require.Equal(t, secret, again, "the secret is kept")
	alice = newUser(t, s.WS, aliceToken, legacy())
	second := alice.say("bob", "hello again")
	require.Equal(t, first.Conversation, second.Conversation, "the data are kept")
	require.EqualValues(t, 2, second.Seq)

	// What was said with success survives the worst end (I1).
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start(within(t)))
	alice = newUser(t, s.WS, aliceToken, modern("d"))
	require.EqualValues(t, 3, alice.say("bob", "after the crash").Seq)
	var history pb.HistoryResp
	alice.must(wire.CmdHistory, "", &pb.HistoryReq{Peer: "bob"}, &history)
	require.Len(t, history.Messages, 3)
	for i, want := range []string{"hello", "hello again", "after the crash"} {
		require.Equal(t, want, history.Messages[i].Body)
	}
}

// process is a standalone that is started by hand, for what it prints.
type process struct {
	*exec.Cmd
	out    *bufio.Reader
	log    string // the file of its standard error
	exited chan error
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	binary, err := cluster.Build()
	require.NoError(t, err)
	p := &process{Cmd: exec.Command(binary, args...), log: filepath.Join(t.TempDir(), "log"), exited: make(chan error, 1)}
	log, err := os.Create(p.log)
	require.NoError(t, err)
	defer log.Close() //nolint:errcheck // the child has it
	p.Stderr = log
	p.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.Stdout, p.out = w, bufio.NewReader(r)
	require.NoError(t, p.Start())
	require.NoError(t, w.Close())
	go func() { p.exited <- p.Wait() }()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(wait)))
	t.Cleanup(func() { _ = p.Process.Kill(); _ = r.Close() })
	return p
}

func (p *process) tail() string { return report(p.log, "") }

// stop sends a signal and waits for status 0.
func (p *process) stop(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, p.Process.Signal(s))
	select {
	case err := <-p.exited:
		require.NoError(t, err, p.tail())
	case <-time.After(wait):
		t.Fatalf("it does not stop:\n%s", p.tail())
	}
}

// anyPort are the flags that let a standalone pick its ports.
func anyPort(data string) []string {
	return []string{"standalone", "--data", data, "--ws", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"}
}

// With --json one line says where everything is, and there is nothing else on standard output.
func TestStandaloneJSON(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	const secret = "a secret of at least thirty-two bytes"
	data := t.TempDir()
	p := startProcess(t, append(anyPort(data), "--json", "--secret", secret, "--set", "node.name=jason")...)
	line, err := p.out.ReadBytes('\n')
	require.NoError(t, err, p.tail())
	var ready map[string]any
	require.NoError(t, json.Unmarshal(line, &ready), "%s", line)
	require.EqualValues(t, p.Process.Pid, ready["pid"])
	delete(ready, "pid")
	for key, scheme := range map[string]string{"ws": "ws", "tcp": "tcp", "http": "http", "admin": "http"} {
		require.Regexp(t, `^`+scheme+`://127\.0\.0\.1:[1-9]\d*$`, ready[key], key)
		delete(ready, key)
	}
	require.Empty(t, ready, "fields that others do not expect")
	require.NoFileExists(t, filepath.Join(data, "secret"), "none is made beside --secret")

	out, _, status := hermod(t, "token", "--account", "alice", "--app", "shop", "--secret", secret)
	require.Zero(t, status)
	require.NoError(t, json.Unmarshal(line, &ready))
	alice := newUser(t, ready["ws"].(string), strings.TrimSpace(out), legacy())
	require.Equal(t, "alice", alice.account)
	require.Contains(t, alice.channel, "jason", "--set sets any key")

	alice.hangUp()
	p.stop(t, syscall.SIGTERM)
	rest, err := p.out.ReadString('\n')
	require.Error(t, err)
	require.Empty(t, rest, "nothing else on standard output")
}

// The banner of a standalone says in one screen where to connect and how to get a token.
func TestStandaloneBanner(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	p := startProcess(t, anyPort(t.TempDir())...)
	var banner strings.Builder
	for lines := 0; !strings.Contains(banner.String(), "Ctrl-C"); lines++ {
		require.Less(t, lines, 24, "more than a screen:\n%s", banner.String())
		line, err := p.out.ReadString('\n')
		require.NoError(t, err, p.tail())
		banner.WriteString(line)
	}
	text := banner.String()
	for _, want := range []string{`ws://127\.0\.0\.1:\d+`, `tcp://127\.0\.0\.1:\d+`, `http://127\.0\.0\.1:\d+/api/lookup/`, ` chat --as alice --to bob `, ` token --account alice `} {
		require.Regexp(t, want, text)
	}

	// The commands that it proposes work as they stand.
	command := regexp.MustCompile(`(?m)^ +(\S+) (token .*)$`).FindStringSubmatch(text)
	require.NotNil(t, command)
	require.Equal(t, p.Path, command[1])
	out, errs, status := hermod(t, strings.Fields(command[2])...)
	require.Zero(t, status, errs)
	url := regexp.MustCompile(`ws://127\.0\.0\.1:\d+`).FindString(text)
	newUser(t, url, strings.TrimSpace(out), legacy()).hangUp()
	p.stop(t, os.Interrupt)
}

// Beyond its rate a client is told to try again later, and stays connected.
func TestRateLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "limits.connection_rate=1", "--set", "limits.connection_burst=5")
	secret, err := s.Secret()
	require.NoError(t, err)
	u := newUser(t, s.WS, issue(t, secret, "default", "alice"), legacy())
	for range 5 {
		u.say("bob", "hello")
	}
	u.refused(wire.StatusRateLimited, wire.CmdUserTalk, "bob", &pb.MessageReq{Type: 1, Body: "too much"})
	eventually(t, wait, "it may talk again", func() bool {
		return u.call(within(t), wire.CmdUserTalk, "bob", &pb.MessageReq{Type: 1, Body: "later"}, nil) == nil
	})
}

// What is wrong is named, with what to do, and ends with status 1.
func TestBadCommandLines(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close() //nolint:errcheck // a test
	busy := taken.Addr().String()
	config := filepath.Join(t.TempDir(), "hermod.yaml")
	require.NoError(t, os.WriteFile(config, []byte("gateway:\n  red_wait: 1m\n"), 0o600))
	data := t.TempDir()
	standalone := func(more ...string) []string { return append(anyPort(data), more...) }
	cluster := []string{"--set", "secret=a secret of at least thirty-two bytes"}
	workload := func(more ...string) []string {
		return append([]string{"verify", "--secret", "s", "--router", "http://" + busy}, more...)
	}
	service := func(name string, more ...string) []string { return append(append([]string{name}, cluster...), more...) }
	for _, c := range []struct {
		args []string
		want []string
	}{
		{standalone("--ws", busy), []string{busy, "in use"}},
		{standalone("--tcp", busy), []string{busy, "in use"}},
		{standalone("--http", busy), []string{busy, "in use"}},
		{standalone("--set", "admin.listen="+busy), []string{busy, "in use"}},
		{service("router", "--set", "router.listen="+busy), []string{busy, "in use"}},
		{service("gateway", "--set", "gateway.ws="+busy), []string{busy, "in use"}},
		{standalone("--ws", "nowhere"), []string{"gateway.ws", "host:port"}},
		{standalone("--set", "gateway.red_wait=1m"), []string{"gateway.red_wait", "gateway.read_wait"}},
		{standalone("--set", "gateway.read_wait=soon"), []string{"gateway.read_wait", "duration"}},
		{standalone("--set", "limits.enabled"), []string{"limits.enabled", "key=value"}},
		{standalone("--set", "registry.driver=consul"), []string{"registry.driver", "hermod gateway", "memory"}},
		{[]string{"standalone", "--data", filepath.Join(config, "sub")}, []string{"data folder"}},
		{[]string{"standalone", "--nonsense"}, []string{"--nonsense"}},
		{[]string{"standalone", "nonsense"}, []string{"nonsense"}},
		{[]string{"gateway", "--config", config}, []string{"red_wait", "read_wait"}},
		{[]string{"gateway", "--config", filepath.Join(data, "none.yaml")}, []string{"none.yaml"}},
		{[]string{"gateway"}, []string{"secret"}},
		{[]string{"logic"}, []string{"secret", "database.dsn"}},
		{[]string{"config", "check", "--config", config}, []string{"red_wait"}},
		{[]string{"migrate"}, []string{"database.dsn"}},
		{[]string{"token", "--account", "alice", "--data", filepath.Join(data, "none")}, []string{"--secret"}},
		{[]string{"token", "--account", "alice", "--secret", "s", "--ttl", "-1h"}, []string{"--ttl"}},
		{[]string{"token", "--account", strings.Repeat("a", 65), "--secret", "s"}, []string{"acc"}},
		{[]string{"token", "--secret", "s"}, []string{"account"}},
		// Regression: a zero was taken for the default, and 200 accounts talked.
		{workload("--accounts", "0"), []string{"--accounts 0", "at least 4"}},
		{workload("--accounts", "3"), []string{"--accounts 3", "at least 4"}},
		{workload("--groups", "0"), []string{"--groups 0", "at least 1"}},
		{workload("--devices", "0"), []string{"--devices 0", "at least 1"}},
		{workload("--rate", "0"), []string{"--rate 0", "more than 0"}},
		{workload("--rate", "-1"), []string{"--rate -1", "more than 0"}},
		{[]string{"nonsense"}, []string{"nonsense"}},
	} {
		out, errs, status := hermod(t, c.args...)
		what := strings.Join(c.args, " ")
		require.Equal(t, 1, status, "%s\n%s", what, errs)
		require.Empty(t, out, what)
		for _, w := range c.want {
			require.Contains(t, errs, w, what)
		}
		require.NotContains(t, errs, "goroutine ", what)
	}
}
