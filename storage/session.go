package storage

import (
	"context"
	"errors"
	"fmt"
)

// Session is where one device of an account is connected.
type Session struct {
	App, Account string
	// Device is unique within the account; "" is the one default device of old clients.
	Device   string
	Platform string
	// Channel is the connection's id, unique for all times. Those of one gateway grow: the longer is the
	// newer, and of two of one length the greater.
	Channel string
	// Gateway is the naming.Instance.ID of the gateway that holds the connection.
	Gateway  string
	Features Feature
	// Instance is the run of the client program, "" for old clients, and Attempt grows with each login
	// that it begins: of two sessions of one device and instance the one with the larger attempt is the newer.
	Instance string
	Attempt  uint64
	// LoginAt is the logic node's time of the login, or later: it grows with each login of the account.
	LoginAt int64
}

// DevicePolicy says which devices of an account may be on line together. The zero value lets them all,
// one session each.
type DevicePolicy struct {
	// PerPlatform: devices of one platform conflict. "" is a platform too.
	PerPlatform bool
	// Refuse refuses a login that conflicts with another device's session; otherwise that one gives way.
	Refuse bool
	// Max is the most devices; 0: no limit. One more displaces the one that logged in first, or is
	// refused with RefuseBeyondMax.
	Max             int
	RefuseBeyondMax bool
}

// Displacement is why a session gave way: pb.KickoutNotify.Reason.
type Displacement string

// The reasons.
const (
	// DisplacedByDevice: a newer login of the same device.
	DisplacedByDevice Displacement = "device"
	// DisplacedByReconnect: the same run of the client program has a newer connection.
	DisplacedByReconnect Displacement = "reconnected"
	// DisplacedByPlatform: a newer login of another device of the platform.
	DisplacedByPlatform Displacement = "platform"
	// DisplacedByLimit: the account has too many devices, and this one logged in first.
	DisplacedByLimit Displacement = "limit"
)

// Displaced is a session that gave way.
type Displaced struct {
	Session
	Reason Displacement
	// ByDevice and ByPlatform are those of the newer session.
	ByDevice, ByPlatform string
}

// Admission is what became of a login.
type Admission struct {
	// LoginAt is that of the session as stored: above those of the account's other sessions, those of
	// ended leases too, so that their gateways, whatever the clocks say, win nothing back when they Restore.
	LoginAt int64
	// Stamp counts what was stored under the gateway's lease; 0 if it has ended. See RenewLease.
	Stamp int64
	// Displaced are other channels, whose gateways' leases run. A channel that logs in or is restored again may hear again of those that
	// gave way to it a moment ago: the answer may not have come.
	Displaced []Displaced
}

// ErrSuperseded: the device has a newer session, with a larger Attempt of the same Instance or, of another
// Instance or none, with a newer Channel of the same gateway. This login was late, and nothing was stored.
var ErrSuperseded = errors.New("a newer login of the same client is there")

// ConflictError refuses a login by the policy. Nothing was stored.
type ConflictError struct {
	// Sessions are those that stay.
	Sessions []Session
}

// Error counts the sessions.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%d sessions stay, by the device policy", len(e.Sessions))
}

// Missed is what the clients of one gateway were not pushed, since no link to it was there.
type Missed struct {
	// Channels must sync. Each is named once.
	Channels []string
	// Kicked were displaced and not told, at most MaxKicked.
	Kicked []string
	// All of the gateway's clients must sync: AllChannels was noted, or more than MaxMissed.
	All bool
	// UpTo grows with each note, and names this state.
	UpTo int64
}

const (
	// MaxMissed is how many channels that must sync are kept for one gateway; beyond it all must.
	MaxMissed = 10_000
	// MaxKicked is how many displaced ones are kept beside them. Nothing stands for those beyond it, which
	// stay open until the gateway stores its sessions again; so it is the size of a large gateway, and
	// still a fifth of a link's largest packet.
	MaxKicked = 100_000
	// AllChannels among the channels of NoteMissed says that all of the gateway's clients must sync. No channel is called so.
	AllChannels = "*"
)

// Changes are what has happened since a position.
type Changes struct {
	// Accounts were given sessions. One may be named several times.
	Accounts []AccountKey
	// All: there may be others. The position was none of this store's, or too old, or the store went back to an
	// older state of itself, or a gateway's lease began anew.
	All bool
	// Position is up to where this is; never earlier than what a Find that had returned before has seen.
	Position string
}

// Sessions knows which devices are on line. A session lives until its Logout or the end of its
// gateway's lease; renewing the one lease keeps all of the gateway's sessions (I6). One whose lease has
// ended conflicts with nothing. Safe for concurrent use.
type Sessions interface {
	// Login stores s as its device's session, in one step with removing those that give way to it.
	// Logins are ordered by the store, whatever LoginAt says; only ErrSuperseded knows better. A device
	// never conflicts with itself: s replaces the device's own session under every policy, and is then
	// not refused. The same channel may log in again.
	// ErrSuperseded, *ConflictError.
	Login(ctx context.Context, s Session, p DevicePolicy) (Admission, error)
	// Logout removes the device's session if it is still that of this channel, and says whether it was.
	Logout(ctx context.Context, app, account, device, channel string) (removed bool, err error)
	// Find returns, for each key in order, the sessions of the account whose gateway's lease runs, sorted by device.
	Find(ctx context.Context, keys []AccountKey) ([][]Session, error)
	// Changes says for which accounts Find may find more than it did, since the position of an earlier
	// answer: by Login, Restore, or RenewLease of a lease that was not there. Sessions that end are not named. "" is no position.
	Changes(ctx context.Context, since string) (Changes, error)
	// RenewLease lets the gateway's sessions live for another ttl from now, in milliseconds. lost says
	// that the store may lack some of them, so that all must be restored: the lease had ended or was never
	// there, or the store is behind seen, the largest stamp that the gateway got, since it went back to
	// an older state of itself. It says so again, should the answer be lost, until a smaller one is
	// given: who was told counts from 0.
	RenewLease(ctx context.Context, gateway string, ttlMillis, seen int64) (lost bool, err error)
	// Restore stores again sessions that the store may have lost, all of the one gateway, in one batch.
	// It keeps the newest of those that conflict, by Attempt or LoginAt, whatever the policy does at a
	// login; displaced are the others: given ones that were not stored, and stored ones that were
	// removed. The most devices of an account are left to logins. Stamp as in Admission.
	Restore(ctx context.Context, gateway string, sessions []Session, p DevicePolicy) (stamp int64, displaced []Displaced, err error)
	// NoteMissed notes what could not be pushed to a gateway, which learns of it when it renews its
	// lease; from many nodes at once. What is noted for a gateway that does not ask is forgotten after a while.
	NoteMissed(ctx context.Context, gateway string, channels, kicked []string) error
	// Missed returns what was noted for the gateway and not yet forgotten, after forgetting what a Missed with this
	// UpTo has told; 0 forgets nothing.
	Missed(ctx context.Context, gateway string, told int64) (Missed, error)
	// EndLease ends the gateway's lease at once: it has stopped.
	EndLease(ctx context.Context, gateway string) error
	// Ping reports whether the store answers.
	Ping(ctx context.Context) error
	Close() error
}
