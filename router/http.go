package router

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hermod-im/hermod/wire/token"
)

// retryAfter is when a client should ask again while there is no gateway.
const retryAfter = 2 * time.Second

// Lookup is the answer of GET /api/lookup/{token} (docs/protocol.md, "Router").
type Lookup struct {
	// UTC is the server's time in Unix seconds.
	UTC int64 `json:"utc"`
	// Location is the caller's zone; empty if it is in none of the configured ones.
	Location string `json:"location"`
	// Domains are the URLs of gateways, the best first; never empty.
	Domains []string `json:"domains"`
}

// Error is the body of every answer that is not 200.
type Error struct {
	// Code is for programs: token_invalid, token_expired, transport_unknown or no_gateway.
	Code string `json:"code"`
	// Message is for people.
	Message string `json:"message"`
}

// Handler serves all routes; Run serves it on the listener.
func (r *Router) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.Handle("GET /api/lookup/{token}", anyOrigin(http.HandlerFunc(r.lookup)))
	return mux
}

// lookup answers GET /api/lookup/{token}. With ?transport=tcp the URLs are those for TCP clients.
func (r *Router) lookup(w http.ResponseWriter, req *http.Request) {
	claims, err := token.Parse(r.config.Secret, req.PathValue("token"), time.Now())
	if err != nil {
		r.refuseToken(w, err)
		return
	}
	transport := req.URL.Query().Get("transport")
	if transport == "" {
		transport = MetaWS
	}
	if transport != MetaWS && transport != MetaTCP {
		r.metrics.count(resultBadRequest)
		answer(w, http.StatusBadRequest, Error{"transport_unknown", "transport must be ws or tcp"})
		return
	}
	zone := r.zones.find(clientAddr(req, r.trusted))
	var domains []string
	if list := r.gateways.Load(); list != nil {
		domains = pick(*list, transport, zone, claims.App, claims.Account, r.config.Domains)
	}
	if len(domains) == 0 {
		r.metrics.count(resultNoGateway)
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		answer(w, http.StatusServiceUnavailable, Error{"no_gateway", "no gateway is available now, try again"})
		return
	}
	r.metrics.count(resultOK)
	answer(w, http.StatusOK, Lookup{UTC: time.Now().Unix(), Location: zone, Domains: domains})
}

func (r *Router) refuseToken(w http.ResponseWriter, err error) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	if errors.Is(err, token.ErrExpired) {
		r.metrics.count(resultExpired)
		answer(w, http.StatusUnauthorized, Error{"token_expired", "the token has expired, get a new one"})
		return
	}
	r.metrics.count(resultInvalid)
	answer(w, http.StatusUnauthorized, Error{"token_invalid", "the token is not valid"})
}

// anyOrigin lets scripts of any site read the answer: what admits the caller is the token in the
// path, which no browser adds by itself.
func anyOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		h.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client has gone
}
