package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/bench"
)

// Every load counts what it should on a real system, and measures it.
func TestBenchCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "limits.enabled=false")
	run := func(into any, args ...string) {
		t.Helper()
		args = append(args, "--json", "--data", s.Data, "--pid", fmt.Sprint("standalone=", s.PID()))
		out, log, status := hermod(t, append([]string{"bench"}, args...)...)
		require.Zero(t, status, log)
		require.NoError(t, json.Unmarshal([]byte(out), into), out)
	}

	var talk bench.TalkResult
	run(&talk, "talk", "--url", s.WS, "--pairs", "3", "--rate", "300", "--warmup", "0s", "--duration", "1s")
	require.Positive(t, talk.Messages)
	require.Equal(t, talk.Sent, talk.Acked)
	require.Positive(t, talk.CPU.Total)

	var many bench.TalkResult
	run(&many, "talk", "--url", s.WS, "--pairs", "3", "--conversations", "8", "--window", "4", "--warmup", "0s", "--duration", "500ms")
	require.Equal(t, 9, many.Conversations, "as many for each sender")
	require.Positive(t, many.Messages)
	require.Equal(t, many.Sent, many.Acked)

	var connect bench.ConnectResult
	run(&connect, "connect", "--url", s.WS, "--connections", "50", "--hold", "500ms", "--heartbeat", "200ms")
	require.Equal(t, 50, connect.Connections)
	require.GreaterOrEqual(t, connect.Pings, int64(150))
	require.Equal(t, 1, connect.Workers)

	var connects bench.ConnectResult
	run(&connects, "connect", "--url", s.TCP, "--connections", "50", "--processes", "3", "--hold", "100ms", "--heartbeat", "50ms")
	require.Equal(t, 50, connects.Connections, "divided among the processes")
	require.Equal(t, 3, connects.Workers)
	require.Positive(t, connects.Login.P50)
	require.Positive(t, connects.OwnMemory)

	var group bench.GroupResult
	run(&group, "group", "--url", s.TCP, "--members", "40", "--online", "30", "--senders", "2", "--window", "2", "--warmup", "0s", "--duration", "500ms")
	require.Positive(t, group.Acked)
	require.InDelta(t, 30*group.Messages, group.Deliveries, 30*8) // but for those under way in the beginning and in the end

	var sync bench.SyncResult
	run(&sync, "sync", "--url", s.WS+","+s.TCP, "--clients", "10", "--unread", "600", "--peers", "3")
	require.EqualValues(t, 6000, sync.Messages)
	require.EqualValues(t, 20, sync.Pages, "500 messages a page")
}
