package logic

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// signIn is the header of a login.
func signIn(account, device, channel string) wire.Header {
	h := asClient(account, wire.CmdSignIn)
	h.Device, h.ChannelID = device, channel
	return h
}

// found are the channels of the account's sessions.
func (f *fixture) found(account string) (out []string) {
	f.t.Helper()
	list, err := f.sessions.Find(f.t.Context(), []storage.AccountKey{{App: "demo", Account: account}})
	require.NoError(f.t, err)
	for _, s := range list[0] {
		out = append(out, s.Channel)
	}
	return out
}

func (f *fixture) lease(gateways ...string) {
	f.t.Helper()
	for _, g := range gateways {
		_, err := f.sessions.RenewLease(f.t.Context(), g, time.Hour.Milliseconds(), 0)
		require.NoError(f.t, err)
	}
}

func TestSignIn(t *testing.T) {
	f := start(t, nil)
	f.lease("gateway-1")
	var resp pb.LoginResp
	// What the body says of itself beside device, platform and features is of no interest.
	p := f.succeeds(signIn("alice", "phone", "c1"), &pb.LoginReq{Device: "forged", Platform: "ios", Features: []string{"sync", "x"}}, &resp)
	require.True(t, proto.Equal(&pb.LoginResp{ChannelId: "c1", Account: "alice", Features: []string{"sync"}}, &resp), "%v", &resp)
	list, err := f.sessions.Find(t.Context(), []storage.AccountKey{{App: "demo", Account: "alice"}})
	require.NoError(t, err)
	require.Len(t, list[0], 1)
	s := list[0][0]
	require.Equal(t, []wire.Meta{
		{Key: container.MetaLoginAt, Value: strconv.FormatInt(s.LoginAt, 10)},
		{Key: container.MetaStamp, Value: "1"},
	}, p.Meta)
	require.Equal(t, wire.Link{App: "demo", Account: "alice", Device: "phone"}, p.Link, "should the channel be gone")
	s.LoginAt = 0
	require.Equal(t, storage.Session{
		App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Gateway: "gateway-1", Features: syncs,
	}, s)
}

func TestSignInKicksTheDevicesOlderSession(t *testing.T) {
	f := start(t, nil)
	f.lease("gateway-1", "gateway-2")
	_, err := f.sessions.Login(t.Context(), storage.Session{App: "demo", Account: "alice", Device: "phone", Channel: "old", Gateway: "gateway-2"}, storage.DevicePolicy{})
	require.NoError(t, err)
	f.succeeds(signIn("alice", "web", "c1"), &pb.LoginReq{}, nil)
	require.Empty(t, f.links.pushes(), "another device")
	f.succeeds(signIn("alice", "phone", "c2"), &pb.LoginReq{}, nil)
	f.succeeds(signIn("alice", "phone", "c2"), &pb.LoginReq{}, nil) // again, by another node
	pushes := f.links.pushes()
	require.Len(t, pushes, 1)
	require.Equal(t, "gateway-2", pushes[0].gateway)
	require.Equal(t, wire.CmdSignIn, pushes[0].Command)
	require.Equal(t, []string{"old"}, pushes[0].Channels)
	var m pb.KickoutNotify
	require.NoError(t, proto.Unmarshal(pushes[0].Body, &m))
	require.Equal(t, "old", m.ChannelId)
	require.Equal(t, []string{"c2", "c1"}, f.found("alice"))
}

// The fence is above the displaced session's, whatever the nodes' clocks say: its gateway, which
// stores it again when its link was down, took the device back from the newer login (I6).
func TestSignInIsFencedAgainstAClockAhead(t *testing.T) {
	f := start(t, nil)
	f.lease("gateway-1", "gateway-2")
	ahead := storage.Session{
		App: "demo", Account: "alice", Channel: "old", Gateway: "gateway-2", LoginAt: time.Now().Add(time.Hour).UnixNano(),
	}
	_, err := f.sessions.Login(t.Context(), ahead, storage.DevicePolicy{})
	require.NoError(t, err)
	p := f.succeeds(signIn("alice", "", "new"), &pb.LoginReq{}, nil)
	require.Equal(t, strconv.FormatInt(ahead.LoginAt+1, 10), p.Meta[0].Value)
	require.Len(t, f.links.pushes(), 1)
	_, displaced, err := f.sessions.Restore(t.Context(), "gateway-2", []storage.Session{ahead}, storage.DevicePolicy{})
	require.NoError(t, err)
	require.Len(t, displaced, 1)
	require.Equal(t, []string{"new"}, f.found("alice"))
}

func TestMaxDevices(t *testing.T) {
	f := start(t, func(c *Config) { c.Devices.Max = 3 })
	f.lease("gateway-1")
	for i := range 5 {
		f.succeeds(signIn("alice", fmt.Sprint("d", i), fmt.Sprint("c", i)), &pb.LoginReq{}, nil)
	}
	require.Equal(t, []string{"c2", "c3", "c4"}, f.found("alice"), "those that logged in first gave way")
	require.Equal(t, []string{"c0", "c1"}, f.links.reached())
	f.succeeds(signIn("bob", "d", "b"), &pb.LoginReq{}, nil)
	require.Len(t, f.links.pushes(), 2)
}

func TestSignInNeedsTheSessionStore(t *testing.T) {
	f := start(t, nil)
	f.sessions.setDown(true)
	f.fails(signIn("alice", "", "c"), &pb.LoginReq{}, wire.StatusSystemException)
	f.idle()
}

// What a gateway asks for its sessions. Whose they are is who asks, not what it says.
func TestLease(t *testing.T) {
	f := start(t, nil)
	ask := func(cmd wire.Command) wire.Header { return wire.Header{Command: cmd, Sequence: 9} }
	var renewed pb.LeaseRenewResp
	f.succeeds(ask(wire.CmdSessionRenew), &pb.LeaseRenewReq{Gateway: "forged", LeaseMs: 60_000}, &renewed)
	require.True(t, renewed.Lost)
	f.succeeds(ask(wire.CmdSessionRenew), &pb.LeaseRenewReq{Gateway: "forged", LeaseMs: 60_000}, &renewed)
	require.False(t, renewed.Lost)

	alice := &pb.Session{App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Features: uint32(syncs), LoginAt: 100}
	var restored pb.SessionRestoreResp
	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Gateway: "forged", Sessions: []*pb.Session{alice}}, &restored)
	require.Empty(t, restored.Displaced)
	list, err := f.sessions.Find(t.Context(), []storage.AccountKey{{App: "demo", Account: "alice"}})
	require.NoError(t, err)
	require.Equal(t, []storage.Session{{
		App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Gateway: "gateway-1", Features: syncs, LoginAt: 100,
	}}, list[0])
	older := proto.Clone(alice).(*pb.Session)
	older.Channel, older.LoginAt = "c0", 50
	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Sessions: []*pb.Session{older}}, &restored)
	require.Equal(t, []string{"c0"}, restored.Displaced)

	f.succeeds(ask(wire.CmdSessionEnd), &pb.SessionEndReq{Sessions: []*pb.Session{older}}, nil)
	require.Equal(t, []string{"c1"}, f.found("alice"), "the late end of an older channel removes nothing (I6)")
	f.succeeds(ask(wire.CmdSessionEnd), &pb.SessionEndReq{Sessions: []*pb.Session{alice}}, nil)
	require.Empty(t, f.found("alice"))

	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Sessions: []*pb.Session{alice}}, nil)
	f.succeeds(ask(wire.CmdLeaseEnd), &pb.LeaseRenewReq{Gateway: "forged"}, nil)
	require.Empty(t, f.found("alice"))
	f.idle()
}
