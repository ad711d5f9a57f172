package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

// maxLookup is the largest answer taken from a router, in bytes.
const maxLookup = 64 << 10

// checkGateway refuses what newConn cannot dial.
func checkGateway(gateway string) error {
	u, err := url.Parse(gateway)
	if err != nil {
		return fmt.Errorf("%q is no URL", gateway)
	}
	switch u.Scheme {
	case "ws", "wss", "tcp", "tls":
	default:
		return fmt.Errorf("%q: want ws, wss, tcp or tls", gateway)
	}
	if u.Host == "" {
		return fmt.Errorf("%q has no host", gateway)
	}
	return nil
}

// newConn returns the client for a gateway's URL, and the address to connect it to.
func newConn(gateway string, o *Options) (im.Client, string, error) {
	if err := checkGateway(gateway); err != nil {
		return nil, "", err
	}
	opts := transport.ClientOptions{
		DialWait:   o.DialWait,
		MaxPacket:  maxAnswer,
		QueueBytes: 2*o.OutboxBytes + o.MaxPacket, // all that waits again, behind what is not written yet
		TLS:        o.TLS,
	}
	scheme, host, _ := strings.Cut(gateway, "://")
	switch scheme {
	case "tcp":
		opts.TLS = nil
		return tcp.NewClient(o.Device, "client", opts), strings.TrimSuffix(host, "/"), nil
	case "tls":
		if opts.TLS == nil {
			opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		return tcp.NewClient(o.Device, "client", opts), strings.TrimSuffix(host, "/"), nil
	default:
		return websocket.NewClient(o.Device, "client", opts), gateway, nil
	}
}

// addresses are the gateways to try, one after the other. Owned by Run.
type addresses struct {
	opts *Options
	list []string
	next int
	// fresh: ask the router before the next one.
	fresh bool
}

// pick returns the gateway to try now: another one than avoid, if there is one.
func (a *addresses) pick(ctx context.Context, token, avoid string) (string, error) {
	if a.opts.URL != "" {
		return a.opts.URL, nil
	}
	if a.fresh || a.next >= len(a.list) {
		list, err := lookup(ctx, a.opts, token)
		switch {
		case err == nil:
			a.list, a.next, a.fresh = list, 0, false
		case len(a.list) == 0 || errors.Is(err, errRefused):
			return "", err
		default: // the router is down: what it said last is the best there is
			a.next %= len(a.list)
		}
	}
	if a.list[a.next] == avoid && len(a.list) > 1 {
		a.next = (a.next + 1) % len(a.list)
	}
	a.next++
	return a.list[a.next-1], nil
}

// connected notes a login: when its connection ends, the router knows better where to go.
func (a *addresses) connected() { a.fresh = true }

// lookup asks the router for the gateways of a token: docs/protocol.md, "Lookup".
func lookup(ctx context.Context, o *Options, token string) ([]string, error) {
	address := strings.TrimSuffix(o.Router, "/") + "/api/lookup/" + url.PathEscape(token)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, errors.New("lookup: malformed URL")
	}
	resp, err := o.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("lookup: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("lookup: %w", errRefused)
	default:
		return nil, fmt.Errorf("lookup: status %d", resp.StatusCode)
	}
	var answer struct {
		Domains []string `json:"domains"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLookup)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("lookup: %w", err)
	}
	if len(answer.Domains) == 0 {
		return nil, errors.New("lookup: no gateway")
	}
	return answer.Domains, nil
}

// withoutURL takes the URL, which holds the token, out of an error of net/http.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// backoff is the full-jitter wait after so many failures: anything up to base·2ⁿ, at most limit.
func backoff(failures int, base, limit time.Duration) time.Duration {
	ceiling := limit
	if failures < 30 && base<<failures < limit {
		ceiling = base << failures
	}
	return rand.N(ceiling + 1)
}

// sleep waits, or returns early with the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
