// Package transport is the one core of hermod's servers and clients: the life of a connection from
// its handshake to its last byte, the bounded queue before each socket, and the two drivers that
// read and write (a goroutine per connection, or epoll). What differs between TCP and WebSocket is
// a Protocol, in transport/tcp and transport/websocket.
//
// The life of a server's connection:
//
//	accept ─ TLS ─ Protocol.Upgrade ─ Acceptor.Accept ─ map.Add ─ Connect ─ Receive… ─ map.Remove ─ Disconnect ─ Done
//	└──────────── within LoginWait, own goroutine ────────────┘           └─ driver ─┘
//
// Who owns what:
//
//   - One reader at a time: the goroutine of the connection, or the poller it belongs to.
//   - One flusher at a time: a goroutine that lives while there is something to write; for the channels of a
//     poller its flusher, or who ends a Batch. Everybody else only appends to the queue.
//   - The socket is released by the last of the two to leave a dead channel, so that a descriptor
//     is never reused under someone's read or write.
//
// Lock order: Channel.mu before poller.mu and readyList.mu. Nothing is called back with a lock held.
package transport

import (
	"crypto/tls"
	"runtime"
	"time"

	im "github.com/hermod-im/hermod"
)

const (
	// DefaultMaxHandshakes bounds the connections that are not accepted yet.
	DefaultMaxHandshakes = 10_000
	// DefaultMaxLogin is the largest message before a connection is accepted, in bytes: a token may have several KiB.
	DefaultMaxLogin = 16 << 10
	// MaxQueueBytes is the most that QueueBytes may be: channels count what waits in 32 bits.
	MaxQueueBytes = 1 << 30
	// MaxRequest is the largest HTTP upgrade request, in bytes.
	MaxRequest = 8 << 10

	// lingerWait is how long the peer may take to close after our close frame. Closing at once
	// would reset the connection if the peer has just sent something, and lose the close frame.
	lingerWait = 2 * time.Second
	// cutGrace is how long Shutdown waits for listeners after it has cut all connections.
	cutGrace = time.Second
)

// Driver says how accepted connections are read and written.
type Driver uint8

const (
	// DriverAuto is epoll for plain TCP sockets on Linux, goroutines for everything else.
	DriverAuto Driver = iota
	// DriverGoroutine has one reading goroutine per connection.
	DriverGoroutine
)

// Endpoint is one address that a server listens on.
type Endpoint struct {
	// Address is host:port; port 0 picks one, see Server.Addrs.
	Address  string
	Protocol Protocol
	// TLS, if not nil, is spoken below the protocol.
	TLS *tls.Config
}

// Options of a server. The zero value works.
type Options struct {
	// LoginWait bounds TLS, upgrade and Accept together. Defaults to im.DefaultLoginWait.
	LoginWait time.Duration
	// ReadWait is the silence after which a channel is closed. Defaults to im.DefaultReadWait;
	// negative means never.
	ReadWait time.Duration
	// WriteWait is how long a socket may take nothing, and how long a close may take. Defaults to
	// im.DefaultWriteWait.
	WriteWait time.Duration
	// MaxPacket is the largest message accepted, in bytes. Defaults to im.DefaultMaxPacket.
	MaxPacket int
	// MaxLogin is the largest message accepted during Accept, in bytes: what a stranger may have us hold. Defaults to
	// DefaultMaxLogin; more than MaxPacket is as much as that.
	MaxLogin int
	// QueueBytes bounds what may wait to be written to one channel: above it nothing more is queued,
	// so the most that ever waits is this and one packet. Defaults to im.DefaultQueueBytes; more than
	// MaxQueueBytes is as much as that.
	QueueBytes int
	// MaxHandshakes bounds the connections that are not accepted yet; more are closed at once.
	// Defaults to DefaultMaxHandshakes.
	MaxHandshakes int
	// Driver defaults to DriverAuto.
	Driver Driver
	// Pollers is the number of epoll loops. Defaults to GOMAXPROCS.
	Pollers int
	// Batch is whose writes go together with those of this server: clients' that it talks to all the time, say.
	// Defaults to one of its own.
	Batch *Batch
	// Metrics counts what happens. May be nil.
	Metrics *Metrics
	// Logf reports panics of listeners and failures to accept. May be nil.
	Logf func(format string, args ...any)
}

func (o Options) withDefaults() Options {
	setDefault(&o.LoginWait, im.DefaultLoginWait)
	setDefault(&o.ReadWait, im.DefaultReadWait)
	setDefault(&o.WriteWait, im.DefaultWriteWait)
	setDefault(&o.MaxPacket, im.DefaultMaxPacket)
	setDefault(&o.MaxLogin, DefaultMaxLogin)
	o.MaxLogin = min(o.MaxLogin, o.MaxPacket)
	setDefault(&o.QueueBytes, im.DefaultQueueBytes)
	o.QueueBytes = min(o.QueueBytes, MaxQueueBytes)
	setDefault(&o.MaxHandshakes, DefaultMaxHandshakes)
	setDefault(&o.Pollers, runtime.GOMAXPROCS(0))
	if o.Batch == nil {
		o.Batch = new(Batch)
	}
	if o.Metrics == nil {
		o.Metrics = new(Metrics)
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return o
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// host is what all channels of one endpoint or client share. Static after construction.
type host struct {
	codec      Codec
	readWait   time.Duration // ≤ 0: no limit
	writeWait  time.Duration
	maxPacket  int
	queueBytes int
	metrics    *Metrics
	logf       func(format string, args ...any)
	buffers    *buffers
	batch      *Batch             // of the pollers
	receiver   im.MessageListener // nil on clients
	// ended is called once per channel, on a goroutine of its own, after the socket is closed.
	ended func(*Channel)
	// closedByPeer is called by the reader, after a close frame of the peer's; nil on servers.
	closedByPeer func(*Channel, *PeerClosedError)
	// silent leaves the text out of close frames: on clients, whose reasons mean nothing to a server.
	silent bool
}
