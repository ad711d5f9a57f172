package transport_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/transport"
)

// What is pushed within a batch is written at its end, whether it is for few channels or for many.
func TestBatch(t *testing.T) {
	for _, channels := range []int{1, 200} {
		t.Run(fmt.Sprint(channels), func(t *testing.T) {
			batch := new(transport.Batch)
			n := start(t, variants()[0], transport.Options{Batch: batch}, nil)
			peers := make([]*peer, channels)
			for i := range peers {
				peers[i] = n.join(t, fmt.Sprint(i))
			}
			held := false // in one of the rounds: whoever ends another batch, or was woken before, writes at any time
			for round := 0; round < 3 || !held; round++ {
				require.Less(t, round, 100, "what is pushed does not wait for End")
				batch.Begin()
				batch.Begin() // somebody else's
				for i := range peers {
					require.NoError(t, n.Push(fmt.Sprint(i), []byte("one")))
					require.NoError(t, n.Push(fmt.Sprint(i), []byte("two")))
				}
				for range 100 { // so that a flusher, if it was woken, has run
					runtime.Gosched()
				}
				waiting := 0
				for i := range peers {
					if ch, _ := n.Channels().Get(fmt.Sprint(i)); ch.(*transport.Channel).QueuedBytes() != 0 {
						waiting++
					}
				}
				held = held || waiting == channels
				batch.End()
				for _, p := range peers {
					p.expect("one")
					p.expect("two")
				}
				batch.End()
			}
			require.NoError(t, n.Push("0", []byte("alone")))
			peers[0].expect("alone")
		})
	}
}
