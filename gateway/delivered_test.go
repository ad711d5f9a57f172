package gateway

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// runOf is a push of one message.
func runOf(conversation, seq, id int64) []wire.Delivered {
	return []wire.Delivered{{Conversation: conversation, From: seq, To: seq, MessageID: id}}
}

// oldSession is one of a client without cursors, on line, with its channel.
func oldSession() (*session, *fakeChannel) {
	ch := newFakeChannel("c")
	return &session{ch: ch, online: true}, ch
}

func TestDeliveredInOrder(t *testing.T) {
	s, ch := oldSession()
	require.Nil(t, s.asks(wire.CmdTalkAck, nil), "nothing was delivered")
	require.NoError(t, s.push(wire.Pong))
	require.Nil(t, s.delivered, "and nothing is allocated before")
	require.NoError(t, s.deliver([]byte("a"), runOf(7, 1, 30), false))
	require.NoError(t, s.deliver([]byte("b"), runOf(9, 1, 20), false))
	page := []wire.Delivered{{Conversation: 7, From: 1, To: 2, MessageID: 31}, {Conversation: 8, From: 5, To: 9, MessageID: 31}}
	require.NoError(t, s.deliver([]byte("c"), page, true))
	require.NoError(t, s.deliver([]byte("d"), runOf(9, 2, 32), false))
	ch.full = true
	require.ErrorIs(t, s.deliver([]byte("e"), runOf(9, 3, 33), false), im.ErrQueueFull)

	onTheWay := slices.Clone(page)
	onTheWay[0].MessageID, onTheWay[1].MessageID = 0, 0
	want := slices.Concat(runOf(7, 1, 30), runOf(9, 1, 20), onTheWay, runOf(9, 2, 32))
	require.Equal(t, want, s.asks(wire.CmdTalkAck, nil), "what could not be queued is not in it")
	for _, cmd := range []wire.Command{wire.CmdUserTalk, wire.CmdSync, wire.CmdSignOut} {
		require.Nil(t, s.asks(cmd, nil))
	}
	require.Equal(t, want, s.asks(wire.CmdTalkAck, nil), "an ack that was not answered changes nothing")
	for _, cmd := range []wire.Command{wire.CmdOfflineIndex, wire.CmdOfflineContent} {
		copy(s.delivered.runs[2:], []wire.Delivered{
			{Conversation: 7, From: 1, To: 2, MessageID: -31}, {Conversation: 8, From: 5, To: 9, MessageID: -31},
		})
		require.Nil(t, s.asks(cmd, nil))
		want = slices.Concat(runOf(7, 1, 30), runOf(9, 1, 20), page, runOf(9, 2, 32))
		require.Equal(t, want, s.asks(wire.CmdTalkAck, nil), "who asks on has the page")
	}

	s.acknowledged([]wire.Delivered{{Conversation: 7, To: 1}, {Conversation: 9, To: 1}})
	require.Equal(t, slices.Concat(page, runOf(9, 2, 32)), s.asks(wire.CmdTalkAck, nil))
	s.acknowledged([]wire.Delivered{{Conversation: 7, To: 2}, {Conversation: 8, To: 9}, {Conversation: 9, To: 2}})
	require.Nil(t, s.delivered)
	s.acknowledged(nil)
}

// A client that reads its index from 0 goes on reading what it has not acknowledged; one that asks
// above an id gets everything above it.
func TestReadingTheIndex(t *testing.T) {
	s, _ := oldSession()
	asks := func(after int64) []wire.Delivered {
		body, err := proto.Marshal(&pb.MessageIndexReq{MessageId: after})
		require.NoError(t, err)
		return s.asks(wire.CmdOfflineIndex, body)
	}
	answer := func(runs ...wire.Delivered) {
		p := &wire.LogicPkt{Header: wire.Header{Command: wire.CmdOfflineIndex, Flag: wire.FlagResponse}}
		p.Delivered = runs
		require.NoError(t, s.answer(p))
	}
	goesOn := func(id int64) []wire.Delivered { return []wire.Delivered{{MessageID: id}} }

	require.Nil(t, asks(0))
	answer(runOf(7, 1, 30)...)
	require.Equal(t, goesOn(30), asks(30))
	require.Equal(t, goesOn(30), asks(30), "again, after an error")
	answer(runOf(7, 2, 40)...)
	s.acknowledged([]wire.Delivered{{Conversation: 7, To: 2}})
	require.Equal(t, goesOn(40), asks(40), "though all of it is acknowledged")
	answer()
	require.Nil(t, s.delivered, "which is the end")
	require.Nil(t, asks(40))
	answer(runOf(7, 3, 50)...)
	require.Nil(t, asks(50), "began above an id")
	require.Nil(t, s.asks(wire.CmdOfflineIndex, []byte{0xff}))
}

