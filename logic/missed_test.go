package logic

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// missed is what gateway-1 learns when it renews its lease.
func (f *fixture) missed(told int64) *pb.Missed {
	f.t.Helper()
	var resp pb.LeaseRenewResp
	f.succeeds(wire.Header{Command: wire.CmdSessionRenew}, &pb.LeaseRenewReq{LeaseMs: 60_000, Told: told}, &resp)
	slices.Sort(resp.GetMissed().GetChannels())
	return resp.Missed
}

// A push for a gateway without a link was lost until the link was back, however long that took, and
// its clients did not know (I4).
func TestPushWithoutALinkReachesTheGatewayWithItsLease(t *testing.T) {
	f := start(t, nil)
	channels := f.online("gateway-1", "bob", syncs, "a", "b")
	require.Nil(t, f.missed(0))
	f.links.fails["gateway-1"] = container.ErrNotLinked
	for range 3 {
		f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
	}
	f.dispatch.kick(storage.Displaced{Session: storage.Session{Gateway: "gateway-1", Channel: "gateway-1.old"}})
	var told *pb.Missed
	poll(t, "the note", func() bool {
		told = f.missed(0)
		return len(told.GetKicked()) == 1
	})
	require.Equal(t, channels, told.Channels, "each once")
	require.Equal(t, []string{"gateway-1.old"}, told.Kicked)
	require.Nil(t, f.missed(told.UpTo))
}

// What the session store does not take is kept and noted later; what is queued on a link is not noted.
func TestNotesWaitForTheStore(t *testing.T) {
	f := build(t, nil)
	bob := f.online("gateway-1", "bob", syncs, "a")
	f.online("full", "bob", syncs, "b")
	f.links.fails = map[string]error{"gateway-1": container.ErrNotLinked, "full": im.ErrQueueFull}
	f.sessions.setDown(true)
	f.dispatch.send(targets{"gateway-1": {channels: bob}, "full": {channels: []string{"full.bob"}}}, wire.Header{Command: wire.CmdUserTalk}, &pb.MessagePush{})
	require.False(t, f.dispatch.unlinked.flush())
	f.sessions.setDown(false)
	require.True(t, f.dispatch.unlinked.flush())
	for gateway, want := range map[string][]string{"gateway-1": bob, "full": nil} {
		got, err := f.sessions.Missed(t.Context(), gateway, 0)
		require.NoError(t, err)
		require.Equal(t, want, got.Channels)
	}
}

// While the session store is down what is to be noted is bounded, and becomes all of the gateway's clients.
func TestNotesAreBounded(t *testing.T) {
	f := build(t, nil)
	f.lease("gateway-1")
	f.sessions.setDown(true)
	for i := range storage.MaxMissed + 100 {
		f.dispatch.unlinked.add("gateway-1", []string{fmt.Sprint("gateway-1.", i)}, nil)
	}
	require.False(t, f.dispatch.unlinked.flush())
	require.Len(t, f.dispatch.unlinked.gateways["gateway-1"].channels, storage.MaxMissed+1)
	f.sessions.setDown(false)
	require.True(t, f.dispatch.unlinked.flush())
	got, err := f.sessions.Missed(context.Background(), "gateway-1", 0)
	require.NoError(t, err)
	require.True(t, got.All)
}
