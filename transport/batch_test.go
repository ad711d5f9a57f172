package transport_test

import (
	"fmt"
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
			for range 3 {
				batch.Begin()
				batch.Begin() // somebody else's
				for i := range peers {
					require.NoError(t, n.Push(fmt.Sprint(i), []byte("one")))
					require.NoError(t, n.Push(fmt.Sprint(i), []byte("two")))
				}
				for i := range peers {
					ch, _ := n.Channels().Get(fmt.Sprint(i))
					require.NotZero(t, ch.(*transport.Channel).QueuedBytes())
				}
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
