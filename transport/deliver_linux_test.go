package transport

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
)

// dialed is a Dialer whose connection is there.
type dialed struct{ net.Conn }

func (d dialed) DialAndHandshake(im.DialerContext) (net.Conn, error) { return d.Conn, nil }

// A client whose poller could not take its socket wrote to a descriptor that was closed, or somebody else's.
func TestAdoptFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close() //nolint:errcheck // a test's
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	c := NewClient("a", "", nil, dialed{conn}, ClientOptions{})
	require.NoError(t, c.Connect(""))
	ch := c.channel()
	require.True(t, ch.beginRead())
	require.NoError(t, c.pollers.start(ch.host, 1))
	c.pollers.stop() // the kernel refuses its descriptor from now on

	before := ch.sock
	require.False(t, adopt(&c.pollers, ch, before.(*stream)))
	require.Same(t, before, ch.sock)

	ch.endRead()
	ch.cut(im.ReasonSignedOut)
	<-ch.Done()
}
