package router

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/hermod-im/hermod/naming"
)

// The keys of a gateway's naming.Instance.Meta that the router reads.
const (
	// MetaWS is the public URL for WebSocket clients.
	MetaWS = "ws"
	// MetaTCP is the public URL for TCP clients.
	MetaTCP = "tcp"
	// MetaLoad is the number of connections it has, decimal.
	MetaLoad = "load"
	// MetaCapacity is the number of connections it takes, decimal.
	MetaCapacity = "capacity"
)

// defaultCapacity is that of a gateway that does not say.
const defaultCapacity = 1_000_000

// loadSteps is how finely load counts. With few steps an account's gateway does not change with
// every connection that comes or goes; what a step moves is a part of one gateway's accounts.
const loadSteps = 8

// gateway is what the router knows of one ready gateway.
type gateway struct {
	id     string
	name   string // what is hashed: the node's name, so that a restart moves nobody
	zone   string
	urls   map[string]string // by MetaWS and MetaTCP
	weight float64           // its share of the accounts
	full   bool
}

func newGateway(i naming.Instance) gateway {
	capacity := number(i.Meta[MetaCapacity], defaultCapacity)
	load := number(i.Meta[MetaLoad], 0)
	free := 1 - float64(load)/float64(capacity)
	steps := min(max(math.Ceil(free*loadSteps), 1), loadSteps)
	return gateway{
		id:     i.ID,
		name:   cmp.Or(i.Node, i.ID),
		zone:   i.Zone,
		urls:   map[string]string{MetaWS: i.Meta[MetaWS], MetaTCP: i.Meta[MetaTCP]},
		weight: float64(capacity) * steps / loadSteps,
		full:   load >= capacity,
	}
}

// number is the positive decimal in s, or otherwise.
func number(s string, otherwise int64) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return otherwise
	}
	return n
}

// pick returns the URLs of up to n gateways for an account: those with room before full ones, then
// those of the zone before others, then by weighted rendezvous hashing.
func pick(list []gateway, transport, zone, app, account string, n int) []string {
	type candidate struct {
		*gateway
		away  bool
		score float64
	}
	candidates := make([]candidate, 0, len(list))
	key := make([]byte, 0, 256)
	for i := range list {
		g := &list[i]
		if g.urls[transport] == "" {
			continue
		}
		key = append(append(append(key[:0], g.name...), 0), app...)
		key = append(append(key, 0), account...)
		candidates = append(candidates, candidate{g, zone != "" && g.zone != zone, score(xxhash.Sum64(key), g.weight)})
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(
			compareBool(a.full, b.full),
			compareBool(a.away, b.away),
			cmp.Compare(b.score, a.score),
			cmp.Compare(a.id, b.id),
		)
	})
	urls := make([]string, 0, n)
	for _, c := range candidates {
		if url := c.urls[transport]; len(urls) < n && !slices.Contains(urls, url) {
			urls = append(urls, url)
		}
	}
	return urls
}

// score is that of weighted rendezvous hashing: the highest of several wins with a probability in
// proportion to its weight, and a weight that changes moves only what it must (Schindelhauer and
// Schomaker, "Weighted distributed hash tables", 2005).
func score(hash uint64, weight float64) float64 {
	u := (float64(hash>>11) + 0.5) / (1 << 53) // in (0, 1)
	return weight / -math.Log(u)
}

// compareBool sorts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
