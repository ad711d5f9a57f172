package faults

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deadline of what should happen at once, and pause of what should not happen.
const (
	deadline = 10 * time.Second
	pause    = 50 * time.Millisecond
)

// dialled connects through a proxy, and returns both ends.
func dialled(t *testing.T, p *proxies) (near, far net.Conn, target string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	target = listener.Addr().String()
	address, err := p.between("a", target)
	require.NoError(t, err)
	near, err = net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = near.Close() })
	far, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = far.Close() })
	return near, far, target
}

func say(t *testing.T, from, to net.Conn, what string) {
	t.Helper()
	_, err := io.WriteString(from, what)
	require.NoError(t, err)
	got := make([]byte, len(what))
	require.NoError(t, to.SetReadDeadline(time.Now().Add(deadline)))
	_, err = io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, what, string(got))
}

// Half-open: neither end hears anything, not even that the other one has gone, until the link is cured; then
// the connection ends, because it has lost bytes.
func TestHalfOpenLinksAreSilent(t *testing.T) {
	p := newProxies(t.Logf)
	defer func() { require.NoError(t, p.close()) }()
	near, far, target := dialled(t, p)
	say(t, near, far, "before")
	require.NoError(t, p.each("", target, poison(vanishing, nil)))
	_, err := io.WriteString(near, "lost")
	require.NoError(t, err)
	require.NoError(t, near.Close())
	require.NoError(t, far.SetReadDeadline(time.Now().Add(pause)))
	_, err = far.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout")
	require.NoError(t, p.each("a", target, cure))
	require.NoError(t, far.SetReadDeadline(time.Now().Add(deadline)))
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestCutLinksComeBackAtTheSameAddress(t *testing.T) {
	p := newProxies(t.Logf)
	defer func() { require.NoError(t, p.close()) }()
	near, _, target := dialled(t, p)
	require.Error(t, p.each("b", target, cut), "a pair is who dials and whom")
	require.NoError(t, p.each("", target, cut))
	require.NoError(t, near.SetReadDeadline(time.Now().Add(deadline)))
	_, err := near.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	address, err := p.between("a", target)
	require.NoError(t, err)
	_, err = net.Dial("tcp", address)
	require.Error(t, err)
	require.NoError(t, p.each("", target, mend))
	again, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

// A gateway's registry names its proxies where Consul names logic nodes, and leaves the rest alone.
func TestLensDivertsLogicNodes(t *testing.T) {
	const others = `[{"Service":{"Address":"10.0.0.1","Port":7}}]`
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "5")
		if strings.HasSuffix(r.URL.Path, "/logic") {
			_, _ = io.WriteString(w, `[{"Node":{"x":12345678901234567890},"Service":{"ID":"l","Address":"127.0.0.1","Port":8100}}]`)
			return
		}
		_, _ = io.WriteString(w, others)
	}))
	defer consul.Close()
	p := newProxies(t.Logf)
	defer func() { require.NoError(t, p.close()) }()
	lens, err := p.lens("gateway-1", consul.Listener.Addr().String())
	require.NoError(t, err)
	get := func(path string) string {
		resp, err := http.Get("http://" + lens + path)
		require.NoError(t, err)
		defer resp.Body.Close() //nolint:errcheck // it was only read
		require.Equal(t, "5", resp.Header.Get("X-Consul-Index"))
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(body)
	}
	require.Equal(t, others, get("/v1/health/service/gateway"))
	body := get("/v1/health/service/logic?wait=1s")
	require.Contains(t, body, "12345678901234567890")
	var entries []struct {
		Service struct {
			ID, Address string
			Port        json.Number
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &entries))
	address, err := p.between("gateway-1", "127.0.0.1:8100")
	require.NoError(t, err)
	require.Equal(t, address, entries[0].Service.Address+":"+entries[0].Service.Port.String())
}
