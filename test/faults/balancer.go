package faults

import (
	"context"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
	"time"
)

// routerWait is how long a router may take before the next one is asked.
const routerWait = time.Second

// balancer asks one router after the other until one answers.
type balancer struct {
	routers []string
	next    atomic.Uint32
}

// ServeHTTP implements http.Handler.
func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := int(b.next.Add(1) % uint32(len(b.routers)))
	for i := range b.routers {
		router := b.routers[(first+i)%len(b.routers)]
		resp, body, err := ask(r.Context(), router+r.URL.RequestURI())
		if err != nil {
			continue
		}
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(body) // whoever asked may have gone
		return
	}
	w.WriteHeader(http.StatusBadGateway)
}

// ask asks a router for a whole answer.
func ask(ctx context.Context, url string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, routerWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}
