package verify

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

// desk is a conversation in which account 0 has said five messages, and a device of account 1.
type desk struct {
	o      *oracle.Oracle
	device *oracle.Device
	said   []*oldclient.Message
}

func newDesk(kind oracle.Kind) *desk {
	d := &desk{o: oracle.New("run", []string{"a", "b"}), device: &oracle.Device{Account: 1, Name: "it", Kind: kind}}
	from := &oracle.Device{Account: 0, Name: "from"}
	topic := d.o.Topic("a and b", "7", 0, 1)
	d.o.Open(from)
	d.o.Open(d.device)
	for seq := int64(1); seq <= 5; seq++ {
		n, body, clientID := d.o.Send(topic, 0, false)
		d.o.Answered(n, oracle.Answer{ID: seq, Seq: seq, Conversation: "7", By: from, Shown: true})
		d.said = append(d.said, &oldclient.Message{ID: seq, Seq: seq, Conversation: "7", Sender: "a", Body: body, ClientID: clientID})
	}
	return d
}

func (d *desk) judge() oracle.Counts {
	c, _ := d.o.Judge(d.o.NewGoal(false))
	c.Sent, c.Acked = 0, 0
	return c
}

// A push that is lost without a word must be seen: nothing but a hint makes these devices ask.
func TestPlainDevicesAskForNothing(t *testing.T) {
	for name, test := range map[string]struct {
		pushed    []int
		plain     oracle.Counts
		plainSync bool
		old       oracle.Counts
	}{
		"in order":           {[]int{1, 2, 3, 4, 5}, oracle.Counts{Live: 5}, false, oracle.Counts{Live: 5}},
		"one lost":           {[]int{1, 3, 4, 5}, oracle.Counts{Live: 1, Lost: 4}, false, oracle.Counts{Live: 4, Lost: 1}},
		"the last lost":      {[]int{1, 2, 3, 4}, oracle.Counts{Live: 4, Lost: 1}, false, oracle.Counts{Live: 4, Lost: 1}},
		"all lost":           {nil, oracle.Counts{Lost: 5}, false, oracle.Counts{Lost: 5}},
		"overtaken":          {[]int{1, 3, 2, 5, 4}, oracle.Counts{Live: 5}, false, oracle.Counts{Live: 5, Overtaken: 2}},
		"repeated":           {[]int{1, 2, 2, 3, 1, 4, 5}, oracle.Counts{Live: 5, Repeated: 2}, false, oracle.Counts{Live: 5, Repeated: 2}},
		"repeated too early": {[]int{1, 3, 3, 2, 4, 5}, oracle.Counts{Live: 5, Repeated: 1}, false, oracle.Counts{Live: 5, Repeated: 1, Overtaken: 1}},
		"heard of late":      {[]int{3, 4, 5}, oracle.Counts{Lost: 5}, true, oracle.Counts{Live: 3, Lost: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(oracle.Seqs)
			b, sync := newSeqInbox(d.device, d.o), false
			for _, seq := range test.pushed {
				sync = b.pushed(d.said[seq-1]) || sync
			}
			require.Equal(t, test.plainSync, sync)
			require.Equal(t, test.plain, d.judge())

			d = newDesk(oracle.IDs)
			old := newIDInbox(d.device, d.o)
			for _, seq := range test.pushed {
				require.False(t, old.pushed(d.said[seq-1]))
			}
			require.Equal(t, test.old, d.judge())
		})
	}
}

// What came early is shown once its turn has come, by a sync or by the answer to an own message.
func TestPlainDeviceSyncs(t *testing.T) {
	d := newDesk(oracle.Seqs)
	b := newSeqInbox(d.device, d.o)
	stored := func(seqs ...int64) (list []oldclient.Stored) {
		for _, seq := range seqs {
			m := d.said[seq-1]
			list = append(list, oldclient.Stored{ID: m.ID, Seq: m.Seq, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID})
		}
		return list
	}
	b.delta(&oldclient.Delta{Conversation: "7", Messages: stored(1)})
	b.pushed(d.said[2])
	b.pushed(d.said[4])
	b.delta(&oldclient.Delta{Conversation: "7", Messages: stored(2, 3)})
	require.EqualValues(t, 3, b.cursors["7"])
	b.answered(oldclient.Sent{Conversation: "7", Seq: 4}) // as if it were its own
	require.EqualValues(t, 5, b.cursors["7"])
	require.Equal(t, oracle.Counts{Live: 2, Synced: 2, Repeated: 1, Lost: 1}, d.judge())
	b.skip("8", 40) // joined late
	b.pushed(&oldclient.Message{Conversation: "8", Seq: 40})
	require.EqualValues(t, 40, b.cursors["8"])
}

// However pushes are delayed, doubled and mixed with syncs, a plain device shows everything once and
// in order; and if one push is lost after the last sync, it does not.
func TestPlainDeviceUnderRandomInterleavings(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		d := newDesk(oracle.Seqs)
		b := newSeqInbox(d.device, d.o)
		sync := func(until int) {
			delta := oldclient.Delta{Conversation: "7"}
			for _, m := range d.said[b.cursors["7"]:max(until, int(b.cursors["7"]))] {
				delta.Messages = append(delta.Messages, oldclient.Stored{ID: m.ID, Seq: m.Seq, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID})
			}
			b.delta(&delta)
		}
		sync(rng.IntN(3)) // after the login
		pushes := append(rng.Perm(5), rng.IntN(5), rng.IntN(5))
		lost := -1
		if seed%2 == 1 {
			lost = int(b.cursors["7"]) + rng.IntN(5-int(b.cursors["7"]))
		}
		for _, i := range pushes {
			if i != lost {
				b.pushed(d.said[i])
			}
			if lost < 0 && rng.IntN(3) == 0 {
				sync(rng.IntN(6))
			}
		}
		c := d.judge()
		c.Live, c.Synced, c.Repeated = 0, 0, 0
		if lost >= 0 {
			require.EqualValues(t, 5-lost, c.Lost, "seed %d", seed)
			c.Lost = 0
		}
		require.Equal(t, oracle.Counts{}, c, "seed %d", seed)
	}
}
