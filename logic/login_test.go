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

// kicks are the KickoutNotifys that were pushed, by channel.
func (f *fixture) kicks() map[string]*pb.KickoutNotify {
	f.t.Helper()
	out := map[string]*pb.KickoutNotify{}
	for _, p := range f.links.pushes() {
		if p.Command == wire.CmdSignIn {
			m := new(pb.KickoutNotify)
			require.NoError(f.t, proto.Unmarshal(p.Body, m))
			require.Equal(f.t, []string{m.ChannelId}, p.Channels)
			require.NotContains(f.t, out, m.ChannelId)
			out[m.ChannelId] = m
		}
	}
	return out
}

// Whoever gives way is told why, and to whom.
func TestKickoutsSayWhy(t *testing.T) {
	f := start(t, func(c *Config) { c.Devices = storage.DevicePolicy{PerPlatform: true, Max: 2} })
	f.lease("gateway-1")
	for i, login := range []struct {
		device string
		req    *pb.LoginReq
		kicked string // channel
		reason string
	}{
		{"phone", &pb.LoginReq{Platform: "ios"}, "", ""},
		{"phone", &pb.LoginReq{Platform: "ios", Instance: "run", Attempt: 1}, "c0", "device"},
		{"phone", &pb.LoginReq{Platform: "ios", Instance: "run", Attempt: 2}, "c1", "reconnected"},
		{"tablet", &pb.LoginReq{Platform: "ios"}, "c2", "platform"},
		{"laptop", &pb.LoginReq{Platform: "web"}, "", ""},
		{"", &pb.LoginReq{}, "c3", "limit"},
	} {
		before := len(f.kicks())
		f.succeeds(signIn("alice", login.device, fmt.Sprint("c", i)), login.req, nil)
		kicks := f.kicks()
		if login.kicked == "" {
			require.Len(t, kicks, before)
			continue
		}
		require.Len(t, kicks, before+1)
		want := &pb.KickoutNotify{ChannelId: login.kicked, Reason: login.reason, Device: login.device, Platform: login.req.Platform}
		require.True(t, proto.Equal(want, kicks[login.kicked]), "%v", kicks[login.kicked])
		require.EqualValues(t, 1, f.counter("displaced_total", login.reason))
	}
	require.EqualValues(t, 6, f.counter("logins_total", "admitted"))
}

// A login that conflicts is refused; the gateway of the session in its way is asked whether it is still there.
func TestSignInConflicts(t *testing.T) {
	f := start(t, func(c *Config) {
		c.Devices = storage.DevicePolicy{PerPlatform: true, Refuse: true, Max: 1, RefuseBeyondMax: true}
	})
	f.lease("gateway-1", "gateway-2")
	_, err := f.sessions.Login(t.Context(), storage.Session{
		App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "old", Gateway: "gateway-2",
	}, storage.DevicePolicy{})
	require.NoError(t, err)
	for i, platform := range []string{"ios", "web"} {
		message := f.fails(signIn("alice", "tablet", "c1"), &pb.LoginReq{Platform: platform}, wire.StatusConflict)
		require.Contains(t, message, "another device")
		pushes := f.links.pushes()
		require.Len(t, pushes, i+1)
		require.Equal(t, "gateway-2", pushes[i].gateway)
		require.Equal(t, wire.CmdSessionEnd, pushes[i].Command)
		require.Empty(t, pushes[i].Channels, "it is for the gateway; one of the release before does nothing")
		var asked pb.SessionEndReq
		require.NoError(t, proto.Unmarshal(pushes[i].Body, &asked))
		require.Len(t, asked.Sessions, 1)
		want := &pb.Session{App: "demo", Account: "alice", Device: "phone", Channel: "old"}
		require.True(t, proto.Equal(want, asked.Sessions[0]), "%v", &asked)
	}
	require.Equal(t, []string{"old"}, f.found("alice"))
	require.EqualValues(t, 2, f.counter("logins_total", "conflict"))
	f.idle()
}

// A login that was delayed in a stopped node changes nothing: its client has a newer connection.
func TestLateSignIn(t *testing.T) {
	f := start(t, nil)
	f.lease("gateway-1")
	f.succeeds(signIn("alice", "phone", "newer"), &pb.LoginReq{Instance: "run", Attempt: 8}, nil)
	f.fails(signIn("alice", "phone", "late"), &pb.LoginReq{Instance: "run", Attempt: 7}, wire.StatusConflict)
	require.Empty(t, f.links.pushes())
	require.Equal(t, []string{"newer"}, f.found("alice"))
	require.EqualValues(t, 1, f.counter("logins_total", "superseded"))
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

	alice := &pb.Session{
		App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Features: uint32(syncs), LoginAt: 100,
		Instance: "run", Attempt: 7,
	}
	var restored pb.SessionRestoreResp
	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Gateway: "forged", Sessions: []*pb.Session{alice}}, &restored)
	require.Empty(t, restored.Displaced)
	list, err := f.sessions.Find(t.Context(), []storage.AccountKey{{App: "demo", Account: "alice"}})
	require.NoError(t, err)
	require.Equal(t, []storage.Session{{
		App: "demo", Account: "alice", Device: "phone", Platform: "ios", Channel: "c1", Gateway: "gateway-1", Features: syncs, LoginAt: 100,
		Instance: "run", Attempt: 7,
	}}, list[0])
	require.EqualValues(t, 1, restored.Stamp)
	f.succeeds(ask(wire.CmdSessionRenew), &pb.LeaseRenewReq{LeaseMs: 60_000, Stamp: 2}, &renewed)
	require.True(t, renewed.Lost, "the store is behind what the gateway has seen")
	older := proto.Clone(alice).(*pb.Session)
	older.Channel, older.Attempt, older.LoginAt = "c0", 6, 150
	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Sessions: []*pb.Session{older}}, &restored)
	require.Equal(t, []string{"c0"}, restored.Displaced)
	want := &pb.KickoutNotify{ChannelId: "c0", Reason: "reconnected", Device: "phone", Platform: "ios"}
	require.True(t, proto.Equal(want, f.kicks()["c0"]), "%v", f.kicks())

	// What the store had instead of it, at another gateway, is not this one's to close.
	f.lease("gateway-2")
	_, err = f.sessions.Login(t.Context(), storage.Session{App: "demo", Account: "bob", Channel: "b1", Gateway: "gateway-2", LoginAt: 1}, storage.DevicePolicy{})
	require.NoError(t, err)
	bob := &pb.Session{App: "demo", Account: "bob", Channel: "b2", LoginAt: 2}
	restored.Reset()
	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Sessions: []*pb.Session{bob}}, &restored)
	require.Empty(t, restored.Displaced)
	require.Contains(t, f.kicks(), "b1")
	require.Equal(t, []string{"b2"}, f.found("bob"))

	f.succeeds(ask(wire.CmdSessionEnd), &pb.SessionEndReq{Sessions: []*pb.Session{older}}, nil)
	require.Equal(t, []string{"c1"}, f.found("alice"), "the late end of an older channel removes nothing (I6)")
	f.succeeds(ask(wire.CmdSessionEnd), &pb.SessionEndReq{Sessions: []*pb.Session{alice}}, nil)
	require.Empty(t, f.found("alice"))

	f.succeeds(ask(wire.CmdSessionRestore), &pb.SessionRestoreReq{Sessions: []*pb.Session{alice}}, nil)
	f.succeeds(ask(wire.CmdLeaseEnd), &pb.LeaseRenewReq{Gateway: "forged"}, nil)
	require.Empty(t, f.found("alice"))
	f.idle()
}
