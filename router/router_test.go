package router_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/router"
	"github.com/hermod-im/hermod/wire/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("a test's secret, known to everyone")

// registry is a naming.Naming of which the router may only subscribe and unsubscribe.
type registry struct {
	naming.Naming
	subscribed chan func([]naming.Instance)
	ended      chan struct{}
	err        error
}

func newRegistry() *registry {
	return &registry{subscribed: make(chan func([]naming.Instance), 1), ended: make(chan struct{})}
}

type subscription struct{}

func (subscription) Service() string { return naming.ServiceGateway }

func (r *registry) Subscribe(service string, f func([]naming.Instance)) (naming.Subscription, error) {
	if service != naming.ServiceGateway {
		return nil, errors.New("unexpected service " + service)
	}
	r.subscribed <- f
	return subscription{}, r.err
}

func (r *registry) Unsubscribe(naming.Subscription) { close(r.ended) }

// fixture is a router that runs until the test ends.
type fixture struct {
	*router.Router
	url     string
	publish func([]naming.Instance)
	metrics *prometheus.Registry
	logged  *bytes.Buffer
}

func start(t *testing.T, c router.Config) *fixture {
	t.Helper()
	f := &fixture{metrics: prometheus.NewRegistry(), logged: &bytes.Buffer{}}
	c.Secret, c.ErrorLog = secret, log.New(f.logged, "", 0)
	names := newRegistry()
	r, err := router.New(c, names, f.metrics)
	require.NoError(t, err)
	f.Router, f.url = r, "http://"+r.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	f.publish = <-names.subscribed
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		require.NoError(t, <-ended)
		<-names.ended
		require.NotContains(t, f.logged.String(), "eyJ", "a token was logged")
	})
	return f
}

func gateway(id string, state naming.State, zone string) naming.Instance {
	return naming.Instance{
		ID: id, Service: naming.ServiceGateway, Node: id, Address: "127.0.0.1:1", State: state, Zone: zone,
		Meta: map[string]string{router.MetaWS: "ws://" + id, router.MetaTCP: "tcp://" + id},
	}
}

func tokenFor(t *testing.T, account string, ttl time.Duration) string {
	t.Helper()
	s, err := token.Issue(secret, token.Claims{Account: account, App: "app", Expires: time.Now().Add(ttl)})
	require.NoError(t, err)
	return s
}

func (f *fixture) get(t *testing.T, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// lookup expects an answer with gateways.
func (f *fixture) lookup(t *testing.T, query string, header ...string) router.Lookup {
	t.Helper()
	resp, body := f.get(t, "/api/lookup/"+tokenFor(t, "alice", time.Hour)+query, header...)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	var l router.Lookup
	require.NoError(t, json.Unmarshal([]byte(body), &l))
	return l
}

func TestLookup(t *testing.T) {
	f := start(t, router.Config{Domains: 2})
	f.publish([]naming.Instance{
		gateway("a", naming.StateReady, ""), gateway("b", naming.StateReady, ""), gateway("c", naming.StateReady, ""),
		gateway("joining", naming.StateJoining, ""), gateway("draining", naming.StateDraining, ""),
	})
	before := time.Now().Unix()
	resp, body := f.get(t, "/api/lookup/"+tokenFor(t, "alice", time.Hour))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &fields))
	require.Len(t, fields, 3, "utc, location, domains and nothing else")

	l := f.lookup(t, "")
	require.GreaterOrEqual(t, l.UTC, before)
	require.Empty(t, l.Location)
	require.Len(t, l.Domains, 2)
	for range 10 {
		require.Equal(t, l.Domains, f.lookup(t, "").Domains, "an account keeps its gateways, whatever its token")
	}
	require.Subset(t, []string{"ws://a", "ws://b", "ws://c"}, l.Domains)
	for _, d := range f.lookup(t, "?transport=tcp").Domains {
		require.True(t, strings.HasPrefix(d, "tcp://"))
	}
}

func TestLookupPrefersTheCallersZone(t *testing.T) {
	zones, err := router.ParseZones([]string{"127.0.0.0/8=here", "9.0.0.0/8=there"})
	require.NoError(t, err)
	proxies, err := router.ParsePrefixes([]string{"127.0.0.1/32"})
	require.NoError(t, err)
	list := []naming.Instance{gateway("a", naming.StateReady, "here"), gateway("b", naming.StateReady, "there")}

	f := start(t, router.Config{Zones: zones})
	f.publish(list)
	l := f.lookup(t, "", "X-Forwarded-For", "9.9.9.9")
	require.Equal(t, "here", l.Location, "the header of a stranger is not believed")
	require.Equal(t, []string{"ws://a", "ws://b"}, l.Domains)

	f = start(t, router.Config{Zones: zones, TrustedProxies: proxies})
	f.publish(list)
	l = f.lookup(t, "", "X-Forwarded-For", "9.9.9.9")
	require.Equal(t, "there", l.Location)
	require.Equal(t, []string{"ws://b", "ws://a"}, l.Domains)
}

