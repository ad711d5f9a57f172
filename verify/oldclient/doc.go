// Package oldclient is a client of the fixed protocol as it was before our extensions, written by
// hand from docs/protocol.md with the standard library alone: what works for it works for the
// clients that exist. It imports no other package of this module, and never may.
//
// It is stricter than a real client. It reads frames in turn, and any frame, field, command, flag
// or status that the fixed protocol does not have is a *ProtocolError, as is an answer to no request.
// Only fields from number 16 on are passed over, in bodies: those are where the protocol grows.
//
// The extensions are those of the smallest client that keeps a cursor for each conversation
// (LoginAs, TalkOnce, Sync, History); who does not call them is an old client.
//
// A Client belongs to one goroutine.
package oldclient
