package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	im "github.com/hermod-im/hermod"
)

// Defaults of Options, and what has none.
const (
	// DefaultBackoffBase is the ceiling of the wait after the first failure; it doubles with each.
	DefaultBackoffBase = 200 * time.Millisecond
	// DefaultBackoffMax is the largest ceiling.
	DefaultBackoffMax = 15 * time.Second
	// DefaultAnswerWait is how long an answer may take on a connection that lives.
	DefaultAnswerWait = 10 * time.Second
	// DefaultPongWait is how long a connection may be silent after a ping.
	DefaultPongWait = 10 * time.Second
	// DefaultOutboxBytes bounds the requests that wait for their answer, in bytes.
	DefaultOutboxBytes = 4 << 20
	// DefaultInboxMessages bounds the messages that wait for the application.
	DefaultInboxMessages = 2048

	// maxAnswer is the largest packet taken from a server, in bytes: a page of a sync may be long.
	maxAnswer = im.DefaultMaxLinkPacket
	// syncPage is the most messages asked for in one page of a sync.
	syncPage = 500
	// syncCursors is the most cursors of one request of a sync that has digests, and cursorBytes the most
	// that one takes.
	syncCursors = 1000
	cursorBytes = 48
	// moveWait is how long a move to another gateway waits for what was asked at the old one. What must
	// not be asked twice is waited for until it is answered.
	moveWait = 3 * time.Second
	// gapWait is how long a missing message may be overtaken by later ones before it is asked for.
	gapWait = 100 * time.Millisecond
	// stableAfter is how long a connection must have lasted for its end not to count as a failure:
	// a server that closes right after each login is not called in a tight loop.
	stableAfter = 5 * time.Second
)

// TokenSource gives the token of a login. It is called before every connection; after a refusal
// once more, so it should not return a token from a cache that has expired. An error that is
// ErrUnauthorized ends the client, others are tried again.
type TokenSource func(ctx context.Context) (string, error)

