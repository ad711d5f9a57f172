package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/wire"
)

// hermod runs the binary and returns what it printed and its exit status.
func hermod(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	binary, err := cluster.Build()
	require.NoError(t, err)
	cmd := exec.Command(binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		status = exit.ExitCode()
	}
	return out.String(), errs.String(), status
}

// A newcomer's first minute: start, token, talk, restart, stop.
func TestStandalone(t *testing.T) {
	s, err := cluster.NewStandalone(t.TempDir())
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, s.Start(within(t)))
	t.Logf("ready after %s", time.Since(begin))
	t.Cleanup(func() {
		require.NoError(t, s.Stop())
		checkLog(t, s.Node)
	})
	info, err := os.Stat(filepath.Join(s.Data, "secret"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	secret, err := s.Secret()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(secret), 32)

	out, _, status := hermod(t, "token", "--account", "alice", "--data", s.Data)
	require.Zero(t, status)
	aliceToken := strings.TrimSpace(out)
	require.Equal(t, 2, strings.Count(aliceToken, "."), "just the token")
	code, domains, err := lookup(within(t), s.HTTP, aliceToken, "")
	require.NoError(t, err)
	require.Equal(t, 200, code)
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
	alice = newUser(t, s.WS, aliceToken, legacy())
	require.EqualValues(t, 3, alice.say("bob", "after the crash").Seq)
}

// What is wrong is named, with what to do, and ends with status 1.
func TestBadCommandLines(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close() //nolint:errcheck // a test
	config := filepath.Join(t.TempDir(), "hermod.yaml")
	require.NoError(t, os.WriteFile(config, []byte("gateway:\n  red_wait: 1m\n"), 0o600))
	data := t.TempDir()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"standalone", "--data", data, "--ws", taken.Addr().String(), "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"}, []string{taken.Addr().String(), "in use"}},
		{[]string{"standalone", "--data", data, "--set", "gateway.red_wait=1m"}, []string{"gateway.red_wait", "gateway.read_wait"}},
		{[]string{"standalone", "--data", data, "--set", "gateway.read_wait=soon"}, []string{"gateway.read_wait", "duration"}},
		{[]string{"standalone", "--data", filepath.Join(config, "sub")}, []string{"data folder"}},
		{[]string{"standalone", "--nonsense"}, []string{"--nonsense"}},
		{[]string{"gateway", "--config", config}, []string{"red_wait", "read_wait"}},
		{[]string{"gateway", "--config", filepath.Join(data, "none.yaml")}, []string{"none.yaml"}},
		{[]string{"logic"}, []string{"secret", "database.dsn"}},
		{[]string{"config", "check", "--config", config}, []string{"red_wait"}},
		{[]string{"migrate"}, []string{"database.dsn"}},
		{[]string{"token", "--account", "alice", "--data", filepath.Join(data, "none")}, []string{"--secret"}},
		{[]string{"token", "--secret", "s"}, []string{"account"}},
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
