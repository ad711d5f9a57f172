package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/bench"
)

// The floor needs no server.
func TestBenchFloor(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	for _, window := range []string{"1", "16"} {
		out, log, status := hermod(t, "bench", "floor", "--json", "--pairs", "5", "--window", window, "--duration", "500ms", "--warmup", "0s")
		require.Zero(t, status, log)
		var r bench.FloorResult
		require.NoError(t, json.Unmarshal([]byte(out), &r), out)
		require.Positive(t, r.Messages)
		require.Positive(t, r.CPU)
	}
	_, log, status := hermod(t, "bench", "floor", "--window", "257")
	require.Equal(t, 1, status)
	require.Contains(t, log, "a window of 1 to 256")
}

// Every load counts what it should on a real system, and measures it.
func TestBenchCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "limits.enabled=false")
	var lines strings.Builder
	run := func(args ...string) (r bench.Run) {
		t.Helper()
		args = append(args, "--json", "--site", "here", "--data", s.Data, "--pid", fmt.Sprint("standalone=", s.PID()))
		out, log, status := hermod(t, append([]string{"bench"}, args...)...)
		require.Zero(t, status, log)
		require.NoError(t, json.Unmarshal([]byte(out), &r), out)
		require.True(t, r.Clean())
		lines.WriteString(out)
		return r
	}

	talk := run("talk", "--url", s.WS, "--pairs", "3", "--rate", "300", "--warmup", "0s", "--duration", "1s").Talk
	require.Positive(t, talk.Messages)
	require.Equal(t, talk.Sent, talk.Acked)
	require.Positive(t, talk.CPU.Total)

	many := run("talk", "--url", s.WS, "--pairs", "3", "--conversations", "8", "--window", "4", "--warmup", "0s", "--duration", "500ms").Talk
	require.Equal(t, 9, many.Conversations, "as many for each sender")
	require.Positive(t, many.Messages)
	require.Equal(t, many.Sent, many.Acked)

	connect := run("connect", "--url", s.WS, "--connections", "50", "--hold", "500ms", "--heartbeat", "200ms").Connect
	require.Equal(t, 50, connect.Connections)
	require.GreaterOrEqual(t, connect.Pings, int64(150))
	require.Equal(t, 1, connect.Workers)

	connects := run("connect", "--url", s.TCP, "--connections", "50", "--processes", "3", "--hold", "100ms", "--heartbeat", "50ms").Connect
	require.Equal(t, 50, connects.Connections, "divided among the processes")
	require.Equal(t, 3, connects.Workers)
	require.Positive(t, connects.Login.P50)
	require.Positive(t, connects.OwnMemory)

	turns := run("connect", "--url", s.WS+","+s.WS, "--connections", "50", "--processes", "3", "--in-turn", "--hold", "100ms", "--heartbeat", "50ms").Connect
	require.Equal(t, 50, turns.Connections, "one process after the other")
	require.Equal(t, 3, turns.Workers)

	group := run("group", "--url", s.TCP, "--members", "40", "--online", "30", "--senders", "2", "--window", "2", "--warmup", "0s", "--duration", "500ms").Group
	require.Positive(t, group.Acked)
	require.InDelta(t, 30*group.Messages, group.Deliveries, 30*8) // but for those under way in the beginning and in the end

	require.Equal(t, 5, run("group", "--url", s.TCP, "--members", "5", "--warmup", "0s", "--duration", "100ms").Group.Online, "all, unless it is said")
	_, log, status := hermod(t, "bench", "group", "--url", s.TCP, "--members", "3", "--data", s.Data)
	require.Equal(t, 1, status)
	require.Contains(t, log, "3 members, 3 of them on line, 4 of those sending")

	// Each account may send 10 messages in a second: all others are refused.
	limited := startStandalone(t, "--set", "limits.connection_rate=1", "--set", "limits.connection_burst=10")
	for _, load := range [][]string{{"talk", "--pairs", "2"}, {"group", "--members", "3", "--senders", "1"}} {
		args := append([]string{"bench"}, load...)
		_, log, status = hermod(t, append(args, "--url", limited.TCP, "--data", limited.Data, "--warmup", "0s", "--duration", "500ms")...)
		require.Equal(t, 1, status, load)
		require.Contains(t, log, "requests were refused, most with rate limited (302): start the servers with --set limits.enabled=false", load)
	}

	sync := run("sync", "--url", s.WS+","+s.TCP, "--clients", "10", "--unread", "600", "--peers", "3").Sync
	require.EqualValues(t, 6000, sync.Messages)
	require.EqualValues(t, 20, sync.Pages, "500 messages a page")

	dir := t.TempDir()
	runs, page := filepath.Join(dir, "runs.json"), filepath.Join(dir, "report.html")
	require.NoError(t, os.WriteFile(runs, []byte(lines.String()), 0o600))
	var out string
	out, log, status = hermod(t, "bench", "report", "--html", page, runs)
	require.Zero(t, status, log)
	for _, row := range []string{"here: 3 pairs, 9 conversations, window 4", "here: 50 connections", "here: 40 members, 30 on line, 2 senders, window 2", "here: 10 clients"} {
		require.Contains(t, out, "| "+row)
	}
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(html), "here: 50 connections")
}
