package router

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Zone says that a network is in a zone.
type Zone struct {
	Prefix netip.Prefix
	Name   string
}

// ParseZones reads a list of CIDR=zone.
func ParseZones(list []string) ([]Zone, error) {
	zones := make([]Zone, 0, len(list))
	for _, s := range list {
		cidr, name, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("zone %q: must be CIDR=zone", s)
		}
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("zone %q: %w", s, err)
		}
		zones = append(zones, Zone{Prefix: p, Name: name})
	}
	return zones, nil
}

// ParsePrefixes reads a list of CIDRs.
func ParsePrefixes(list []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", s, err)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

// zoneTable finds the longest prefix of an address: one lookup for each length in use.
type zoneTable struct {
	lengths []int // longest first
	zones   map[netip.Prefix]string
}

func newZoneTable(zones []Zone) zoneTable {
	t := zoneTable{zones: make(map[netip.Prefix]string, len(zones))}
	lengths := map[int]bool{}
	for _, z := range zones {
		p := plain(z.Prefix)
		t.zones[p] = z.Name
		lengths[p.Bits()] = true
	}
	t.lengths = slices.SortedFunc(maps.Keys(lengths), func(a, b int) int { return cmp.Compare(b, a) })
	return t
}

// find returns the zone of an address, or "".
func (t zoneTable) find(a netip.Addr) string {
	for _, bits := range t.lengths {
		p, err := a.Prefix(bits)
		if err != nil { // longer than an IPv4 address
			continue
		}
		if zone, ok := t.zones[p]; ok {
			return zone
		}
	}
	return ""
}

// plain is the prefix masked, and as IPv4 if it is IPv4 in IPv6 form.
func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// clientAddr is the address a request comes from: the peer's or, if the peer is a trusted proxy,
// the last one in X-Forwarded-For that is not a trusted proxy itself. Addresses further left are
// the client's own words. The prefixes are plain. Invalid if the peer's address is none.
func clientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	client := parseAddr(host)
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(forwarded) {
		if !contains(trusted, client) {
			break
		}
		a := parseAddr(strings.TrimSpace(hop))
		if !a.IsValid() {
			break
		}
		client = a
	}
	return client
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}
