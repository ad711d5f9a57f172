package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// gateways are those that one device knows, in an order of its own: it moves on to the next one with
// every connection.
type gateways struct {
	// Static after construction.
	o      *Options
	token  string
	tcp    bool // by TCP rather than WebSocket, where there is a choice
	router bool // asks the router

	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu, as all below
	list []string
}

// lookupWait bounds a request to the router.
const lookupWait = 5 * time.Second

// pick returns the one to connect to now.
func (g *gateways) pick(ctx context.Context) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.list) == 0 {
		list, err := g.all(ctx)
		if err != nil {
			return "", err
		}
		g.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		g.list = list
	}
	next := g.list[0]
	g.list = g.list[1:]
	return next, nil
}

func (g *gateways) all(ctx context.Context) ([]string, error) {
	if !g.router {
		return ofTransport(g.o.URLs, g.tcp), nil
	}
	list, err := g.lookup(ctx)
	if err != nil && len(g.o.URLs) > 0 {
		return ofTransport(g.o.URLs, g.tcp), nil
	}
	return list, err
}

// ofTransport are the URLs of a transport, or all if there are none.
func ofTransport(urls []string, tcp bool) []string {
	var list []string
	for _, u := range urls {
		if isTCP(u) == tcp {
			list = append(list, u)
		}
	}
	if len(list) == 0 {
		return slices.Clone(urls)
	}
	return list
}

func isTCP(url string) bool { return strings.HasPrefix(url, "t") } // tcp, tls; ws, wss

// findTransports finds out which transports the gateways have: what a device cannot do it does not choose.
func (r *Run) findTransports(ctx context.Context) error {
	for _, u := range r.o.URLs {
		r.tcp = r.tcp || isTCP(u)
		r.ws = r.ws || !isTCP(u)
	}
	if len(r.o.URLs) > 0 {
		return nil
	}
	var failed error
	for _, tcp := range []bool{false, true} {
		g := &gateways{o: &r.o, token: r.accounts[0].token, tcp: tcp, router: true}
		list, err := g.lookup(ctx)
		r.tcp = r.tcp || tcp && len(list) > 0
		r.ws = r.ws || !tcp && len(list) > 0
		failed = errors.Join(failed, err)
	}
	if !r.ws && !r.tcp {
		return fmt.Errorf("verify: the router names no gateway: %w", failed)
	}
	return nil
}

// lookup asks the router, as docs/protocol.md says.
func (g *gateways) lookup(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	address := strings.TrimSuffix(g.o.Router, "/") + "/api/lookup/" + url.PathEscape(g.token)
	if g.tcp {
		address += "?transport=tcp"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, errors.New("lookup: malformed router URL")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("lookup: %w", errors.Unwrap(err)) // without the URL, which has the token
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode == http.StatusUnauthorized {
		return nil, errors.New("lookup: status 401: is this the cluster's secret?")
	}
	var answer struct{ Domains []string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("lookup: status %d", resp.StatusCode)
	}
	if len(answer.Domains) == 0 {
		return nil, errors.New("lookup: no gateway")
	}
	return answer.Domains, nil
}

// directory is a router for the devices that are not to ask the cluster's: those that use TCP, that
// know their gateways, or that are to go by a relay.
type directory struct {
	server *http.Server
	url    string

	mu      sync.Mutex
	entries []func(context.Context) (string, error) // guarded by mu
}

func newDirectory() (*directory, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &directory{url: "http://" + l.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{entry}/api/lookup/{token}", d.lookup)
	d.server = &http.Server{Handler: mux, ReadHeaderTimeout: lookupWait}
	go d.server.Serve(l) //nolint:errcheck // until close
	return d, nil
}

func (d *directory) close() { _ = d.server.Close() }

// add returns the router URL of a client that is to go where pick says.
func (d *directory) add(pick func(context.Context) (string, error)) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, pick)
	return fmt.Sprintf("%s/%d", d.url, len(d.entries)-1)
}

func (d *directory) lookup(w http.ResponseWriter, req *http.Request) {
	entry, err := strconv.Atoi(req.PathValue("entry"))
	d.mu.Lock()
	if err != nil || entry < 0 || entry >= len(d.entries) {
		d.mu.Unlock()
		http.NotFound(w, req)
		return
	}
	pick := d.entries[entry]
	d.mu.Unlock()
	gateway, err := pick(req.Context())
	if err != nil {
		http.Error(w, `{"code": "no_gateway", "message": "none"}`, http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"utc": time.Now().Unix(), "domains": []string{gateway}}) // the client may have gone
}
