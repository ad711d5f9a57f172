// Package im is the vocabulary of hermod: the contracts between a server, its channels, the
// listeners above them and the clients on the other side, the errors they share and the defaults.
// It imports the standard library only; adapters live in transport, container, gateway and logic.
package im

import (
	"context"
	"net"
	"time"
)

// Defaults of a server or client. Each can be changed where it is used.
const (
	// DefaultLoginWait is how long a new connection may take until it is accepted: upgrade, first packet, login.
	DefaultLoginWait = 10 * time.Second
	// DefaultReadWait is the silence after which a connection is closed. Existing clients ping every 55 s.
	DefaultReadWait = 3 * time.Minute
	// DefaultWriteWait is the deadline of one write to a socket.
	DefaultWriteWait = 10 * time.Second
	// DefaultDialWait bounds dialling and the handshake of a client.
	DefaultDialWait = 5 * time.Second
	// DefaultHeartbeat is the interval of a client's pings (protocol.md, "Commands and bodies").
	DefaultHeartbeat = 55 * time.Second
	// DefaultMaxPacket is the largest payload accepted from a client, in bytes.
	DefaultMaxPacket = 64 << 10
	// DefaultMaxLinkPacket is the largest payload accepted from another service, in bytes.
	DefaultMaxLinkPacket = 16 << 20
	// DefaultQueueBytes bounds what may wait to be written to one client, in bytes.
	DefaultQueueBytes = 1 << 20
	// DefaultLinkQueueBytes bounds what may wait to be written to one link between services, in bytes.
	DefaultLinkQueueBytes = 64 << 20
)

// OpCode is the kind of a frame, with the values of RFC 6455 on both transports.
type OpCode byte

// The frame kinds of RFC 6455, section 5.2.
const (
	OpContinuation OpCode = 0x0
	OpText         OpCode = 0x1
	OpBinary       OpCode = 0x2
	OpClose        OpCode = 0x8
	OpPing         OpCode = 0x9
	OpPong         OpCode = 0xA
)

// IsControl reports whether the opcode is close, ping or pong.
func (op OpCode) IsControl() bool { return op&0x8 != 0 }

// Frame is one unit of a transport: a WebSocket message or a length-prefixed TCP frame.
type Frame interface {
	SetOpCode(OpCode)
	GetOpCode() OpCode
	SetPayload([]byte)
	GetPayload() []byte
}

// Conn is a connection that speaks frames. It has one reader and one writer at a time.
// WriteFrame may buffer; Flush writes what is buffered.
type Conn interface {
	net.Conn
	ReadFrame() (Frame, error)
	WriteFrame(OpCode, []byte) error
	Flush() error
}

// Server accepts connections and turns them into channels. Its setters are called before Start.
type Server interface {
	SetAcceptor(Acceptor)
	SetMessageListener(MessageListener)
	SetStateListener(StateListener)
	// SetReadWait sets the silence after which a channel is closed. Defaults to DefaultReadWait.
	SetReadWait(time.Duration)
	SetChannelMap(ChannelMap)

	// Start listens and serves; it returns nil after Shutdown, or the error that ended it.
	Start() error
	// Push queues one binary frame to the channel with this id. It never blocks:
	// ErrChannelNotFound, ErrChannelClosed or ErrQueueFull (which also closes the channel).
	Push(id string, payload []byte) error
	// Shutdown stops listening, writes what is queued, closes every channel with ReasonGoingAway
	// and returns when all of them have ended, or with ctx's error after cutting them off.
	Shutdown(ctx context.Context) error
}

// Acceptor decides whether a new connection becomes a channel, and under which id.
// It runs on a goroutine of its own and may read and write frames; what it does not read reaches
// the MessageListener. An error closes the connection: an Error with a Reason tells the peer why.
type Acceptor interface {
	Accept(Conn, time.Duration) (string, error)
}

// StateListener hears of the end of every channel that was accepted: exactly once, after the
// channel has left the channel map.
type StateListener interface {
	Disconnect(id string) error
}

// ConnectListener may be implemented by a StateListener that also wants the beginning: Connect is
// called once the channel is in the channel map and before its first Receive, so an answer that
// comes for the channel finds it. It may block for as long as the login may take; frames that the
// client sends meanwhile wait in its socket. An error closes the channel; Disconnect follows.
type ConnectListener interface {
	Connect(Channel) error
}

// MessageListener receives the binary frames of a channel, in order, one at a time per channel.
// The payload is only valid during the call. Receive must not block on the peer.
type MessageListener interface {
	Receive(Agent, []byte)
}

// Agent is who sent a message, and the way to answer.
type Agent interface {
	ID() string
	// Push queues one binary frame; it never blocks. The payload is copied.
	// ErrChannelClosed, or ErrQueueFull, after which the channel is closed (I5).
	Push(payload []byte) error
}

// Channel is one accepted connection: a queue bounded in bytes before a socket.
type Channel interface {
	Agent
	RemoteAddr() net.Addr
	// Attachment is what the application stored with SetAttachment, or nil. Safe for concurrent use.
	Attachment() any
	SetAttachment(any)
	// Close writes what is queued, sends a close frame with the reason, and closes the socket, all
	// in the background and within the write deadline. Only the first reason counts.
	Close(Reason)
	// Done is closed after the socket is.
	Done() <-chan struct{}
}

// ChannelMap finds channels by id. Safe for concurrent use.
type ChannelMap interface {
	Add(channel Channel)
	Remove(id string)
	Get(id string) (Channel, bool)
	All() []Channel
}

// Client is the dialling side of a connection. Send is safe for concurrent use and never blocks;
// Read belongs to one goroutine.
type Client interface {
	ID() string
	Name() string
	// Connect dials the address and does the handshake of the Dialer.
	Connect(address string) error
	SetDialer(Dialer)
	// Send queues one binary frame: ErrChannelClosed or ErrQueueFull. The payload is copied.
	Send([]byte) error
	// Read returns the next binary frame, answering pings; io.EOF after Close or the peer's close.
	// The frame's payload is valid until the next Read.
	Read() (Frame, error)
	Close()
}

// Dialer dials an address and does what must happen before the first Send: a TLS or WebSocket
// handshake, a login.
type Dialer interface {
	DialAndHandshake(DialerContext) (net.Conn, error)
}

// DialerContext is what a Dialer knows about the connection it makes.
type DialerContext struct {
	Id      string //nolint:revive // the seed's name
	Name    string
	Address string
	Timeout time.Duration
}
