package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// on is the login of a device of a platform.
func on(platform, device string) *pb.LoginReq {
	return &pb.LoginReq{Device: device, Platform: platform, Features: []string{"sync"}}
}

// kicked is told why, and closed.
func (u *user) kicked(reason, device, platform string) {
	u.t.Helper()
	var notify pb.KickoutNotify
	u.pushed(wire.CmdSignIn, &notify)
	want := &pb.KickoutNotify{ChannelId: u.channel, Reason: reason, Device: device, Platform: platform}
	require.True(u.t, proto.Equal(want, &notify), "%v", &notify)
	u.closed(im.ReasonDisplaced)
}

// turnedAway is a login that conflicts with another device's session.
func turnedAway(t *testing.T, url, token string, login *pb.LoginReq) {
	t.Helper()
	d, err := dial(url)
	require.NoError(t, err)
	t.Cleanup(d.hangUp)
	u := &user{d, t}
	req := proto.CloneOf(login)
	req.Token = token
	u.refused(wire.StatusConflict, wire.CmdSignIn, "", req)
	u.closed(im.ReasonConflict)
}

// Without a policy the newest of a device stays, and the device that logged in first leaves when there
// are too many; a client that connects again replaces its own connection, and none that came later.
func TestDevicesDisplace(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "limits.max_devices=2")
	secret, err := s.Secret()
	require.NoError(t, err)
	alice := issue(t, secret, "default", "alice")
	login := func(device, instance string, attempt uint64) *pb.LoginReq {
		return &pb.LoginReq{Device: device, Platform: "ios", Instance: instance, Attempt: attempt}
	}

	first := newUser(t, s.WS, alice, login("phone", "run-1", 1))
	second := newUser(t, s.TCP, alice, login("phone", "run-1", 3))
	first.kicked("reconnected", "phone", "ios")
	turnedAway(t, s.WS, alice, login("phone", "run-1", 2)) // it was late
	third := newUser(t, s.WS, alice, login("phone", "run-2", 1))
	second.kicked("device", "phone", "ios")
	tablet := newUser(t, s.WS, alice, login("tablet", "", 0))
	old := newUser(t, s.TCP, alice, legacy())
	third.kicked("limit", "", "")

	bob := newUser(t, s.WS, issue(t, secret, "default", "bob"), legacy())
	bob.say("alice", "who is left?")
	tablet.hears(wire.CmdUserTalk, "alice", "bob", "who is left?")
	old.hears(wire.CmdUserTalk, "alice", "bob", "who is left?")
	displaced := func(reason string) float64 {
		return metric(t, "hermod_logic_displaced_total", fmt.Sprintf("%q", reason), s.Node)
	}
	require.EqualValues(t, 1, displaced("reconnected"))
	require.EqualValues(t, 1, displaced("device"))
	require.EqualValues(t, 1, displaced("limit"))
	require.EqualValues(t, 1, metric(t, "hermod_logic_logins_total", `"superseded"`, s.Node))
	require.EqualValues(t, 3, metric(t, "hermod_gateway_connections_closed_total", `"displaced"`, s.Node))
	require.EqualValues(t, 1, metric(t, "hermod_gateway_connections_closed_total", `"conflict"`, s.Node))
}

// One device of each platform: the newest, or the one that is there.
func TestOneDeviceOfEachPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "devices.scope=platform")
	secret, err := s.Secret()
	require.NoError(t, err)
	alice := issue(t, secret, "default", "alice")
	phone := newUser(t, s.WS, alice, on("ios", "phone"))
	web := newUser(t, s.TCP, alice, on("web", "laptop"))
	tablet := newUser(t, s.WS, alice, on("ios", "tablet"))
	phone.kicked("platform", "tablet", "ios")
	web.say("alice", "a note")
	tablet.hears(wire.CmdUserTalk, "alice", "alice", "a note")

	s = startStandalone(t, "--set", "devices.scope=platform", "--set", "devices.conflict=refuse",
		"--set", "limits.max_devices=2", "--set", "devices.max_policy=refuse")
	secret, err = s.Secret()
	require.NoError(t, err)
	alice = issue(t, secret, "default", "alice")
	phone = newUser(t, s.WS, alice, on("ios", "phone"))
	turnedAway(t, s.TCP, alice, on("ios", "tablet"))
	web = newUser(t, s.TCP, alice, on("web", "laptop"))
	turnedAway(t, s.WS, alice, on("android", "old phone"))
	again := newUser(t, s.WS, alice, on("ios", "phone")) // never refuses itself
	phone.kicked("device", "phone", "ios")
	web.must(wire.CmdSignOut, "", nil, nil)
	web.closed(im.ReasonSignedOut)
	again.hangUp()
	eventually(t, wait, "the platform is free", func() bool {
		d, err := signIn(within(t), s.TCP, alice, on("ios", "tablet"))
		if err == nil {
			d.hangUp()
		}
		return err == nil
	})
}
