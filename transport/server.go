package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	im "github.com/hermod-im/hermod"
)

// Server implements im.Server on any number of endpoints, with one channel map.
type Server struct {
	// Static after Start.
	opts      Options
	endpoints []endpoint
	host      *host // without a codec; each endpoint has its own
	acceptor  im.Acceptor
	states    im.StateListener // may be nil
	channels  im.ChannelMap
	pollers   pollers

	mu        sync.Mutex
	listeners []net.Listener        // one per endpoint, once Listen has been called
	pending   map[net.Conn]struct{} // not accepted yet
	started   bool
	stopping  bool

	running sync.WaitGroup // accept loops, handshakes and channels; grows only while not stopping
	quit    chan struct{}  // closed when Shutdown begins
	stopped chan struct{}  // closed when Shutdown is through
}

var _ im.Server = (*Server)(nil)

// endpoint is an Endpoint and what its channels share.
type endpoint struct {
	Endpoint
	host *host // static after begin
}

// NewServer returns a server for the endpoints. SetAcceptor and SetMessageListener are called
// before Start; SetStateListener, SetReadWait and SetChannelMap may be.
func NewServer(opts Options, endpoints ...Endpoint) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts:     opts,
		channels: NewChannelMap(),
		pending:  make(map[net.Conn]struct{}),
		quit:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	for _, ep := range endpoints {
		s.endpoints = append(s.endpoints, endpoint{Endpoint: ep})
	}
	s.host = &host{
		readWait:   opts.ReadWait,
		writeWait:  opts.WriteWait,
		maxPacket:  opts.MaxPacket,
		queueBytes: opts.QueueBytes,
		metrics:    opts.Metrics,
		logf:       opts.Logf,
		buffers:    new(buffers),
		batch:      opts.Batch,
		ended:      s.ended,
	}
	return s
}

// SetAcceptor sets who decides about new connections. Required.
func (s *Server) SetAcceptor(a im.Acceptor) { s.acceptor = a }

// SetMessageListener sets who receives. With epoll, Receive runs on a goroutine that many channels
// share: it must not block on anything. Required.
func (s *Server) SetMessageListener(l im.MessageListener) { s.host.receiver = l }

// SetStateListener sets who hears of ends and, if it is an im.ConnectListener, of beginnings.
func (s *Server) SetStateListener(l im.StateListener) { s.states = l }

// SetReadWait sets the silence after which a channel is closed; negative means never.
func (s *Server) SetReadWait(d time.Duration) { s.host.readWait = d }

// SetChannelMap replaces the map that NewServer made.
func (s *Server) SetChannelMap(m im.ChannelMap) { s.channels = m }

// Channels is the channel map.
func (s *Server) Channels() im.ChannelMap { return s.channels }

// Listen opens the endpoints, all or none. Start does it if it has not been done.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return im.ErrServerClosed
	}
	if s.listeners != nil {
		return nil
	}
	// Silence is what ReadWait is for; TCP's own probes would wake up every idle phone.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false) // its sockets lack options before Linux 5.17
	listeners := make([]net.Listener, 0, len(s.endpoints))
	for _, ep := range s.endpoints {
		ln, err := config.Listen(context.Background(), "tcp", ep.Address)
		if err != nil {
			closeAll(listeners)
			return fmt.Errorf("listen for %s: %w", ep.Protocol.Name(), err)
		}
		listeners = append(listeners, ln)
	}
	s.listeners = listeners
	return nil
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		_ = ln.Close()
	}
}

// Addrs are the addresses listened on, in the order of the endpoints; nil before Listen.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addrs []net.Addr
	for _, ln := range s.listeners {
		addrs = append(addrs, ln.Addr())
	}
	return addrs
}

// Addr is the address of endpoint i, after Listen.
func (s *Server) Addr(i int) net.Addr { return s.Addrs()[i] }

// Start listens and serves; see im.Server. It returns nil when Shutdown is through. After any
// other error the open channels live on until Shutdown.
func (s *Server) Start() error {
	if s.acceptor == nil || s.host.receiver == nil {
		return errors.New("transport: a server needs an Acceptor and a MessageListener")
	}
	if err := s.Listen(); err != nil {
		return err
	}
	listeners, err := s.begin()
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners))
	for i, ln := range listeners {
		go func() { failed <- s.acceptLoop(ln, &s.endpoints[i]) }()
	}
	var first error
	for range listeners {
		if err := <-failed; err != nil && first == nil {
			first = err
			closeAll(listeners)
		}
	}
	if first != nil {
		return first
	}
	<-s.stopped
	return nil
}

