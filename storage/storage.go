// Package storage is the contracts and types of what hermod keeps: sessions (storage/redis,
// storage/memory), messages and groups (storage/sql), ids (storage/snowflake). Implementations of
// one contract pass the one suite in storage/storagetest.
//
// app, the tenant, is part of every key (I11). Times are Unix nanoseconds.
package storage

import (
	"context"
	"errors"
	"slices"
)

// Errors of the stores. Anything else is an internal failure that the caller may retry.
var (
	// ErrNoConversation: there is no such conversation or group in this app.
	ErrNoConversation = errors.New("no such conversation")
	// ErrNotMember: it exists, but the account does not belong to it.
	ErrNotMember = errors.New("not a member")
	// ErrAlreadyMember: the account belongs to the group already.
	ErrAlreadyMember = errors.New("already a member")
	// ErrNoMessage: there is no such message, or the account may not read it.
	ErrNoMessage = errors.New("no such message")
	// ErrGroupFull: the group has the configured number of members.
	ErrGroupFull = errors.New("group is full")
	// ErrTooManyGroups: the account belongs to as many groups as it may create or join.
	ErrTooManyGroups = errors.New("too many groups")
	// ErrInDoubt: the database was lost during a commit, and nobody knows yet what became of it.
	ErrInDoubt = errors.New("in doubt")
	// ErrInvalid: a field is empty that must not be, or longer than a store keeps. The error's text names it.
	ErrInvalid = errors.New("invalid")
)

// Feature is a bit set of what a client understands beyond the fixed protocol (docs/protocol.md, "Features").
type Feature uint32

// AccountKey names an account of a tenant.
type AccountKey struct{ App, Account string }

// Kind tells a conversation of two from a group.
type Kind uint8

// The kinds of conversation.
const (
	KindUser  Kind = 1
	KindGroup Kind = 2
)

// Draft is a message to be stored, and then what became of it.
type Draft struct {
	App, Sender string
	Kind        Kind
	// Dest is the other account (KindUser; may be the sender: a note to oneself) or the group's id.
	Dest string
	// ClientID makes the send idempotent within (conversation, sender); "" does not.
	ClientID string
	Type     int32
	Body     string
	Extra    string
	// SendTime is the server's time.
	SendTime int64

	// Set by Append where Err is nil. A repeated ClientID gets what was stored the first time, SendTime, Type, Body and Extra
	// included, and Duplicate.
	Conversation int64
	Seq          int64
	MessageID    int64
	Duplicate    bool
	// Members are all members of the conversation, the sender included, as of this commit, sorted; of a repeated
	// ClientID those who may read it, or nobody if the sender has quit. Shared: do not change.
	Members []string
	// Err is what refused this draft alone: ErrNoConversation, ErrNotMember, ErrInvalid.
	Err error
}

// Message is a stored message.
type Message struct {
	Conversation int64
	Seq          int64
	ID           int64
	Sender       string
	ClientID     string
	Type         int32
	Body         string
	Extra        string
	SendTime     int64
}

// IndexEntry is a line of an old client's offline index.
type IndexEntry struct {
	Message // without ClientID, Type, Body and Extra
	Kind    Kind
	// Peer is the other account (KindUser).
	Peer string
}

// Run is messages of one conversation that a client was sent. Runs that follow each other and have
// the same MessageID were sent together: the message itself, or a page of the index, in the order of ids.
type Run struct {
	Conversation int64
	// From and To are the seqs of the first and the last.
	From, To int64
	// MessageID is the id of the last message that was sent together with it. 0 if an ack of one of
	// them proves nothing, only one of what was sent behind them: the ack may be older than the page, or
	// their order is not known any more.
	MessageID int64
}

