package sql_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// A message that is sent again was pushed to who had joined since the first time, and may not read
// it. Found by hermod verify.
func TestRepeatedSendIsNotForNewMembers(t *testing.T) {
	s := open(t, sqliteOptions(t), fixed(t, 1))
	ctx := t.Context()
	g, err := s.CreateGroup(ctx, storage.Group{App: "app", Owner: "alice", Members: []storage.Member{{Account: "bob"}}}, storage.GroupLimits{})
	require.NoError(t, err)
	say := func(clientID string) *storage.Draft {
		d := &storage.Draft{App: "app", Sender: "alice", Kind: storage.KindGroup, Dest: g, ClientID: clientID}
		require.NoError(t, s.Append(ctx, []*storage.Draft{d}))
		require.NoError(t, d.Err)
		return d
	}
	say("1")
	_, err = s.Join(ctx, "app", g, "carol", storage.GroupLimits{})
	require.NoError(t, err)
	say("2")
	first, second := say("1"), say("2")
	require.True(t, first.Duplicate && second.Duplicate)
	require.ElementsMatch(t, []string{"alice", "bob"}, first.Members)
	require.ElementsMatch(t, []string{"alice", "bob", "carol"}, second.Members)
}