// A client that keeps cursors pays nothing, and nothing is noted of it.
func TestDeliveredToAClientThatSyncs(t *testing.T) {
	s, ch := oldSession()
	ch.keep = false
	s.features = wire.FeatureSync
	payload, runs := []byte("a"), runOf(7, 1, 30)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if s.deliver(payload, runs, false) != nil || s.asks(wire.CmdTalkAck, nil) != nil {
			t.Fatal("noted")
		}
	}))
	require.Nil(t, s.delivered)
	require.LessOrEqual(t, unsafe.Sizeof(s.delivered), uintptr(8))
}

// What waits for the login's answer has its place too, and what finds no room has none.
func TestDeliveredDuringTheLogin(t *testing.T) {
	s, ch := oldSession()
	s.online, s.login = false, new(signIn)
	for i := range int64(maxHeld) {
		require.NoError(t, s.deliver([]byte{byte(i)}, runOf(7, i+1, i+100), false))
	}
	require.ErrorIs(t, s.deliver(nil, runOf(7, maxHeld+1, 900), false), im.ErrQueueFull)
	require.NoError(t, s.begin([]byte("welcome")))
	require.NoError(t, s.deliver(nil, runOf(8, 1, 901), false))
	require.Len(t, ch.pushed, maxHeld+2)
	list := s.asks(wire.CmdTalkAck, nil)
	require.Len(t, list, maxHeld+1)
	require.EqualValues(t, 7, list[maxHeld-1].Conversation)
	require.EqualValues(t, 901, list[maxHeld].MessageID)
}

// Two links deliver to one channel: the list has the order of the queue.
func TestDeliveredConcurrently(t *testing.T) {
	s, ch := oldSession()
	var wg sync.WaitGroup
	for link := range int64(2) {
		wg.Go(func() {
			for i := range int64(keptApart) {
				id := 1 + link*keptApart + i
				_ = s.deliver([]byte(fmt.Sprint(id)), runOf(link, i+1, id), false)
			}
		})
	}
	wg.Wait()
	var queued, noted []string
	for _, p := range ch.pushed[keptApart:] {
		queued = append(queued, string(p))
	}
	list := s.asks(wire.CmdTalkAck, nil)
	for _, r := range list[len(list)-keptApart:] {
		noted = append(noted, fmt.Sprint(r.MessageID))
	}
	require.Equal(t, queued, noted, "in particular the newest, which are never merged")
}

// What a list may take, in bytes.
func TestDeliveredIsBounded(t *testing.T) {
	size := func(d *deliveries) int { return cap(d.runs) * int(unsafe.Sizeof(wire.Delivered{})) }
	t.Run("a client that never acknowledges", func(t *testing.T) {
		var d deliveries
		for i := range int64(100_000) {
			d.add(runOf(i%20, i/20, i+1), false)
			require.LessOrEqual(t, size(&d), 18<<10)
		}
		require.Equal(t, wire.Delivered{Conversation: 0, From: 0, To: d.runs[0].To}, d.runs[0], "nothing is lost by merging")
		require.Greater(t, d.runs[0].To, int64(4900))
	})
	t.Run("in ever new conversations", func(t *testing.T) {
		var d deliveries
		for i := range int64(100_000) {
			d.add(runOf(i, 1, i+1), false)
			require.LessOrEqual(t, len(d.runs), maxRuns+keptApart)
			require.LessOrEqual(t, size(&d), 176<<10)
		}
		require.EqualValues(t, 100_000, d.runs[len(d.runs)-1].MessageID)
		require.Greater(t, len(d.runs), maxRuns-keptApart)
	})
	t.Run("pages of as many conversations as they have lines", func(t *testing.T) {
		var d deliveries
		for i := range int64(50) {
			page := make([]wire.Delivered, 2000)
			for j := range page {
				page[j] = wire.Delivered{Conversation: i*2000 + int64(j), From: 1, To: 1, MessageID: i + 1}
			}
			d.add(page, true)
			require.LessOrEqual(t, len(d.runs), maxRuns)
			require.LessOrEqual(t, size(&d), 128<<10)
			require.EqualValues(t, -i-1, d.runs[len(d.runs)-2000].MessageID, "the newest page is whole")
			require.EqualValues(t, -i-1, d.runs[len(d.runs)-1].MessageID)
		}
		acked := make([]wire.Delivered, 0, 100_000)
		for i := range int64(100_000 - 1) {
			acked = append(acked, wire.Delivered{Conversation: i, To: 1})
		}
		d.forget(acked)
		require.Len(t, d.runs, 1)
		require.LessOrEqual(t, size(&d), 64, "memory is given back")
	})
}

