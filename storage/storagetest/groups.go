package storagetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

func testGroups(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	g := storage.Group{
		App: "app", Name: "Grüße", Avatar: "https://example.org/a.png", Introduction: "all of us", Owner: "alice",
		CreatedAt: 1_700_000_000_000_000_001,
		Members:   []storage.Member{{Account: "bob", Alias: "Bobby"}, {Account: "bob"}, {Account: "carol", Avatar: "c.png"}},
	}
	id, err := s.CreateGroup(ctx, g, storage.GroupLimits{})
	require.NoError(t, err)
	got, err := s.Group(ctx, "app", id, "carol")
	require.NoError(t, err)
	require.Equal(t, []string{"alice", "bob", "carol"}, memberNames(got))
	require.Equal(t, "c.png", got.Members[2].Avatar)
	require.Equal(t, g.CreatedAt, got.Members[0].JoinedAt)
	got.Members, g.Members, g.ID = nil, nil, id
	require.Equal(t, g, got)

	others, err := s.Join(ctx, "app", id, "aaron", storage.GroupLimits{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"alice", "bob", "carol"}, others)
	got, err = s.Group(ctx, "app", id, "aaron")
	require.NoError(t, err)
	require.Equal(t, []string{"alice", "bob", "carol", "aaron"}, memberNames(got), "in the order of joining")

	others, err = s.Quit(ctx, "app", id, "bob")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"alice", "carol", "aaron"}, others)
	_, err = s.Group(ctx, "app", id, "bob")
	require.ErrorIs(t, err, storage.ErrNotMember)

	_, err = s.Quit(ctx, "app", id, "alice")
	require.NoError(t, err)
	got, err = s.Group(ctx, "app", id, "aaron")
	require.NoError(t, err)
	require.Equal(t, "carol", got.Owner, "the longest-standing member owns it now")
}

func memberNames(g storage.Group) []string {
	var out []string
	for _, m := range g.Members {
		out = append(out, m.Account)
	}
	return out
}