func TestLookupRefuses(t *testing.T) {
	f := start(t, router.Config{})
	f.publish([]naming.Instance{gateway("a", naming.StateReady, "")})
	other, err := token.Issue([]byte("other"), token.Claims{Account: "alice", Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		path   string
		status int
		code   string
	}{
		"expired":           {tokenFor(t, "alice", -time.Minute), http.StatusUnauthorized, "token_expired"},
		"other secret":      {other, http.StatusUnauthorized, "token_invalid"},
		"rubbish":           {"rubbish", http.StatusUnauthorized, "token_invalid"},
		"none":              {"eyJhbGciOiJub25lIn0.eyJhY2MiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.", http.StatusUnauthorized, "token_invalid"},
		"unknown transport": {tokenFor(t, "alice", time.Hour) + "?transport=udp", http.StatusBadRequest, "transport_unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := f.get(t, "/api/lookup/"+c.path)
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"), "a browser must be able to read the code")
			var e router.Error
			require.NoError(t, json.Unmarshal([]byte(body), &e))
			require.Equal(t, c.code, e.Code)
			require.NotContains(t, body, c.path)
		})
	}
	for path, status := range map[string]int{
		"/api/lookup/":    http.StatusNotFound,
		"/api/lookup/a/b": http.StatusNotFound,
		"/":               http.StatusNotFound,
		"/api/lookup/" + strings.Repeat("a", 1<<20): http.StatusRequestHeaderFieldsTooLarge,
		"/healthz": http.StatusOK,
	} {
		resp, _ := f.get(t, path)
		require.Equal(t, status, resp.StatusCode, path[:min(len(path), 20)])
	}
}

func TestNoGateways(t *testing.T) {
	f := start(t, router.Config{})
	require.ErrorContains(t, f.Ready(t.Context()), "not answered")
	unavailable := func() {
		t.Helper()
		resp, body := f.get(t, "/api/lookup/"+tokenFor(t, "alice", time.Hour))
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "2", resp.Header.Get("Retry-After"))
		require.Contains(t, body, `"code":"no_gateway"`)
	}
	unavailable() // the registry has not answered yet

	f.publish([]naming.Instance{gateway("a", naming.StateJoining, "")})
	require.ErrorContains(t, f.Ready(t.Context()), "no gateway is ready")
	unavailable()

	f.publish([]naming.Instance{gateway("a", naming.StateReady, "")})
	require.NoError(t, f.Ready(t.Context()))
	require.Equal(t, []string{"ws://a"}, f.lookup(t, "").Domains)

	f.publish(nil)
	unavailable()
}

// The registry went away and took all gateways with it, though none had stopped (flaw 19).
func TestKeepsTheListWhileTheRegistryIsDown(t *testing.T) {
	registry := memory.NewRegistry()
	gateways, names := registry.Client(), registry.Client()
	defer gateways.Close()
	defer names.Close()
	require.NoError(t, gateways.Register(t.Context(), gateway("a", naming.StateReady, "")))

	r, err := router.New(router.Config{Secret: secret}, names, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return r.Ready(ctx) == nil }, 10*time.Second, time.Millisecond)

	registry.SetDown(true)
	f := fixture{Router: r, url: "http://" + r.Addr().String()}
	require.Equal(t, []string{"ws://a"}, f.lookup(t, "").Domains)

	http.DefaultClient.CloseIdleConnections()
	cancel()
	require.NoError(t, <-ended)
}

func TestMetrics(t *testing.T) {
	f := start(t, router.Config{})
	f.publish([]naming.Instance{gateway("a", naming.StateReady, ""), gateway("b", naming.StateDraining, "")})
	f.lookup(t, "")
	f.get(t, "/api/lookup/rubbish")

	families, err := f.metrics.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	require.Equal(t, map[string]float64{
		"hermod_router_gateways":                    1,
		"hermod_router_lookups_total ok":            1,
		"hermod_router_lookups_total token_invalid": 1,
		"hermod_router_lookups_total token_expired": 0,
		"hermod_router_lookups_total bad_request":   0,
		"hermod_router_lookups_total no_gateway":    0,
	}, got)
}

func TestNewAndRunFail(t *testing.T) {
	_, err := router.New(router.Config{}, newRegistry(), nil)
	require.ErrorContains(t, err, "Secret")

	names := newRegistry()
	names.err = errors.New("no")
	r, err := router.New(router.Config{Secret: secret}, names, nil)
	require.NoError(t, err)
	_, err = router.New(router.Config{Secret: secret, Listen: r.Addr().String()}, names, nil)
	require.ErrorContains(t, err, "listen for router")
	require.ErrorContains(t, r.Run(t.Context()), "subscribe to gateways")
}
