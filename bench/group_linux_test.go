package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// testGroup is a group without servers, and its only sender, with so many messages under way.
func testGroup(online, messages int) (*groupRun, *groupSender) {
	r := &groupRun{
		o: GroupOptions{Online: online, Window: messages}, ack: &recorder{}, deliver: &recorder{}, failed: make(chan error, 1),
		receivers: make([]receiver, online), swarm: &swarm{},
	}
	s := &groupSender{run: r, loop: newLoop(0, messages, 0, 1), refused: map[string]int64{}}
	r.senders = []*groupSender{s}
	for range messages {
		s.loop.slots <- struct{}{}
		s.sent = append(s.sent, groupSending{at: time.Now(), left: online})
	}
	return r, s
}

// groupPush is message n of a sender as a receiver gets it.
func groupPush(t testing.TB, seq int64, sender, n int) []byte {
	t.Helper()
	body, err := proto.Marshal(&pb.MessagePush{Type: 1, Body: fmt.Sprintf("%02x%06x", sender, n), Sender: "a", Seq: seq, Conversation: "7"})
	require.NoError(t, err)
	p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdGroupTalk, Flag: wire.FlagPush, Dest: "7"}, Body: body}
	return p.Append(nil)
}

func (r *groupRun) result() *GroupResult {
	res := &GroupResult{Messages: 1, Deliveries: 1, Refused: Refusals{}}
	r.sum(res)
	return res
}

// A message that was stored twice has two seqs: a receiver knows the second copy by its sender and
// number. Copies were counted as deliveries, and so hid those that never came.
func TestGroupCountsWhatEachReceiverGets(t *testing.T) {
	type push struct {
		receiver int
		seq      int64
		message  int
	}
	for _, test := range []struct {
		name                     string
		pushes                   []push
		lost, doubled, reordered int64
		free                     int // of the window of 2
	}{
		{name: "nothing", lost: 4},
		{name: "everything", pushes: []push{{0, 1, 1}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2}}, free: 2},
		{name: "one receiver lacks one", pushes: []push{{0, 1, 1}, {1, 1, 1}, {0, 2, 2}}, lost: 1, free: 1},
		{name: "pushed twice", pushes: []push{{0, 1, 1}, {0, 1, 1}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2}}, doubled: 1, free: 2},
		{
			name:    "stored twice",
			pushes:  []push{{0, 1, 1}, {0, 2, 1}, {1, 1, 1}, {1, 2, 1}, {0, 3, 2}, {1, 3, 2}},
			doubled: 2, free: 2,
		},
		{
			name:   "stored twice, and both copies went to one receiver",
			pushes: []push{{0, 1, 1}, {0, 2, 1}, {0, 3, 2}, {1, 3, 2}},
			lost:   1, doubled: 1, free: 1,
		},
		{
			name:    "stored twice, the second copy long after all had the first",
			pushes:  []push{{0, 1, 1}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2}, {0, 3, 1}, {1, 3, 1}},
			doubled: 2, free: 2,
		},
		{name: "reordered", pushes: []push{{0, 2, 2}, {0, 1, 1}, {1, 1, 1}, {1, 2, 2}}, reordered: 1, free: 2},
		{
			name:    "reordered, and one of them again",
			pushes:  []push{{0, 2, 2}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}, {1, 2, 2}},
			doubled: 1, reordered: 1, free: 2,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, s := testGroup(2, 2)
			r.measured.begin()
			s.answered(1, wire.StatusSuccess)
			s.answered(2, wire.StatusSuccess)
			for _, p := range test.pushes {
				r.received(p.receiver, groupPush(t, p.seq, 0, p.message))
			}
			res := r.result()
			require.Equal(t, test.lost, res.Lost, "lost")
			require.Equal(t, test.doubled, res.Doubled, "doubled")
			require.Equal(t, test.reordered, res.Reordered, "reordered")
			require.Equal(t, test.lost+test.doubled+test.reordered == 0, res.Clean())
			require.Equal(t, 4-test.lost, r.deliveries.Load(), "copies are not deliveries")
			require.Len(t, s.loop.slots, 2-test.free)
			require.Empty(t, r.failed)
		})
	}
}

// A message that all have takes no room for who has it.
func TestGroupForgetsWhoHasWhatAllHave(t *testing.T) {
	const online = 130 // more than two words
	r, s := testGroup(online, 1)
	push := groupPush(t, 1, 0, 1)
	for i := range online - 1 {
		r.received(i, push)
		require.Len(t, s.sent[0].reached, 3)
	}
	r.received(online-1, push)
	require.Nil(t, s.sent[0].reached)
	require.Zero(t, s.sent[0].left)
}

func TestGroupRecordsLateLatencies(t *testing.T) {
	for _, test := range latenesses() {
		t.Run(test.name, func(t *testing.T) {
			r, s := testGroup(1, 1)
			s.sent[0].at = test.measure(&r.measured)
			s.answered(1, wire.StatusSuccess)
			r.received(0, groupPush(t, 1, 0, 1))
			res := r.result()
			test.check(t, "ack", res.Ack)
			test.check(t, "deliver", res.Deliver)

			during := int64(0) // throughput and CPU are of what is done while measuring
			if test.ended == 0 {
				during = 1
			}
			require.Equal(t, during, r.acked.Load())
			require.Equal(t, during, r.deliveries.Load())
		})
	}
}

// A delivery is counted in some tens of nanoseconds: on one core there are a million a second.
func BenchmarkGroupDelivery(b *testing.B) {
	const online = 15_000
	r, _ := testGroup(online, 1)
	s := r.senders[0]
	r.measured.begin()
	for n := 0; b.Loop(); n++ {
		if n%online == 0 {
			s.sent = append(s.sent[:0], groupSending{at: time.Now(), left: online})
		}
		s.delivered(n%online, 1)
	}
}
