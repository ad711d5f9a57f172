package router

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLongestPrefixWins(t *testing.T) {
	zones, err := ParseZones([]string{
		"10.0.0.0/8=world", "10.1.0.0/16=fra", "10.1.2.3/32=desk", "2001:db8::/32=six", "::ffff:192.168.0.0/112=mapped", "172.16.9.9/12=host bits",
	})
	require.NoError(t, err)
	table := newZoneTable(zones)
	for addr, want := range map[string]string{
		"10.9.9.9": "world", "10.1.9.9": "fra", "10.1.2.3": "desk", "10.1.2.4": "fra",
		"11.0.0.1": "", "2001:db8::1": "six", "2001:db9::1": "", "192.168.4.4": "mapped", "172.16.1.1": "host bits",
	} {
		require.Equal(t, want, table.find(netip.MustParseAddr(addr)), addr)
	}
	require.Empty(t, table.find(netip.Addr{}))

	everywhere := newZoneTable([]Zone{{netip.MustParsePrefix("0.0.0.0/0"), "earth"}})
	require.Equal(t, "earth", everywhere.find(netip.MustParseAddr("1.1.1.1")))
	require.Empty(t, everywhere.find(netip.MustParseAddr("::1")))
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "10.0.0.0/8", "10.0.0.0/8=", "10.0.0.0=a", "x/8=a"} {
		_, err := ParseZones([]string{s})
		require.ErrorContains(t, err, "zone", s)
	}
	_, err := ParsePrefixes([]string{"10.0.0.1"})
	require.ErrorContains(t, err, "10.0.0.1")
}

func TestClientAddr(t *testing.T) {
	trusted, err := ParsePrefixes([]string{"127.0.0.0/8", "10.0.0.0/8"})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		remote  string
		forward []string
		want    string
	}{
		"no proxy":              {"1.2.3.4:5", nil, "1.2.3.4"},
		"a stranger's header":   {"1.2.3.4:5", []string{"9.9.9.9"}, "1.2.3.4"},
		"behind a proxy":        {"127.0.0.1:5", []string{"9.9.9.9"}, "9.9.9.9"},
		"proxy says nothing":    {"127.0.0.1:5", nil, "127.0.0.1"},
		"two proxies":           {"127.0.0.1:5", []string{"9.9.9.9, 10.0.0.1"}, "9.9.9.9"},
		"two header lines":      {"127.0.0.1:5", []string{"9.9.9.9", "10.0.0.1"}, "9.9.9.9"},
		"client lies":           {"127.0.0.1:5", []string{"8.8.8.8, 9.9.9.9"}, "9.9.9.9"},
		"client inside":         {"127.0.0.1:5", []string{"10.0.0.9, 10.0.0.1"}, "10.0.0.9"},
		"rubbish":               {"127.0.0.1:5", []string{"9.9.9.9, unknown, 10.0.0.1"}, "10.0.0.1"},
		"empty":                 {"127.0.0.1:5", []string{""}, "127.0.0.1"},
		"IPv6":                  {"[2001:db8::1]:5", nil, "2001:db8::1"},
		"IPv6 with a zone":      {"[fe80::1%eth0]:5", nil, "fe80::1"},
		"IPv4 in IPv6":          {"[::ffff:1.2.3.4]:5", nil, "1.2.3.4"},
		"proxy by IPv4 in IPv6": {"[::ffff:127.0.0.1]:5", []string{"9.9.9.9"}, "9.9.9.9"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forward}}
			require.Equal(t, netip.MustParseAddr(c.want), clientAddr(r, trusted))
		})
	}
	require.False(t, clientAddr(&http.Request{RemoteAddr: "@"}, trusted).IsValid())
}
