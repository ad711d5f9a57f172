package logic

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func TestGroupCreate(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxGroupMembers = 4 })
	f.online("gateway-1", "alice", old, "")
	f.online("gateway-1", "bob", old, "")
	f.online("gateway-2", "carol", old, "")
	var resp pb.GroupCreateResp
	// The owner is who asks, whatever the body claims; a member named twice is one, and hears once.
	f.succeeds(asClient("alice", wire.CmdGroupCreate), &pb.GroupCreateReq{
		Name: "g", Owner: "mallory", Members: []string{"carol", "bob", "alice", "bob"},
	}, &resp)
	require.Equal(t, []string{"create demo alice g 3 {Members:4 Groups:1000}"}, f.store.calls())
	require.ElementsMatch(t, []string{"alice", "bob", "carol"}, f.store.members["demo/"+resp.GroupId])
	require.Equal(t, []string{"gateway-1.bob", "gateway-2.carol"}, f.links.reached())
	for _, p := range f.links.pushes() {
		var m pb.GroupCreateNotify
		require.NoError(t, proto.Unmarshal(p.Body, &m))
		require.True(t, proto.Equal(&pb.GroupCreateNotify{GroupId: resp.GroupId, Members: []string{"alice", "bob", "carol"}}, &m), "%v", &m)
		require.Equal(t, wire.CmdGroupCreate, p.Command)
	}

	f.succeeds(asClient("alice", wire.CmdGroupCreate), &pb.GroupCreateReq{Members: []string{"b", "c", "d"}}, nil)
	// The creator counts too: a group could have one member more than allowed.
	f.fails(asClient("alice", wire.CmdGroupCreate), &pb.GroupCreateReq{Members: []string{"b", "c", "d", "e"}}, wire.StatusInvalidBody)
	f.succeeds(asClient("alice", wire.CmdGroupCreate), &pb.GroupCreateReq{Members: []string{"alice", "b", "b", "c", "d"}}, nil)
	f.idle()
}

// Whoever the body names: who asks joins and quits (flaw 10).
func TestGroupJoinAndQuit(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxGroupMembers, c.MaxGroups = 50, 7 })
	f.store.members["demo/9"] = []string{"alice", "bob"}
	f.online("gateway-1", "bob", old, "")
	f.succeeds(asClient("mallory", wire.CmdGroupJoin), &pb.GroupJoinReq{Account: "carol", GroupId: "9"}, nil)
	require.Equal(t, []string{"alice", "bob", "mallory"}, f.store.members["demo/9"])
	require.Equal(t, "join demo 9 mallory {Members:50 Groups:7}", f.store.calls()[0])
	var joined pb.GroupJoinNotify
	require.NoError(t, proto.Unmarshal(f.links.pushes()[0].Body, &joined))
	require.True(t, proto.Equal(&pb.GroupJoinNotify{GroupId: "9", Account: "mallory"}, &joined))

	f.succeeds(asClient("mallory", wire.CmdGroupJoin), &pb.GroupJoinReq{GroupId: "9"}, nil)
	require.Len(t, f.links.pushes(), 1, "joining again tells nobody")

	f.succeeds(asClient("mallory", wire.CmdGroupQuit), &pb.GroupQuitReq{Account: "alice", GroupId: "9"}, nil)
	require.Equal(t, []string{"alice", "bob"}, f.store.members["demo/9"])
	var left pb.GroupQuitNotify
	require.NoError(t, proto.Unmarshal(f.links.pushes()[1].Body, &left))
	require.True(t, proto.Equal(&pb.GroupQuitNotify{GroupId: "9", Account: "mallory"}, &left))

	f.fails(asClient("mallory", wire.CmdGroupQuit), &pb.GroupQuitReq{GroupId: "9"}, wire.StatusUnauthorized)
	f.fails(asClient("mallory", wire.CmdGroupJoin), &pb.GroupJoinReq{GroupId: "10"}, wire.StatusNoDestination)
	other := asClient("alice", wire.CmdGroupQuit)
	other.App = "another"
	f.fails(other, &pb.GroupQuitReq{GroupId: "9"}, wire.StatusUnauthorized)
	require.Len(t, f.links.pushes(), 2)
}

func TestTooManyGroups(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxGroups = 7 })
	f.store.set(func() { f.store.err = fmt.Errorf("join: %w", storage.ErrTooManyGroups) })
	const text = "you belong to 7 groups already: quit one first"
	require.Equal(t, text, f.fails(asClient("a", wire.CmdGroupCreate), &pb.GroupCreateReq{Name: "g"}, wire.StatusUnauthorized))
	require.Equal(t, text, f.fails(asClient("a", wire.CmdGroupJoin), &pb.GroupJoinReq{GroupId: "9"}, wire.StatusUnauthorized))
}

func TestGroupDetail(t *testing.T) {
	f := start(t, nil)
	f.store.members["demo/9"] = []string{"alice", "bob"}
	for _, cmd := range []wire.Command{wire.CmdGroupDetail, wire.CmdGroupMembers} {
		var resp pb.GroupGetResp
		f.succeeds(asClient("bob", cmd), &pb.GroupGetReq{GroupId: "9"}, &resp)
		want := &pb.GroupGetResp{Id: "9", Name: "the group", Owner: "alice", Members: []*pb.Member{{Account: "alice", JoinTime: 1}, {Account: "bob", JoinTime: 1}}}
		require.True(t, proto.Equal(want, &resp), "%v", &resp)
		f.fails(asClient("carol", cmd), &pb.GroupGetReq{GroupId: "9"}, wire.StatusUnauthorized)
	}
}

func TestGroupStoreFails(t *testing.T) {
	f := start(t, nil)
	for _, test := range []struct {
		err    error
		status wire.Status
	}{
		{storage.ErrGroupFull, wire.StatusUnauthorized},
		{fmt.Errorf("%w: name", storage.ErrInvalid), wire.StatusInvalidBody},
		{errors.New("broken"), wire.StatusSystemException},
	} {
		f.store.set(func() { f.store.err = test.err })
		f.fails(asClient("a", wire.CmdGroupCreate), &pb.GroupCreateReq{Name: "g"}, test.status)
		f.fails(asClient("a", wire.CmdGroupJoin), &pb.GroupJoinReq{GroupId: "9"}, test.status)
		f.fails(asClient("a", wire.CmdGroupQuit), &pb.GroupQuitReq{GroupId: "9"}, test.status)
		f.fails(asClient("a", wire.CmdGroupDetail), &pb.GroupGetReq{GroupId: "9"}, test.status)
	}
	require.Empty(t, f.links.pushes())
	f.idle()
}