// Merging keeps exactly what was delivered, and the newest runs as they were.
func TestMergingKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type place struct{ conversation, seq int64 }
		var d deliveries
		want := map[place]bool{}
		var all []wire.Delivered
		ids := int64(0)
		for range rapid.IntRange(1, 900).Draw(t, "packets") {
			ids++
			page := rapid.IntRange(0, 50).Draw(t, "page") == 0
			n := 1
			if page {
				n = rapid.IntRange(1, 20).Draw(t, "runs")
			}
			var runs []wire.Delivered
			for range n {
				from := rapid.Int64Range(1, 60).Draw(t, "from")
				r := wire.Delivered{Conversation: rapid.Int64Range(1, 9).Draw(t, "conversation"), From: from, To: from, MessageID: ids}
				if page {
					r.To += rapid.Int64Range(0, 9).Draw(t, "more")
				}
				for seq := r.From; seq <= r.To; seq++ {
					want[place{r.Conversation, seq}] = true
				}
				runs = append(runs, r)
			}
			d.add(runs, page)
			all = append(all, runs...)
		}
		d.arrived()
		got := map[place]bool{}
		for _, r := range d.all() {
			for seq := r.From; seq <= r.To; seq++ {
				got[place{r.Conversation, seq}] = true
			}
		}
		require.Equal(t, want, got)
		newest := min(len(all), keptApart)
		require.Equal(t, all[len(all)-newest:], d.runs[len(d.runs)-newest:])
	})
}

// On the way: what a logic node says that its packets hold comes back with the ack, and the answer
// to a talk is of a message too.
func TestAckNamesWhatWasDelivered(t *testing.T) {
	f, n := startPair(t, nil)
	old, fresh := f.login("alice"), f.login("bob", "sync")
	push := func(runs []wire.Delivered, channels ...string) {
		p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}}
		p.Channels, p.Delivered = channels, runs
		require.NoError(t, n.hub.Push(gatewayID, p.Append(nil)))
	}
	push(runOf(7, 1, 20), old.channel, fresh.channel)
	for _, c := range []*client{old, fresh} {
		require.Equal(t, wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, c.read().Header, "clients see none of it")
	}
	page := []wire.Delivered{{Conversation: 5, From: 3, To: 9, MessageID: 19}, {Conversation: 7, From: 1, To: 1, MessageID: 19}}
	n.on(wire.CmdOfflineIndex, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		answer := wire.LogicPkt{Header: p.Header}
		answer.Flag, answer.Link = wire.FlagResponse, wire.Link{Delivered: page}
		_ = a.Push(answer.Append(nil))
		page = nil
	})
	n.on(wire.CmdUserTalk, reply(&pb.MessageResp{MessageId: 21, Seq: 2, Conversation: "7"}))
	n.on(wire.CmdGroupTalk, refused(wire.StatusNoDestination))
	want := slices.Concat(runOf(7, 1, 20), page, runOf(7, 2, 21))
	ask := func(sequence uint32, cmd wire.Command, status wire.Status) {
		t.Helper()
		old.send(wire.Header{Command: cmd, Sequence: sequence, Dest: "bob"}, nil)
		p := old.answered(cmd, sequence, status)
		require.Empty(t, p.Link)
	}
	ask(1, wire.CmdOfflineIndex, wire.StatusSuccess)
	ask(2, wire.CmdOfflineIndex, wire.StatusSuccess)
	ask(3, wire.CmdUserTalk, wire.StatusSuccess)
	ask(4, wire.CmdGroupTalk, wire.StatusNoDestination)
	n.on(wire.CmdTalkAck, refused(wire.StatusSystemException))
	ask(5, wire.CmdTalkAck, wire.StatusSystemException)
	n.on(wire.CmdTalkAck, func(n *logic, a im.Agent, p *wire.LogicPkt) {
		answer := wire.LogicPkt{Header: p.Header}
		answer.Flag, answer.Link = wire.FlagResponse, wire.Link{Delivered: []wire.Delivered{{Conversation: 7, To: 2}}}
		_ = a.Push(answer.Append(nil))
	})
	ask(6, wire.CmdTalkAck, wire.StatusSuccess)
	ask(7, wire.CmdTalkAck, wire.StatusSuccess)
	body, err := proto.Marshal(&pb.MessageAckReq{MessageId: 20})
	require.NoError(t, err)
	fresh.send(wire.Header{Command: wire.CmdTalkAck, Sequence: 1}, body)
	fresh.answered(wire.CmdTalkAck, 1, wire.StatusSuccess)

	acks := n.got(wire.CmdTalkAck)
	require.Equal(t, want, acks[0].Delivered)
	require.Equal(t, want, acks[1].Delivered, "nothing had been done")
	require.Equal(t, want[1:2], acks[2].Delivered, "what is not acknowledged yet")
	require.Nil(t, acks[3].Delivered, "a client that syncs")
}

// A push to clients that keep cursors, and to such that do not.
func BenchmarkDeliverMessage(b *testing.B) {
	f, channels := costFixture(b, 1000)
	for _, features := range []wire.Features{wire.FeatureSync, 0} {
		for _, ch := range channels {
			sessionOf(ch).features = features
		}
		p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Flag: wire.FlagPush}, Body: make([]byte, 100)}
		for _, ch := range channels {
			p.Channels = append(p.Channels, ch.id)
		}
		p.Delivered = runOf(1<<60, 1, 1<<60)
		b.Run(fmt.Sprint("features=", features.Names()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Delivered[0].From++
				p.Delivered[0].To++
				p.Delivered[0].MessageID++
				f.deliverBytes(p.Append(nil))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(channels)), "ns/channel")
		})
	}
}
