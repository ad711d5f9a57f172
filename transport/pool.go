package transport

import "fmt"

// Pool is pollers that clients share, once each of them delivers: a process with thousands of clients has two goroutines
// and a buffer for all of them, and what they send while others are served leaves together. Where there is no epoll, and with
// TLS or DriverGoroutine, a client that delivers has a goroutine of its own.
type Pool struct {
	// Static after construction.
	opts    ClientOptions
	host    *host
	pollers pollers
}

// NewPool starts n pollers for clients with these options. An error is the kernel's, which has no more descriptors.
func NewPool(n int, opts ClientOptions) (*Pool, error) {
	p := &Pool{opts: opts.withDefaults()}
	p.host = p.opts.host()
	p.opts.pool = p
	if p.opts.Driver != DriverGoroutine {
		if err := p.pollers.start(p.host, n); err != nil {
			return nil, fmt.Errorf("transport: pool of clients: %w", err)
		}
	}
	return p, nil
}

// Options are for NewClient: with them it makes a client of the pool.
func (p *Pool) Options() ClientOptions { return p.opts }

// Close stops the pollers. All clients have ended: see Client.Done.
func (p *Pool) Close() { p.pollers.stop() }