// StaticToken is the source of one token.
func StaticToken(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// Options of a client. Token and one of URL and Router are needed; the rest has defaults.
//
// The On functions are called from one goroutine, one at a time. They may call the client. While
// one of them runs, what arrives waits (InboxMessages); beyond that it is dropped and asked for
// again later.
type Options struct {
	// URL of the gateway: ws://, wss://, tcp:// (host:port) or tls:// (TCP over TLS).
	URL string
	// Router is the base URL of the router, http:// or https://, that says which gateways to use.
	Router string
	Token  TokenSource
	// Device is unique within the account: a second login with the same one displaces the first.
	// Empty is the account's one default device.
	Device string
	// Platform is told to the server: ios, android, web, desktop, bot, …
	Platform string

	// OnMessage gets every message of the account's conversations: once, and in seq order within
	// each. May be nil.
	OnMessage func(Message)
	// OnGroup hears of changes in the account's groups while on line. May be nil.
	OnGroup func(GroupEvent)
	// OnOutcome hears what became of each message of Send, once, while Run runs; that it is stored, behind
	// what OnMessage hears of before it in its conversation. May be nil.
	OnOutcome func(Outcome)
	// OnConversation hears of each conversation that is new to this device, before its first message or
	// without one, and once more, with gone set, when the account does not belong to it any more.
	// May be nil.
	OnConversation func(k Conversation, gone bool)
	// OnRead hears where the account has read a conversation to: when that is first known in this run,
	// and when another device has moved it. May be nil: then no read positions are kept.
	OnRead func(Conversation)
	// OnState hears of each new state and, for StateOffline and StateClosed, why. May be nil.
	OnState func(State, error)
	// EchoOwn delivers what this client itself sends to OnMessage too. What the account's other
	// devices send is always delivered.
	EchoOwn bool

	// Store keeps the cursors between runs. Defaults to a MemoryStore: then every run begins with
	// all messages of all conversations.
	Store Store
	// Outbox keeps the messages of Send between runs. May be nil: then those without an outcome when
	// Run ends get ErrClosed as theirs.
	Outbox Outbox
	// Logger defaults to none. Tokens and bodies are never logged.
	Logger *slog.Logger
	// TLS is for wss and tls. May be nil.
	TLS *tls.Config
	// HTTP is for the router. Defaults to a client with a timeout of DialWait.
	HTTP *http.Client

	// DialWait bounds dialling and handshake. Defaults to im.DefaultDialWait.
	DialWait time.Duration
	// LoginWait bounds the answer to the login. Defaults to im.DefaultLoginWait.
	LoginWait time.Duration
	// AnswerWait is how long an answer may take. Defaults to DefaultAnswerWait.
	AnswerWait time.Duration
	// Heartbeat is the interval of pings. Defaults to im.DefaultHeartbeat.
	Heartbeat time.Duration
	// PongWait is how long the connection may be silent after a ping. Defaults to DefaultPongWait.
	PongWait time.Duration
	// BackoffBase and BackoffMax are the first and the largest ceiling of the random wait between
	// connections. Default to DefaultBackoffBase and DefaultBackoffMax.
	BackoffBase, BackoffMax time.Duration
	// MaxPacket is the largest packet sent, in bytes. Defaults to im.DefaultMaxPacket; a server
	// closes the connection on a larger one than its own limit.
	MaxPacket int
	// OutboxBytes bounds the messages that wait for their outcome and the other requests that wait
	// for their answer, together, in bytes; a call beyond it fails with ErrQueueFull. Defaults to
	// DefaultOutboxBytes.
	OutboxBytes int
	// InboxMessages bounds the messages that wait for OnMessage. Defaults to DefaultInboxMessages; at least 2.
	InboxMessages int
}

func (o Options) withDefaults() Options {
	o.DialWait = cmp.Or(o.DialWait, im.DefaultDialWait)
	o.LoginWait = cmp.Or(o.LoginWait, im.DefaultLoginWait)
	o.AnswerWait = cmp.Or(o.AnswerWait, DefaultAnswerWait)
	o.Heartbeat = cmp.Or(o.Heartbeat, im.DefaultHeartbeat)
	o.PongWait = cmp.Or(o.PongWait, DefaultPongWait)
	o.BackoffBase = cmp.Or(o.BackoffBase, DefaultBackoffBase)
	o.BackoffMax = cmp.Or(o.BackoffMax, DefaultBackoffMax)
	o.MaxPacket = cmp.Or(o.MaxPacket, im.DefaultMaxPacket)
	o.OutboxBytes = cmp.Or(o.OutboxBytes, DefaultOutboxBytes)
	o.InboxMessages = max(2, cmp.Or(o.InboxMessages, DefaultInboxMessages))
	if o.Store == nil {
		o.Store = new(MemoryStore)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: o.DialWait}
	}
	if o.OnMessage == nil {
		o.OnMessage = func(Message) {}
	}
	if o.OnGroup == nil {
		o.OnGroup = func(GroupEvent) {}
	}
	if o.OnOutcome == nil {
		o.OnOutcome = func(Outcome) {}
	}
	if o.OnConversation == nil {
		o.OnConversation = func(Conversation, bool) {}
	}
	if o.OnState == nil {
		o.OnState = func(State, error) {}
	}
	return o
}

func (o *Options) validate() error {
	if o.Token == nil {
		return errors.New("client: Options.Token is missing")
	}
	if (o.URL == "") == (o.Router == "") {
		return errors.New("client: one of Options.URL and Options.Router is needed")
	}
	if o.URL != "" {
		if err := checkGateway(o.URL); err != nil {
			return fmt.Errorf("client: Options.URL: %w", err)
		}
		return nil
	}
	u, err := url.Parse(o.Router)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("client: Options.Router: %q is no http URL", o.Router)
	}
	return nil
}
