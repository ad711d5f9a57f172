// Package e2e drives the built binaries: a standalone, and a cluster of 2 gateways, 2 logic nodes and a router on
// real MariaDB, Redis and Consul. HERMOD_TEST_RACE=1 builds them with the race detector, whose
// reports fail the tests.
package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/redis"
	"github.com/hermod-im/hermod/test/cluster"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

const (
	// startWait bounds the start of the whole cluster, the building of its binary included.
	startWait = 3 * time.Minute
	// lease is that of the gateways' sessions: the least that is allowed, so that its end is soon.
	lease = 3 * time.Second
)

// TestCluster runs all tests that need the cluster on one: first those that leave its processes
// alone, side by side, then those that do not.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs MariaDB, Redis and Consul")
	}
	c := startCluster(t)
	t.Run("calm", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *site){
			"lookup":         testLookup,
			"talk":           testTalk,
			"idempotence":    testIdempotence,
			"group":          testGroup,
			"devices":        testDevices,
			"kick":           testKick,
			"sign out":       testSignOut,
			"offline":        testOffline,
			"sync":           testSync,
			"history":        testHistory,
			"strangers":      testStrangers,
			"tenants":        testTenants,
			"clients' lies":  testLies,
			"refused drafts": testRefusedDrafts,
			"old client":     testOldClient,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, c)
			})
		}
	})
	t.Run("late goodbye", func(t *testing.T) { testLateGoodbye(t, c) })
	t.Run("hand-over", func(t *testing.T) { testHandover(t, c) })
	t.Run("going away", func(t *testing.T) { testGoingAway(t, c) })
	t.Run("redis emptied", func(t *testing.T) { testRedisEmptied(t, c) })
	t.Run("redis goes back", func(t *testing.T) { testRedisGoesBack(t, c) })
	t.Run("logic frozen", func(t *testing.T) { testLateLogins(t, c) })
	t.Run("gateway killed", func(t *testing.T) { testGatewayKilled(t, c) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, c) })
}

// site is the cluster and what a test needs to look into it.
type site struct {
	*cluster.Cluster
	sessions storage.Sessions
}

func startCluster(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir, Set: []string{
		"limits.enabled=false", // 5,000 messages in a few seconds
		"sessions.lease=" + lease.String(),
		"registry.consul.ttl=2s",
		"shutdown.drain=2s",
	}})
	require.NoError(t, err)
	s := &site{c, redis.NewSessions(redis.Options{Addr: c.Redis.Addr, LivenessCache: time.Nanosecond})}
	t.Cleanup(func() {
		if err := s.sessions.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("the cluster did not stop in order: %v", err)
		}
		for _, n := range c.Nodes() {
			checkLog(t, n)
		}
	})
	return s
}

// checkLog fails the test for what no process may ever say, and shows its last words if it failed.
func checkLog(t testing.TB, n *cluster.Node) {
	t.Helper()
	for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
		if n.Grep(bad) {
			t.Errorf("the log of %s has %q:\n%s", n.Name, bad, report(n.LogPath, bad))
		}
	}
	if t.Failed() {
		t.Logf("the log of %s ends:\n%s", n.Name, n.Tail())
	}
}

// report is a log from the first line with the text.
func report(path, text string) string {
	const most = 8 << 10
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	s := string(data)
	s = s[max(0, strings.Index(s, text)):]
	return s[:min(len(s), most)]
}

// token makes one of the default tenant.
func (s *site) token(t testing.TB, account string) string {
	t.Helper()
	return issue(t, s.Secret, token.DefaultApp, account)
}

// user signs an account of the default tenant in.
func (s *site) user(t testing.TB, url, account string, login *pb.LoginReq) *user {
	t.Helper()
	return newUser(t, url, s.token(t, account), login)
}

// found is the account's sessions in Redis.
func (s *site) found(t testing.TB, account string) []storage.Session {
	t.Helper()
	found, err := s.sessions.Find(within(t), []storage.AccountKey{{App: token.DefaultApp, Account: account}})
	require.NoError(t, err)
	return found[0]
}

// eventually asks until the condition holds, for what the processes under test cannot be told to report.
func eventually(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ask := time.NewTicker(5 * time.Millisecond)
	defer ask.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", limit, what)
		case <-ask.C:
		}
	}
}

// metric adds up the series of a metric whose labels contain the text.
func metric(t testing.TB, name, labels string, nodes ...*cluster.Node) float64 {
	t.Helper()
	var sum float64
	for _, n := range nodes {
		status, body, err := n.Get(within(t), "/metrics")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		for line := range strings.Lines(body) {
			series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if got, l, _ := strings.Cut(series, "{"); got == name && strings.Contains(l, labels) {
				v, err := strconv.ParseFloat(value, 64)
				require.NoError(t, err)
				sum += v
			}
		}
	}
	return sum
}

var profileTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

// goroutines is how many a process has.
func goroutines(t testing.TB, n *cluster.Node) int {
	t.Helper()
	status, body, err := n.Get(within(t), "/debug/pprof/goroutine?debug=1")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	m := profileTotal.FindStringSubmatch(body)
	require.NotNil(t, m, "a goroutine profile")
	total, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return total
}

// descriptorsOf is how many descriptors of a kind a process has open.
func descriptorsOf(t testing.TB, n *cluster.Node, kind string) (count int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(n.PID()), "fd")
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, fd := range list {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err == nil && strings.HasPrefix(target, kind) { // otherwise it has been closed meanwhile
			count++
		}
	}
	return count
}

// lookup asks a router.
func lookup(ctx context.Context, router, token, query string) (status int, domains []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, router+"/api/lookup/"+token+query, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	var answer struct {
		UTC     int64
		Domains []string
	}
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(data, &answer)
	}
	if err == nil && resp.StatusCode == http.StatusOK && time.Since(time.Unix(answer.UTC, 0)).Abs() > time.Minute {
		err = fmt.Errorf("utc is %d", answer.UTC)
	}
	return resp.StatusCode, answer.Domains, err
}

func testLookup(t *testing.T, c *site) {
	alice := c.token(t, "lookup-alice")
	for query, want := range map[string][]string{"": c.GatewayURLs, "?transport=tcp": c.GatewayTCPURLs} {
		status, first, err := lookup(within(t), c.RouterURL, alice, query)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.ElementsMatch(t, want, first, "both gateways are ready")
		for range 5 {
			_, again, err := lookup(within(t), c.RouterURL, alice, query)
			require.NoError(t, err)
			require.Equal(t, first, again, "the same for a token")
		}
		c.user(t, first[0], "lookup-alice", legacy()).say("lookup-bob", "hello")
	}
	status, _, err := lookup(within(t), c.RouterURL, alice[:len(alice)-2]+"xx", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status)
}

// redisCommand gives Redis one command.
func redisCommand(t testing.TB, addr, command string) error {
	t.Helper()
	conn := dialRaw(t, addr)
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "+OK\r\n" {
		err = fmt.Errorf("redis: %s: %s", command, line)
	}
	return err
}
