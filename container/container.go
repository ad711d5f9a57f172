// Package container is one node's life between the others: it keeps the node's entry in the
// registry (Registration), lets it take traffic only when it is connected to its peers (Barrier),
// and holds the links between services.
//
// A gateway dials every logic node: Links. A logic node accepts the gateways: Hub.
//
//	gateway                                      logic
//	Links ── Link ── im.Client ════ TCP ════ transport server ── Hub
//	  Select(key), Forward, Request              Push(gateway), Receive
//
// A link carries LogicPkts, one a frame, in order, after a handshake in which both sides prove that
// they know the cluster's secret (hello.go). Writes are batched by the transport's queue; a full
// queue is an error at once, never a wait.
package container

import "time"

// MetaLoginAt is the Meta of a logic node's answer to a login that holds storage.Session.LoginAt as
// it was stored, in decimal: the fence that the gateway gives when it stores the session again.
const MetaLoginAt = "login_at"

// MetaStamp is the Meta that holds storage.Admission.Stamp, in decimal.
const MetaStamp = "stamp"

// MaxHello is the largest packet of a link's handshake, in bytes, for transport.Options.MaxLogin: nonce and proof have 48,
// the rest is for the instance's name.
const MaxHello = 4 << 10

const (
	// helloWait bounds the handshake of a link.
	helloWait = 5 * time.Second
	// redialMin and redialMax bound the jittered backoff between dials of a broken link: a node that is
	// reachable again is linked about a second later, and one that is not costs a dial a second.
	redialMin = 50 * time.Millisecond
	redialMax = time.Second
	// redialRefused is the pause after a refusal: neither node changes its version or its secret as long
	// as it runs.
	redialRefused = 10 * time.Second
	// linkSettled is how long a link must have lived for the backoff to begin anew: one that breaks again
	// and again has all clients hinted each time.
	linkSettled = 3 * time.Second
	// publishMin and publishMax bound the backoff while the registry cannot be reached.
	publishMin = 100 * time.Millisecond
	publishMax = 5 * time.Second
	// deregisterWait is how long a node that stops waits for the registry before it turns to its peers and clients: a
	// registry that works takes milliseconds, and one that elects a leader a second or two.
	deregisterWait = 2 * time.Second
)

// LinkVersion is the version of what services say to each other. A node speaks with peers of its own
// version, the one before and the one after, in the lower one of both: so a cluster is upgraded node
// by node. Header fields, fields of bodies and commands may be added without a new version: who does
// not know them passes over them, or answers 301.
const LinkVersion = 2

// VersionPushes is the first version whose gateways take several pushes in one packet (wire.CmdLinkPushes).
const VersionPushes = 2