// Delta is what changed in one conversation since a cursor.
type Delta struct {
	Conversation int64
	Kind         Kind
	Peer         string
	LastSeq      int64
	// JoinedSeq is the seq before the first message that the account may read: a smaller cursor counts as this.
	JoinedSeq int64
	// ReadSeq is up to where the account has read.
	ReadSeq int64
	// Unread is the exact number of messages of others beyond ReadSeq, up to LastSeq. Sync sets it
	// where Messages reach LastSeq, History does not.
	Unread   int64
	Messages []Message
}

// Cursor is what a client has of one conversation.
type Cursor struct {
	// Seq is the last message that it has.
	Seq int64
	// ReadSeq is up to where it knows the account to have read, or ReadUnknown.
	ReadSeq int64
}

// ReadUnknown is the Cursor.ReadSeq of a client that keeps no read positions.
const ReadUnknown = -1

// Scope says which conversations are meant: those whose id modulo Buckets is one of Only. All, if
// Only is empty.
type Scope struct {
	Buckets uint32
	Only    []uint32
}

// Has reports whether the conversation is meant.
func (s Scope) Has(conversation int64) bool {
	return len(s.Only) == 0 || s.Buckets > 0 && slices.Contains(s.Only, uint32(conversation%int64(s.Buckets)))
}

// SyncQuery asks what a client lacks.
type SyncQuery struct {
	// Cursors are by conversation: of all that the client knows within the scope.
	Cursors map[int64]Cursor
	Scope   Scope
	// Limit is how many messages are returned at most. A Delta without messages counts as one.
	Limit int
	// Bytes is how many bytes the returned messages' Body and Extra have at most; a larger first
	// message is returned alone. 0 is no limit.
	Bytes int
}

// News is what a client lacks.
type News struct {
	// Deltas are by conversation, that of the newest message first; those of one commit in any order.
	// Messages are gapless from the cursor, or from JoinedSeq where that is larger.
	Deltas []Delta
	// Gone are conversations of the cursors that the account does not belong to (any more), ascending.
	Gone []int64
	// More: there is more than Limit and Bytes allowed. Gone is complete all the same.
	More bool
}

// Digest is what a client has of the conversations of one bucket.
type Digest struct {
	// Conversations is their number.
	Conversations uint32
	// IDs is the sum of their ids, each modulo DigestModulus.
	IDs uint64
	// Seqs is the sum of their cursors, Reads that of their read positions.
	Seqs, Reads uint64
	// NoReads: the client keeps no read positions, and Reads says nothing.
	NoReads bool
}

// DigestModulus bounds what one id adds to Digest.IDs.
const DigestModulus = 1<<31 - 1

// Position is how far an account has read a conversation.
type Position struct {
	ReadSeq int64
	// Unread is the exact number of messages of others beyond ReadSeq, up to LastSeq.
	Unread  int64
	LastSeq int64
}

// Range asks for a page of a conversation backwards. Conversation 0: find it by Kind and Dest.
type Range struct {
	Conversation int64
	Kind         Kind
	Dest         string
	// BeforeSeq bounds the page from above, exclusive; 0: from the newest.
	BeforeSeq int64
	Limit     int
}