// begin starts what runs beside the accept loops.
func (s *Server) begin() ([]net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return nil, im.ErrServerClosed
	case s.started:
		return nil, errors.New("transport: server started twice")
	}
	if s.opts.Driver == DriverAuto && s.hasPlain() {
		if err := s.pollers.start(s.host, s.opts.Pollers); err != nil {
			s.host.logf("transport: %v; every connection gets a goroutine", err)
		}
	}
	for i := range s.endpoints {
		h := *s.host
		h.codec = s.endpoints[i].Protocol
		s.endpoints[i].host = &h
		s.pollFor(i)
	}
	s.started = true
	s.running.Add(len(s.listeners))
	return s.listeners, nil
}

// pollFor gives the connections of a plain endpoint to the pollers, if there are any. Locked.
func (s *Server) pollFor(i int) {
	if s.endpoints[i].TLS != nil {
		return
	}
	ln, err := s.pollers.listen(s.listeners[i], s.endpoints[i].host)
	if err != nil {
		s.host.logf("transport: poller: %v; every connection of %s gets a goroutine", err, s.listeners[i].Addr())
		return
	}
	s.listeners[i] = ln
}

func (s *Server) hasPlain() bool {
	for _, ep := range s.endpoints {
		if ep.TLS == nil {
			return true
		}
	}
	return false
}

// Push queues one binary frame to a channel; see im.Server.
func (s *Server) Push(id string, payload []byte) error {
	ch, ok := s.channels.Get(id)
	if !ok {
		return im.ErrChannelNotFound
	}
	return ch.Push(payload)
}

// Shutdown ends the server; see im.Server. A second call waits for the first.
func (s *Server) Shutdown(ctx context.Context) error {
	if !s.stop() {
		select {
		case <-s.stopped:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, ch := range s.channels.All() {
		ch.Close(im.ReasonGoingAway)
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		s.pollers.stop()
		close(s.stopped)
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	for _, ch := range s.channels.All() {
		if c, ok := ch.(*Channel); ok {
			c.cut(im.ReasonGoingAway)
		}
	}
	select {
	case <-ended:
	case <-time.After(cutGrace): // a listener is stuck
	}
	return ctx.Err()
}

// stop closes the doors: no connection and no channel is added from now on.
func (s *Server) stop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.stopping = true
	close(s.quit)
	closeAll(s.listeners)
	for conn := range s.pending {
		_ = conn.Close()
	}
	return true
}

// ended is the end of every channel: the host's callback.
func (s *Server) ended(c *Channel) {
	defer s.running.Done()
	s.channels.Remove(c.id)
	s.host.metrics.Closed[c.Reason()].Add(1)
	s.disconnect(c.id)
	c.finished()
}

func (s *Server) disconnect(id string) {
	if s.states == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			s.host.panicked(v)
		}
	}()
	if err := s.states.Disconnect(id); err != nil {
		s.host.logf("transport: disconnect of %s: %v", id, err)
	}
}

// acceptLoop accepts until the listener is closed.
func (s *Server) acceptLoop(ln net.Listener, ep *endpoint) error {
	defer s.running.Done()
	var pause time.Duration
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.admit(conn, ep)
		case s.isStopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default:
			// Out of descriptors or of what the pollers need, or a connection that broke before we took
			// it: none is a reason to stop, and the first two pass only if we wait.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.host.logf("transport: accept: %v; again in %v", err, pause)
			if !s.sleep(pause) {
				return nil
			}
		}
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// sleep waits for d; false if the server is stopping.
func (s *Server) sleep(d time.Duration) bool {
	select {
	case <-s.quit:
		return false
	case <-time.After(d):
		return true
	}
}

// admit starts the handshake of a connection, or closes it.
func (s *Server) admit(conn net.Conn, ep *endpoint) {
	m := s.host.metrics
	s.mu.Lock()
	refusal := Refusal(numRefusals)
	switch {
	case s.stopping:
		refusal = RefusedStopping
	case len(s.pending) >= s.opts.MaxHandshakes:
		refusal = RefusedBusy
	default:
		s.pending[conn] = struct{}{}
		s.running.Add(1)
	}
	s.mu.Unlock()
	if refusal != numRefusals {
		m.Refused[refusal].Add(1)
		_ = conn.Close()
		return
	}
	m.Handshaking.Add(1)
	go s.handshake(conn, ep)
}

// settled takes the connection off the list of handshakes. False: the server is stopping.
func (s *Server) settled(conn net.Conn) bool {
	s.host.metrics.Handshaking.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, conn)
	return !s.stopping
}

func tlsServer(conn net.Conn, config *tls.Config) net.Conn {
	if config == nil {
		return conn
	}
	return tls.Server(&patient{Conn: conn}, config)
}
