package logic

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
)

// countedBatch counts the writes.
type countedBatch struct{ begun, ended atomic.Int32 }

func (b *countedBatch) Begin() { b.begun.Add(1) }
func (b *countedBatch) End()   { b.ended.Add(1) }

// No answer is early, none later than the gap, and those between two gaps leave together.
func TestAnswersAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay, ms = 50 * time.Millisecond, time.Millisecond
		agent := &fakeAgent{happened: await.NewEvents()}
		node := &Node{log: quiet(), metrics: newMetrics(prometheus.NewRegistry())}
		writes := new(countedBatch)
		a := newAnswers(delay, writes)
		ask := func(account string) {
			c := &Context{agent: agent, node: node, log: node.log}
			c.Packet.Header = asClient(account, wire.CmdSignIn)
			node.inflight.Add(1)
			a.add(c, nil)
		}
		answered := func(sleep time.Duration, want int, inWrites int32) {
			t.Helper()
			time.Sleep(sleep)
			synctest.Wait()
			require.Len(t, agent.got(), want)
			require.Equal(t, inWrites, writes.ended.Load())
			require.Equal(t, writes.begun.Load(), writes.ended.Load())
		}
		ask("at 0")
		for range 3 {
			time.Sleep(ms)
			ask("at 1, 2 and 3")
		}
		answered(47*ms-1, 0, 0)
		answered(1, 1, 1)
		answered(answerGap-1, 1, 1)
		answered(1, 4, 2)
		require.Zero(t, node.inflight.Load())

		ask("when nothing waits")
		answered(delay-1, 4, 2)
		answered(1, 5, 3)

		ask("first")
		time.Sleep(20 * ms)
		ask("long behind it")
		answered(30*ms, 6, 4)
		answered(20*ms-1, 6, 4)
		answered(1, 7, 5)
	})
}
