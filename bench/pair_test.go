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

// testTalk is pairs without servers, each of which has sent so many messages, to its receivers by turns.
func testTalk(pairs, conversations, messages int) *talkRun {
	r := &talkRun{
		o: TalkOptions{Pairs: pairs, Conversations: conversations, Window: messages}, id: "1",
		ack: &recorder{}, deliver: &recorder{}, failed: make(chan error, 1), senders: map[string]*pair{},
	}
	for i := range pairs {
		p := &pair{
			run: r, index: i, from: &user{account: r.senderOf(i)}, to: &user{account: r.receiverOf(i)},
			stopped: true, highest: make([]int, conversations/pairs), refused: map[string]int64{},
		}
		for k := range p.highest {
			p.receivers = append(p.receivers, r.receiverOf(i+k))
		}
		for range messages {
			p.sent = append(p.sent, sending{at: time.Now()})
			p.underWay++
		}
		r.pairs = append(r.pairs, p)
		r.senders[p.from.account] = p
	}
	return r
}

// talkPush is message n of a sender as an account gets it.
func talkPush(t testing.TB, sender string, n int) *wire.LogicPkt {
	t.Helper()
	body, err := proto.Marshal(&pb.MessagePush{Type: 1, Body: fmt.Sprintf("%0*x", MinSize, n), Sender: sender})
	require.NoError(t, err)
	return &wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, Body: body}
}

// talkAnswer is what the sender of message n is told.
func talkAnswer(n int, status wire.Status) *wire.LogicPkt {
	return &wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagResponse, Sequence: uint32(n), Status: status}}
}

func (r *talkRun) result() *TalkResult {
	res := &TalkResult{Messages: 1, Refused: Refusals{}}
	r.sum(res)
	return res
}

// Message 1 of pair 0 is for the receiver of pair 0, message 2 for that of pair 1. What any receiver got
// was counted as delivered.
func TestTalkLooksForWhomAMessageIs(t *testing.T) {
	const a0 = "bench-1-a0"
	receiver := func(i int) func(*talkRun, *wire.LogicPkt) error {
		return func(r *talkRun, m *wire.LogicPkt) error { return r.pairs[i].push(m) }
	}
	sender := func(r *talkRun, m *wire.LogicPkt) error { return r.pairs[0].answer(m) }
	type push struct {
		to     func(*talkRun, *wire.LogicPkt) error
		sender string
		n      int
	}
	for _, test := range []struct {
		name                       string
		pushes                     []push
		lost, doubled, misdirected int64
		text                       string
	}{
		{name: "each to its receiver", pushes: []push{{receiver(0), a0, 1}, {receiver(1), a0, 2}}},
		{
			name:   "twice to its receiver",
			pushes: []push{{receiver(0), a0, 1}, {receiver(1), a0, 2}, {receiver(1), a0, 2}}, doubled: 1,
		},
		{
			name:   "to the receivers of each other",
			pushes: []push{{receiver(1), a0, 1}, {receiver(0), a0, 2}},
			lost:   2, misdirected: 2, text: "bench-1-b1 got message 1 of bench-1-a0",
		},
		{
			name:        "to a wrong receiver, too",
			pushes:      []push{{receiver(0), a0, 1}, {receiver(1), a0, 1}, {receiver(1), a0, 2}},
			misdirected: 1, text: "bench-1-b1 got message 1 of bench-1-a0",
		},
		{
			name:        "to its sender, too",
			pushes:      []push{{receiver(0), a0, 1}, {receiver(1), a0, 2}, {sender, a0, 2}},
			misdirected: 1, text: "bench-1-a0 got message 2 of bench-1-a0",
		},
		{
			name:        "of a sender of another run",
			pushes:      []push{{receiver(0), a0, 1}, {receiver(1), a0, 2}, {receiver(0), "bench-2-a0", 1}},
			misdirected: 1, text: "bench-1-b0 got message 1 of bench-2-a0",
		},
		{
			name:        "that nobody has sent",
			pushes:      []push{{receiver(0), a0, 1}, {receiver(1), a0, 2}, {receiver(0), a0, 3}},
			misdirected: 1, text: "bench-1-b0 got message 3 of bench-1-a0",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := testTalk(2, 4, 2)
			r.pairs[1].sent = nil
			for n := range 2 {
				require.NoError(t, r.pairs[0].answer(talkAnswer(n+1, wire.StatusSuccess)))
			}
			for _, p := range test.pushes {
				require.NoError(t, p.to(r, talkPush(t, p.sender, p.n)))
			}
			res := r.result()
			require.Equal(t, test.lost, res.Lost, "lost")
			require.Equal(t, test.doubled, res.Doubled, "doubled")
			require.Equal(t, test.misdirected, res.Misdirected, "misdirected")
			require.Equal(t, test.text, res.Misdirection)
			require.Equal(t, test.lost+test.doubled+test.misdirected == 0, res.Clean())
			require.Equal(t, 2-test.lost, r.delivered.Load(), "delivered")
			require.EqualValues(t, test.lost, r.pairs[0].left(), "under way")
		})
	}
}

func TestTalkRecordsLateLatencies(t *testing.T) {
	for _, test := range latenesses() {
		t.Run(test.name, func(t *testing.T) {
			r := testTalk(1, 1, 1)
			p := r.pairs[0]
			p.sent[0].at = test.measure(&r.measured)
			require.NoError(t, p.answer(talkAnswer(1, wire.StatusSuccess)))
			require.NoError(t, p.push(talkPush(t, p.from.account, 1)))
			res := r.result()
			test.check(t, "ack", res.Ack)
			test.check(t, "deliver", res.Deliver)
		})
	}
}
