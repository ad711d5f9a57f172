package storagetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// changesSince are those since a position.
func changesSince(t testing.TB, s storage.Sessions, since string) storage.Changes {
	t.Helper()
	c, err := s.Changes(t.Context(), since)
	require.NoError(t, err)
	return c
}

// What another node stores is named, once, to everybody who asks, and nothing else is.
func testChanges(t *testing.T, open SessionsFactory) {
	one, other := open(t), open(t)
	require.True(t, changesSince(t, one, "").All, "of an empty store")
	lease(t, other, "gw", 60_000)
	begin := changesSince(t, one, "")
	require.True(t, begin.All)
	require.Empty(t, changesSince(t, one, begin.Position).Accounts)
	require.False(t, changesSince(t, one, begin.Position).All)

	stored, _ := login(t, other, session("alice", "phone", "c1", "gw"), anyone)
	_, _, err := other.Restore(t.Context(), "gw", []storage.Session{
		session("b:b", "phone", "c2", "gw"), at(session("alice", "phone", "c0", "gw"), stored.LoginAt-1),
	}, anyone)
	require.NoError(t, err)
	changed := changesSince(t, one, begin.Position)
	require.False(t, changed.All)
	require.Equal(t, []storage.AccountKey{{App: "app", Account: "alice"}, {App: "app", Account: "b:b"}}, changed.Accounts,
		"the session that came too late is none")
	require.Equal(t, changed, changesSince(t, other, begin.Position), "whoever asks")

	_, err = other.Logout(t.Context(), "app", "alice", "phone", "c1")
	require.NoError(t, err)
	lease(t, other, "gw", 60_000)
	again := changesSince(t, one, changed.Position)
	require.Equal(t, storage.Changes{Position: changed.Position}, again, "an end is no change, nor is a lease that goes on")
}

// A lease that begins anew brings sessions back that Find has not named.
func testChangesOfALease(t *testing.T, open SessionsFactory) {
	s := open(t)
	login(t, s, session("alice", "phone", "c1", "gw"), anyone)
	require.Empty(t, find(t, s, "app", "alice"), "no lease yet")
	before := changesSince(t, s, "").Position
	lease(t, s, "gw", 60_000)
	require.Len(t, find(t, s, "app", "alice"), 1)
	changed := changesSince(t, s, before)
	require.True(t, changed.All)
	require.Equal(t, storage.Changes{Position: changed.Position}, changesSince(t, s, changed.Position))
}

// A position that is too old, or of another store, is no position.
func testChangesUnknown(t *testing.T, open SessionsFactory) {
	s := open(t)
	lease(t, s, "gw", time.Hour.Milliseconds())
	login(t, s, session("alice", "phone", "c1", "gw"), anyone)
	old := changesSince(t, s, "").Position
	const many = 11_000
	for i := 0; i < many; i += 500 {
		var sessions []storage.Session
		for j := range 500 {
			sessions = append(sessions, session(fmt.Sprint("user-", i+j), "phone", fmt.Sprint("c-", i+j), "gw"))
		}
		_, _, err := s.Restore(context.Background(), "gw", sessions, anyone)
		require.NoError(t, err)
	}
	require.True(t, changesSince(t, s, old).All)
	now := changesSince(t, s, "").Position
	require.False(t, changesSince(t, s, now).All)
	for _, position := range []string{"1-1 hermod:s:3:app:x", now + "x"} { // of another store, or of what this one was
		require.True(t, changesSince(t, s, position).All, position)
	}
}
