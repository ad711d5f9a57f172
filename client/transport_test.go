package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
	"github.com/hermod-im/hermod/wire"
)

// served is the fake on real sockets: ws, tcp, wss, tls.
type served struct {
	*fake
	server *transport.Server
	mu     sync.Mutex
	next   int
	links  map[string]*fakeLink
}

var schemes = []string{"ws", "tcp", "wss", "tls"}

func serve(t *testing.T, f *fake, tlsConfig *tls.Config) *served {
	t.Helper()
	const any = "127.0.0.1:0"
	s := &served{fake: f, links: map[string]*fakeLink{}}
	s.server = transport.NewServer(transport.Options{},
		transport.Endpoint{Address: any, Protocol: websocket.Protocol()},
		transport.Endpoint{Address: any, Protocol: tcp.Protocol()},
		transport.Endpoint{Address: any, Protocol: websocket.Protocol(), TLS: tlsConfig},
		transport.Endpoint{Address: any, Protocol: tcp.Protocol(), TLS: tlsConfig},
	)
	s.server.SetAcceptor(s)
	s.server.SetMessageListener(s)
	s.server.SetStateListener(s)
	if err := s.server.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.server.Start() }()
	t.Cleanup(func() {
		s.stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func (s *served) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		s.t.Errorf("shutdown: %v", err)
	}
}

func (s *served) urls() (list []string) {
	for i, scheme := range schemes {
		list = append(list, scheme+"://"+s.server.Addr(i).String())
	}
	return list
}

// Accept implements im.Acceptor; the login is a message like others here.
func (s *served) Accept(im.Conn, time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return fmt.Sprint(s.next), nil
}

// Connect implements im.ConnectListener.
func (s *served) Connect(ch im.Channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[ch.ID()] = &fakeLink{
		send: func(b []byte) { _ = ch.Push(b) },
		close: func(code uint16) {
			for r := range im.NumReasons {
				if im.Reason(r).Code() == code {
					ch.Close(im.Reason(r))
				}
			}
		},
	}
	return nil
}

// Receive implements im.MessageListener.
func (s *served) Receive(a im.Agent, payload []byte) {
	s.mu.Lock()
	l := s.links[a.ID()]
	s.mu.Unlock()
	s.receive(l, payload)
}

// Disconnect implements im.StateListener.
func (s *served) Disconnect(id string) error {
	s.mu.Lock()
	l := s.links[id]
	delete(s.links, id)
	s.mu.Unlock()
	s.gone(l)
	return nil
}

// connect is start without the pipe, and with a channel that hears.
func connect(t *testing.T, o Options) (*Client, <-chan Message, <-chan error) {
	t.Helper()
	heard, done := make(chan Message, 100), make(chan error, 1)
	o.OnMessage = func(m Message) { heard <- m }
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return c, heard, done
}

