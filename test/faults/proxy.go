package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/test/component"
)

// proxies stand in all connections between the cluster's processes: one for each pair of a node
// and an address that it dials, so that any two can be parted alone.
//
// A logic node is registered under its own address. Each gateway has a registry of its own in front of
// Consul (see lens), which names the gateway's proxies instead.
type proxies struct {
	api    *toxiproxy.ApiServer
	log    func(format string, args ...any)
	lenses []*http.Server

	mu  sync.Mutex
	all map[pair]*toxiproxy.Proxy
}

// pair is who dials, and whom: the dialled address.
type pair struct{ from, to string }

// vanishing is the name of the toxic below.
const vanishing = "vanish"

// vanish is a toxic: what is sent is gone, the end of the connection included. Its removal breaks
// the connection, which has lost bytes.
type vanish struct{}

// Pipe implements toxics.Toxic.
func (*vanish) Pipe(stub *toxics.ToxicStub) {
	input := stub.Input
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-input:
			if chunk == nil {
				input = nil
			}
		}
	}
}

// Cleanup implements toxics.CleanupToxic.
func (*vanish) Cleanup(stub *toxics.ToxicStub) { stub.Close() }

func newProxies(log func(format string, args ...any)) *proxies {
	toxics.Register(vanishing, new(vanish))
	zerolog.SetGlobalLevel(zerolog.Disabled) // one of the toxics logs to standard error
	return &proxies{
		log: log,
		api: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()),
		all: map[pair]*toxiproxy.Proxy{},
	}
}

// between returns the address of the proxy between a node and an address, made at the first call.
func (p *proxies) between(from, to string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pair{from, to}
	if proxy := p.all[key]; proxy != nil {
		return proxy.Listen, nil
	}
	port, err := component.FreePort()
	if err != nil {
		return "", err
	}
	proxy := toxiproxy.NewProxy(p.api, from+" to "+to, fmt.Sprintf("127.0.0.1:%d", port), to)
	if err := proxy.Start(); err != nil {
		return "", fmt.Errorf("proxy %s: %w", proxy.Name, err)
	}
	p.all[key] = proxy
	return proxy.Listen, nil
}

// each does something to the proxies of a node, or of all nodes for "", to an address. That there are
// none is an error: a fault that does nothing shows nothing.
func (p *proxies) each(from, to string, do func(*toxiproxy.Proxy) error) error {
	p.mu.Lock()
	var found []*toxiproxy.Proxy
	for key, proxy := range p.all {
		if key.to == to && (from == "" || key.from == from) {
			found = append(found, proxy)
		}
	}
	p.mu.Unlock()
	if len(found) == 0 {
		return fmt.Errorf("nobody has connected from %q to %s", from, to)
	}
	var errs []error
	for _, proxy := range found {
		errs = append(errs, do(proxy))
	}
	return errors.Join(errs...)
}

// cut breaks the connections of a proxy and refuses new ones; mend takes them again.
func cut(proxy *toxiproxy.Proxy) error  { proxy.Stop(); return nil }
func mend(proxy *toxiproxy.Proxy) error { return proxy.Start() }

// poison adds a toxic in both directions; cure removes all.
func poison(kind string, attributes map[string]int) func(*toxiproxy.Proxy) error {
	return func(proxy *toxiproxy.Proxy) error {
		for _, direction := range []stream.Direction{stream.Upstream, stream.Downstream} {
			toxic, err := json.Marshal(map[string]any{
				"type": kind, "stream": direction.String(), "attributes": attributes,
			})
			if err != nil {
				return err
			}
			if _, err := proxy.Toxics.AddToxicJson(bytes.NewReader(toxic)); err != nil {
				return fmt.Errorf("%s on %s: %w", kind, proxy.Name, err)
			}
		}
		return nil
	}
}

func cure(proxy *toxiproxy.Proxy) error {
	proxy.Toxics.ResetToxics(context.Background())
	return nil
}

// lens starts a registry for one gateway in front of Consul: it is Consul, but the logic nodes
// that it names are reached through the gateway's proxies.
func (p *proxies) lens(node, consul string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: consul})
			r.Out.Header.Del("Accept-Encoding") // a compressed answer could not be rewritten
		},
		ModifyResponse: func(resp *http.Response) error {
			err := p.divert(node, resp)
			if err != nil {
				p.log("the registry of %s: %v", node, err)
			}
			return err
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // Consul is down: so is this
		},
	}}
	p.mu.Lock()
	p.lenses = append(p.lenses, server)
	p.mu.Unlock()
	go func() { _ = server.Serve(listener) }() // until close
	return listener.Addr().String(), nil
}

// divert rewrites Consul's answer to who the logic nodes are.
func (p *proxies) divert(node string, resp *http.Response) error {
	if !strings.HasSuffix(resp.Request.URL.Path, "/v1/health/service/"+naming.ServiceLogic) || resp.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	var entries []map[string]any
	decode := json.NewDecoder(bytes.NewReader(body))
	decode.UseNumber()
	if err := decode.Decode(&entries); err != nil {
		return err
	}
	for _, entry := range entries {
		service, ok := entry["Service"].(map[string]any)
		if !ok {
			return errors.New("an entry of Consul's has no Service")
		}
		address, err := p.between(node, fmt.Sprintf("%v:%v", service["Address"], service["Port"]))
		if err != nil {
			return err
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		service["Address"], service["Port"] = host, json.Number(port)
	}
	if body, err = json.Marshal(entries); err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// close ends all proxies.
func (p *proxies) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, server := range p.lenses {
		errs = append(errs, server.Close())
	}
	for _, proxy := range p.all {
		proxy.Stop()
	}
	return errors.Join(errs...)
}