func testGroupRules(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	id := group(t, s, "alice", "bob")
	for _, bad := range []string{"", "0", "999", "-1", "x", " " + id, "0" + id} {
		_, err := s.Join(ctx, "app", bad, "carol", storage.GroupLimits{})
		require.ErrorIs(t, err, storage.ErrNoConversation, bad)
		_, err = s.Quit(ctx, "app", bad, "alice")
		require.ErrorIs(t, err, storage.ErrNoConversation, bad)
		_, err = s.Group(ctx, "app", bad, "alice")
		require.ErrorIs(t, err, storage.ErrNoConversation, bad)
	}
	// A conversation of two is no group.
	pair := strconv.FormatInt(talk(t, s, "alice", "bob", 1)[0].Conversation, 10)
	_, err := s.Join(ctx, "app", pair, "mallory", storage.GroupLimits{})
	require.ErrorIs(t, err, storage.ErrNoConversation)
	_, err = s.Group(ctx, "app", pair, "alice")
	require.ErrorIs(t, err, storage.ErrNoConversation)

	_, err = s.Join(ctx, "app", id, "bob", storage.GroupLimits{})
	require.ErrorIs(t, err, storage.ErrAlreadyMember)
	_, err = s.Join(ctx, "app", id, "carol", storage.GroupLimits{Members: 2})
	require.ErrorIs(t, err, storage.ErrGroupFull)
	_, err = s.Join(ctx, "app", id, "carol", storage.GroupLimits{Members: 3})
	require.NoError(t, err)
	_, err = s.Quit(ctx, "app", id, "mallory")
	require.ErrorIs(t, err, storage.ErrNotMember)
	_, err = s.Group(ctx, "app", id, "mallory")
	require.ErrorIs(t, err, storage.ErrNotMember)
	_, err = s.Join(ctx, "app", id, strings.Repeat("x", 65), storage.GroupLimits{})
	require.ErrorIs(t, err, storage.ErrInvalid)
	for _, g := range []storage.Group{
		{App: "app"},
		{App: "app", Owner: "alice", Name: strings.Repeat("x", 256)},
		{App: "app", Owner: "alice", Members: []storage.Member{{}}},
	} {
		_, err = s.CreateGroup(ctx, g, storage.GroupLimits{})
		require.ErrorIs(t, err, storage.ErrInvalid)
	}

	for _, account := range []string{"alice", "bob", "carol"} {
		_, err = s.Quit(ctx, "app", id, account)
		require.NoError(t, err)
	}
	others, err := s.Join(ctx, "app", id, "dave", storage.GroupLimits{})
	require.NoError(t, err)
	require.Empty(t, others)
	g, err := s.Group(ctx, "app", id, "dave")
	require.NoError(t, err)
	require.Equal(t, "dave", g.Owner, "an empty group belongs to who finds it")

	// Many at once: no more than the limit get in.
	var wg sync.WaitGroup
	full := make(chan error, 20)
	for i := range 20 {
		wg.Go(func() {
			_, err := s.Join(ctx, "app", id, fmt.Sprint("m", i), storage.GroupLimits{Members: 10})
			full <- err
		})
	}
	wg.Wait()
	close(full)
	refused := 0
	for err := range full {
		if errors.Is(err, storage.ErrGroupFull) {
			refused++
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, 11, refused)
}

func testGroupLimits(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	limits := storage.GroupLimits{Members: 3, Groups: 4}
	create := func(owner string, members ...string) (string, error) {
		g := storage.Group{App: "app", Owner: owner}
		for _, m := range members {
			g.Members = append(g.Members, storage.Member{Account: m})
		}
		return s.CreateGroup(ctx, g, limits)
	}
	_, err := create("alice", "b", "c", "d")
	require.ErrorIs(t, err, storage.ErrGroupFull)
	talk(t, s, "alice", "bob", 1) // conversations of two do not count
	first, err := create("alice", "b", "c", "alice")
	require.NoError(t, err)
	theirs, err := create("bob")
	require.NoError(t, err)
	_, err = s.Join(ctx, "app", theirs, "alice", limits)
	require.NoError(t, err)
	_, err = create("alice")
	require.NoError(t, err)
	_, err = create("bob", "alice")
	require.NoError(t, err)

	for range 2 {
		_, err = create("alice")
		require.ErrorIs(t, err, storage.ErrTooManyGroups)
		other, err := create("dave")
		require.NoError(t, err)
		_, err = s.Join(ctx, "app", other, "alice", limits)
		require.ErrorIs(t, err, storage.ErrTooManyGroups)
		_, err = s.Join(ctx, "app", theirs, "alice", limits)
		require.ErrorIs(t, err, storage.ErrAlreadyMember, "joining again is nothing new")
	}
	// Being added is not refused, and counts: quitting one is not enough then.
	_, err = create("bob", "alice")
	require.NoError(t, err)
	_, err = s.Quit(ctx, "app", first, "alice")
	require.NoError(t, err)
	_, err = create("alice")
	require.ErrorIs(t, err, storage.ErrTooManyGroups)
	_, err = s.Quit(ctx, "app", theirs, "alice")
	require.NoError(t, err)
	_, err = s.Join(ctx, "app", first, "alice", limits)
	require.NoError(t, err)
	_, err = s.CreateGroup(ctx, storage.Group{App: "another", Owner: "alice"}, limits)
	require.NoError(t, err, "another app's alice")

	// At once: it may be exceeded by the number of requests under way, and not after them.
	const atOnce = 4
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for range 6 {
				if _, err := create("eve"); err != nil && !errors.Is(err, storage.ErrTooManyGroups) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := len(lacks(t, s, "eve", nil, 100).Deltas)
	require.GreaterOrEqual(t, n, limits.Groups)
	require.Less(t, n, limits.Groups+atOnce)
}

// I9: what was said before one joined, or after one quit, is not one's own.
func testJoinedSeq(t *testing.T, open MessagesFactory) {
	s := open(t, nodeIDs(t, 1))
	ctx := t.Context()
	id := group(t, s, "alice", "bob")
	before := put(t, s, groupDraft("alice", id, "1"), groupDraft("bob", id, "2"))
	conversation := before[0].Conversation
	_, err := s.Join(ctx, "app", id, "carol", storage.GroupLimits{})
	require.NoError(t, err)
	after := put(t, s, groupDraft("carol", id, "3"), groupDraft("alice", id, "4"))

	news := lacks(t, s, "carol", map[int64]int64{conversation: 0}, 10)
	require.Equal(t, storage.News{Deltas: []storage.Delta{{
		Conversation: conversation, Kind: storage.KindGroup, LastSeq: 4, JoinedSeq: 2, ReadSeq: 2, Unread: 1, Messages: all(after),
	}}}, news)
	require.Equal(t, all(after), history(t, s, "carol", storage.Range{Kind: storage.KindGroup, Dest: id, Limit: 10}).Messages)
	require.Empty(t, history(t, s, "carol", storage.Range{Conversation: conversation, BeforeSeq: 3, Limit: 10}).Messages)
	require.Equal(t, draftIDs(after), indexIDs(t, s, "carol", 0, 10))
	require.Equal(t, draftIDs(after), indexIDs(t, s, "carol", 1, 10))
	content, err := s.Content(ctx, "app", "carol", append(draftIDs(before), draftIDs(after)...))
	require.NoError(t, err)
	require.Equal(t, all(after), content)
	_, err = s.Ack(ctx, "app", "carol", before[0].MessageID, page(before...))
	require.ErrorIs(t, err, storage.ErrNoMessage)

	_, err = s.Quit(ctx, "app", id, "carol")
	require.NoError(t, err)
	require.Equal(t, storage.News{Gone: []int64{conversation}}, lacks(t, s, "carol", map[int64]int64{conversation: 4}, 10))
	require.Empty(t, indexIDs(t, s, "carol", 0, 10))
	_, err = s.History(ctx, "app", "carol", storage.Range{Conversation: conversation, Limit: 10})
	require.ErrorIs(t, err, storage.ErrNotMember)
	content, err = s.Content(ctx, "app", "carol", draftIDs(after))
	require.NoError(t, err)
	require.Empty(t, content)
}

// What another node knows of a group's members is never older than the commit, and in the order of bytes, which those rely on who
// look for one of them.
func testMembershipAtCommit(t *testing.T, open MessagesFactory) {
	a, b := open(t, nodeIDs(t, 1)), open(t, nodeIDs(t, 2))
	ctx := t.Context()
	id := group(t, a, "alice", "bob")
	require.Equal(t, []string{"alice", "bob"}, put(t, b, groupDraft("bob", id, ""))[0].Members)
	_, err := a.Join(ctx, "app", id, "carol", storage.GroupLimits{})
	require.NoError(t, err)
	require.Equal(t, []string{"alice", "bob", "carol"}, put(t, b, groupDraft("carol", id, ""))[0].Members)
	_, err = a.Quit(ctx, "app", id, "bob")
	require.NoError(t, err)
	d := groupDraft("bob", id, "")
	require.NoError(t, b.Append(ctx, []*storage.Draft{d}))
	require.ErrorIs(t, d.Err, storage.ErrNotMember)
	require.Equal(t, []string{"alice", "carol"}, put(t, b, with(groupDraft("alice", id, ""), "again"))[0].Members)
	for _, account := range []string{"é", "Zoe", "bob"} {
		_, err = a.Join(ctx, "app", id, account, storage.GroupLimits{})
		require.NoError(t, err)
	}
	require.Equal(t, []string{"Zoe", "alice", "bob", "carol", "é"}, put(t, b, groupDraft("Zoe", id, ""))[0].Members)
	require.Equal(t, []string{"alice", "carol"}, put(t, b, with(groupDraft("alice", id, ""), "again"))[0].Members, "who may read it")
}