// Messages keeps conversations and what was said in them. Safe for concurrent use.
type Messages interface {
	// Append stores the drafts in one transaction, in their order within each conversation, and
	// returns after the commit is durable (I1). It fills each draft's result. After an error nothing is
	// stored, or after ErrInDoubt all or nothing, for Members: appending the same drafts again is safe
	// where they have a ClientID.
	// A conversation of two is created with its first message.
	// Seqs are gapless from 1 and message ids grow with them, whoever else appends (I2).
	Append(ctx context.Context, drafts []*Draft) error
	// Index returns, by message id, what the account may read with an id above after, at most limit
	// entries: what it has not acknowledged, or with acknowledged all of it.
	Index(ctx context.Context, app, account string, after int64, acknowledged bool, limit int) ([]IndexEntry, error)
	// Content returns the messages with these ids that the account may read, in the order asked
	// for; others are left out.
	Content(ctx context.Context, app, account string, ids []int64) ([]Message, error)
	// Ack notes that one of the account's clients, which keeps no cursors, has what it was sent up to
	// this message. delivered is what it was sent, in order; see Run. A conversation's acknowledged part never moves
	// back and never skips a message: a run that is not joined to it is left out. It returns, for the conversations
	// of the runs that were acknowledged or left out, up to which seq the account has acknowledged now.
	// ErrNoMessage for a message that the account may not read.
	Ack(ctx context.Context, app, account string, messageID int64, delivered []Run) (acked map[int64]int64, err error)
	// Sync returns what the client lacks: messages, fairly spread over the conversations that have
	// news; conversations without a cursor, even if nothing was said in them; conversations whose
	// read position is not the cursor's, or whose cursor is not where it should be although there is no
	// message for it (below JoinedSeq; above LastSeq, after a backup was restored). All of one answer is as of one moment.
	// A conversation of two without a message is none.
	Sync(ctx context.Context, app, account string, q SyncQuery) (News, error)
	// Stale returns, ascending, the buckets whose digest is not that of what the account has in them.
	// digests are those of all buckets, by conversation id modulo their number.
	Stale(ctx context.Context, app, account string, digests []Digest) ([]uint32, error)
	// Read notes that the account has read up to seq. The position never moves back, nor beyond the
	// last message; moved says whether it did. ErrNoConversation, ErrNotMember.
	Read(ctx context.Context, app, account string, conversation, seq int64) (at Position, moved bool, err error)
	// History returns a page backwards, the newest last, with LastSeq and JoinedSeq.
	// A conversation of two that has no message yet is an empty page with Conversation 0.
	// ErrNoConversation, ErrNotMember.
	History(ctx context.Context, app, account string, r Range) (Delta, error)
	Ping(ctx context.Context) error
	Close() error
}

// Group is what is known of a group.
type Group struct {
	App string
	// ID is the decimal of its conversation's id.
	ID           string
	Name         string
	Avatar       string
	Introduction string
	Owner        string
	CreatedAt    int64
	Members      []Member
}

// Member is one member of a group.
type Member struct {
	Account  string
	Alias    string
	Avatar   string
	JoinedAt int64
}

// GroupLimits bound groups. 0 is no limit.
type GroupLimits struct {
	// Members is how many members a group has at most.
	Members int
	// Groups is how many groups an account may have created or joined. A group that others have
	// added it to counts, but that is never refused: one could be shut out of groups, and the others
	// would learn how many one has. Requests of one account at the same moment may exceed it by
	// their number, because nothing locks an account.
	Groups int
}

// Groups keeps groups and who belongs to them. Safe for concurrent use.
type Groups interface {
	// CreateGroup stores g with its members (the owner is added if missing, repeated accounts count
	// once) and returns its id. ErrGroupFull, ErrTooManyGroups of the owner.
	CreateGroup(ctx context.Context, g Group, limits GroupLimits) (id string, err error)
	// Join adds the account, which reads from the next message on, and returns the other members.
	// ErrNoConversation, ErrAlreadyMember, ErrGroupFull, ErrTooManyGroups.
	Join(ctx context.Context, app, id, account string, limits GroupLimits) (others []string, err error)
	// Quit removes the account and returns the members that stay. An owner's group passes to the
	// longest-standing member. ErrNoConversation, ErrNotMember.
	Quit(ctx context.Context, app, id, account string) (others []string, err error)
	// Group returns the group with its members, in the order of joining, to one of them.
	// ErrNoConversation, ErrNotMember.
	Group(ctx context.Context, app, id, account string) (Group, error)
}

// IDs makes message and conversation ids.
type IDs interface {
	// Next returns an id larger than floor and than every id it returned before, that no other
	// node ever returns. An error wraps ErrNoLease when the node number is not ours (any more).
	Next(floor int64) (int64, error)
}

// ErrNoLease: the snowflake node number's lease is lost, or its renewal is late. No ids until it is back (I10).
var ErrNoLease = errors.New("snowflake: node number not leased")