func TestTransports(t *testing.T) {
	certs := httptest.NewTLSServer(nil)
	defer certs.Close()
	f := newFake(t)
	modern(f)
	s := serve(t, f, certs.TLS)
	trusting := certs.Client().Transport.(*http.Transport).TLSClientConfig
	for i, url := range s.urls() {
		t.Run(schemes[i], func(t *testing.T) {
			alice, _, _ := connect(t, Options{URL: url, TLS: trusting, Token: StaticToken("alice" + schemes[i])})
			_, heard, done := connect(t, Options{URL: url, TLS: trusting, Token: StaticToken("bob" + schemes[i])})
			for n := range 3 {
				body := strings.Repeat("x", n*30_000)
				if _, err := alice.Talk(t.Context(), "bob"+schemes[i], Text(body)); err != nil {
					t.Fatal(err)
				}
				if m := <-heard; m.Body != body || m.Seq != int64(n+1) {
					t.Errorf("heard %d bytes, seq %d", len(m.Body), m.Seq)
				}
			}
			f.each("alice"+schemes[i], func(l *fakeLink) { l.close(im.ReasonSlowConsumer.Code()) })
			if _, err := alice.Talk(t.Context(), "bob"+schemes[i], Text("again")); err != nil {
				t.Fatal(err)
			}
			<-heard
			moved := make(chan struct{}, 2)
			f.intercept(func(_ *fakeLink, p *wire.LogicPkt) bool {
				if p.Command == wire.CmdSignIn {
					moved <- struct{}{}
				}
				return false
			})
			f.goAway(0)
			<-moved
			<-moved
			f.intercept(nil)
			if _, err := alice.Talk(t.Context(), "bob"+schemes[i], Text("from the new connection")); err != nil {
				t.Fatal(err)
			}
			if m := <-heard; m.Body != "from the new connection" || m.Seq != 5 {
				t.Errorf("heard %+v", m)
			}
			f.each("bob"+schemes[i], func(l *fakeLink) { l.close(im.ReasonDisplaced.Code()) })
			if err := <-done; !errors.Is(err, ErrDisplaced) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// A gateway stops: its clients find the other one through the router.
func TestLookup(t *testing.T) {
	f := newFake(t)
	first, second := serve(t, f, nil), serve(t, f, nil)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "ws://" + nobody.Addr().String()
	_ = nobody.Close()

	var mu sync.Mutex
	domains := []string{dead, first.urls()[0], second.urls()[0]}
	asked := 0
	router := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		switch {
		case r.URL.Path != "/api/lookup/alice":
			w.WriteHeader(http.StatusUnauthorized)
		case domains == nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			_ = json.NewEncoder(w).Encode(map[string]any{"utc": 1, "location": "here", "domains": domains})
		}
	}))
	defer router.Close()
	defer router.Client().CloseIdleConnections()

	fast := Options{Router: router.URL + "/", HTTP: router.Client(), Token: StaticToken("alice"), BackoffBase: time.Millisecond, BackoffMax: 10 * time.Millisecond}
	alice, _, _ := connect(t, fast)
	talk := func() {
		t.Helper()
		if _, err := alice.Talk(t.Context(), "bob", Text("x")); err != nil {
			t.Fatal(err)
		}
	}
	talk()
	on := func(s *served) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.links) > 0
	}
	if !on(first) || on(second) {
		t.Error("not on the first gateway that answers")
	}
	mu.Lock()
	domains = []string{second.urls()[0]}
	mu.Unlock()
	first.stop()
	talk()
	if !on(second) {
		t.Error("not on the other gateway")
	}
	mu.Lock()
	domains = nil
	before := asked
	mu.Unlock()
	f.each("alice", func(l *fakeLink) { l.close(im.ReasonInternal.Code()) })
	talk()
	mu.Lock()
	if asked == before {
		t.Error("the router was not asked again")
	}
	mu.Unlock()

	fast.Token = StaticToken("mallory")
	if _, _, done := connect(t, fast); !errors.Is(<-done, ErrUnauthorized) {
		t.Error("a token that the router refuses twice is not the end")
	}
}

// Errors must not tell the token, which is in the URL of a lookup.
func TestLookupErrors(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"status":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no JSON":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no domains": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"domains":[]}`)) },
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"domains":["` + strings.Repeat("x", 2*maxLookup) + `"]}`))
		},
	}
	for name, handler := range answers {
		t.Run(name, func(t *testing.T) {
			router := httptest.NewServer(handler)
			defer router.Close()
			list, err := lookup(t.Context(), &Options{Router: router.URL, HTTP: router.Client()}, "s3cret")
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %q, error %v", list, err)
			}
		})
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	if _, err := lookup(t.Context(), &Options{Router: closed.URL, HTTP: http.DefaultClient}, "s3cret"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, gateway := range []string{"ftp://x", "x:1", "http://x", "ws://"} {
		if _, _, err := newConn(gateway, &Options{}); err == nil {
			t.Errorf("%s: no error", gateway)
		}
	}
	o := Options{}.withDefaults()
	for gateway, want := range map[string]string{
		"ws://h:1/path": "ws://h:1/path", "wss://h": "wss://h", "tcp://h:1": "h:1", "tls://h:1/": "h:1",
	} {
		if _, address, err := newConn(gateway, &o); err != nil || address != want {
			t.Errorf("%s: %q, %v", gateway, address, err)
		}
	}
}
