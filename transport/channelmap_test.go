package transport_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// named is a channel of which only the id is of interest.
type named struct {
	im.Channel
	id string
}

func (n *named) ID() string { return n.id }

// The map does what a built-in one does, while it grows, is full of others' places, and shrinks.
func TestChannelMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m, model := transport.NewChannelMap(), map[string]*named{}
	const ids = 20_000
	for phase, adds := range []int{90, 50, 10, 90, 0} { // percent of the changes
		for range 3 * ids {
			n := &named{id: fmt.Sprint("g.", r.IntN(ids))}
			if r.IntN(100) < adds {
				m.Add(n)
				model[n.id] = n
			} else {
				m.Remove(n.id)
				delete(model, n.id)
			}
		}
		require.Equal(t, len(model), m.Len(), "phase %d", phase)
		for i := range ids {
			ch, ok := m.Get(fmt.Sprint("g.", i))
			want, there := model[fmt.Sprint("g.", i)]
			require.Equal(t, there, ok, "phase %d, %d", phase, i)
			if there {
				require.Same(t, want, ch)
			}
		}
		all := m.All()
		require.Len(t, all, len(model))
		for _, ch := range all {
			require.Same(t, model[ch.ID()], ch)
		}
	}
}

func BenchmarkChannelMapGet(b *testing.B) {
	const channels = 15_000
	m := transport.NewChannelMap()
	ids := make([]string, channels)
	for i := range ids {
		ids[i] = fmt.Sprint("gateway-1.", i)
		m.Add(&named{id: ids[i]})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := m.Get(ids[i%channels]); !ok {
			b.Fatal("gone")
		}
	}
}
