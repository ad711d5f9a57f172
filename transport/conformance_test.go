package transport_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

func TestEcho(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			p.send(im.OpBinary, payload)
			p.expectFrame(im.OpBinary, payload)
		}
		require.NoError(t, n.Push("a", []byte("pushed")))
		p.expect("pushed")
		require.ErrorIs(t, n.Push("b", nil), im.ErrChannelNotFound)
	})
}

func TestOrder(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		const messages = 5000
		var all []byte
		for i := range messages {
			all = append(all, p.frame(im.OpBinary, true, fmt.Appendf(nil, "m%d", i))...)
		}
		wrote := make(chan error, 1)
		go func() {
			_, err := p.Write(all)
			wrote <- err
		}()
		for i := range messages {
			p.expect(fmt.Sprintf("m%d", i))
		}
		require.NoError(t, <-wrote)
	})
}
