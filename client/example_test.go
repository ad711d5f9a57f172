package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/token"
)

// Two accounts talk. Bob is off line when the first message is sent.
func Example() {
	server := startServer()
	defer server.stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	alice, err := client.New(client.Options{URL: server.url, Token: server.token("alice")})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = alice.Run(ctx) }()

	sent, err := alice.Talk(ctx, "bob", client.Text("are you there?"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stored with seq", sent.Seq)

	heard := make(chan client.Message)
	bob, err := client.New(client.Options{
		URL:       server.url,
		Token:     server.token("bob"),
		OnMessage: func(m client.Message) { heard <- m },
	})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = bob.Run(ctx) }()

	m := <-heard
	fmt.Printf("bob hears from %s: %s\n", m.Sender, m.Body)

	if _, err := alice.Talk(ctx, "bob", client.Text("good to see you")); err != nil {
		log.Fatal(err)
	}
	m = <-heard
	fmt.Printf("bob hears from %s: %s\n", m.Sender, m.Body)
	// Output:
	// stored with seq 1
	// bob hears from alice: are you there?
	// bob hears from alice: good to see you
}

// A group, its members and its history.
func ExampleClient_TalkGroup() {
	server := startServer()
	defer server.stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	c, err := client.New(client.Options{URL: server.url, Token: server.token("alice")})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = c.Run(ctx) }()

	id, err := c.CreateGroup(ctx, client.NewGroup{Name: "friends", Members: []string{"bob", "carol"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, body := range []string{"hello", "anybody?"} {
		if _, err := c.TalkGroup(ctx, id, client.Text(body)); err != nil {
			log.Fatal(err)
		}
	}

	g, err := c.Group(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s belongs to %s and has %d members\n", g.Name, g.Owner, len(g.Members))

	page, err := c.History(ctx, client.HistoryQuery{Group: id, Limit: 10})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range page.Messages {
		fmt.Println(m.Seq, m.Body)
	}
	// Output:
	// friends belongs to alice and has 3 members
	// 1 hello
	// 2 anybody?
}

// A device that keeps its cursors goes on where it was.
func ExampleStore() {
	server := startServer()
	defer server.stop()
	store := client.NewMemoryStore(nil) // an application keeps them in its database

	// run is one run of bob's application, until it has heard n messages.
	run := func(n int) {
		var bob *client.Client
		bob, err := client.New(client.Options{
			Router: server.router,
			Token:  server.token("bob"),
			Store:  store,
			OnMessage: func(m client.Message) {
				fmt.Println(m.Seq, m.Body)
				if n--; n == 0 {
					bob.Close()
				}
			},
		})
		if err != nil {
			log.Fatal(err)
		}
		if err := bob.Run(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	say := func(bodies ...string) {
		alice, err := client.New(client.Options{URL: server.url, Token: server.token("alice")})
		if err != nil {
			log.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { _ = alice.Run(ctx) }()
		for _, body := range bodies {
			if _, err := alice.Talk(ctx, "bob", client.Text(body)); err != nil {
				log.Fatal(err)
			}
		}
	}

	say("one", "two")
	run(2)
	say("three")
	run(1)
	// Output:
	// 1 one
	// 2 two
	// 3 three
}

// What to do about an error.
func ExampleRetryable() {
	for _, err := range []error{
		client.ErrDisconnected,
		client.ErrQueueFull,
		wire.Errorf(wire.StatusSystemException, "the service is busy: try again"),
		wire.Errorf(wire.StatusNoDestination, "there is no such group"),
		client.ErrDisplaced,
	} {
		var refused *wire.Error
		fmt.Println(client.Retryable(err), errors.As(err, &refused))
	}
	// Output:
	// true false
	// true false
	// true true
	// false true
	// false false
}

// server is a whole system in this process, as `hermod standalone` runs it.
type server struct {
	url, router string
	secret      []byte
	stop        func()
}

func (s *server) token(account string) client.TokenSource {
	return func(context.Context) (string, error) {
		return token.Issue(s.secret, token.Claims{Account: account, Expires: time.Now().Add(time.Hour)})
	}
}

func startServer() *server {
	data, err := os.MkdirTemp("", "hermod")
	if err != nil {
		log.Fatal(err)
	}
	c, err := boot.StandaloneConfig(data)
	if err != nil {
		log.Fatal(err)
	}
	c.Secret = token.NewSecret()
	c.Gateway.WS, c.Gateway.TCP, c.Router.Listen, c.Admin.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	s, err := boot.NewStandalone(context.Background(), c, &boot.Env{Log: quiet, Metrics: prometheus.NewRegistry()})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- boot.ServeWith(ctx, s, nil) }()
	if err := boot.AwaitReady(ctx, s); err != nil {
		log.Fatal(err)
	}
	return &server{
		url: s.Gateway.WS, router: s.Router.URL(), secret: []byte(c.Secret),
		stop: func() {
			cancel()
			if err := <-ended; err != nil {
				log.Fatal(err)
			}
			_ = os.RemoveAll(data)
		},
	}
}
