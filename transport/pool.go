package transport

import "fmt"

// Pool is pollers that clients share, once each of them delivers: no goroutine is woken for a frame but a poller's, and what
// is sent while a poller serves leaves together. Where there is no epoll, and with TLS or DriverGoroutine, the
// goroutine that called Deliver reads, as without a pool.
type Pool struct {
	// Static after construction.
	opts    ClientOptions
	host    *host
	pollers pollers
}

// NewPool starts n pollers, at least one, for clients with these options. An error is the kernel's, which has no more descriptors.
func NewPool(n int, opts ClientOptions) (*Pool, error) {
	p := &Pool{opts: opts.withDefaults()}
	p.host = p.opts.host()
	p.opts.pool = p
	if p.opts.Driver != DriverGoroutine {
		if err := p.pollers.start(p.host, max(1, n)); err != nil {
			return nil, fmt.Errorf("transport: pool of clients: %w", err)
		}
	}
	return p, nil
}

// Options are for NewClient: with them it makes a client of the pool. What they say is the pollers', too, and not to be changed.
func (p *Pool) Options() ClientOptions { return p.opts }

// Close stops the pollers. Call it once, when all clients have ended (see Client.Done) and none will deliver any more.
func (p *Pool) Close() { p.pollers.stop() }
