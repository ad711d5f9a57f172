package logic

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/await"
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
	await.Until(t, "the note", func() bool {
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
	f.dispatch.send(targets{{gateway: "gateway-1", channels: bob}, {gateway: "full", channels: []string{"full.bob"}}}, wire.Header{Command: wire.CmdUserTalk}, &pb.MessagePush{})
	require.False(t, f.dispatch.unlinked.flush(t.Context()))
	f.sessions.setDown(false)
	require.True(t, f.dispatch.unlinked.flush(t.Context()))
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
	require.False(t, f.dispatch.unlinked.flush(t.Context()))
	require.Len(t, f.dispatch.unlinked.gateways["gateway-1"].channels, storage.MaxMissed+1)
	f.sessions.setDown(false)
	require.True(t, f.dispatch.unlinked.flush(t.Context()))
	got, err := f.sessions.Missed(context.Background(), "gateway-1", 0)
	require.NoError(t, err)
	require.True(t, got.All)
}

// link is one that takes everything.
type link struct {
	im.Channel
	id string
}

func (l link) ID() string        { return l.id }
func (link) SetAttachment(any)   {}
func (link) Push(_ []byte) error { return nil }

// When the session store had failed, all clients were hinted by the gateways that the node had a link to. Those of
// another one never learned that they had missed something.
func TestHintOfAllReachesGatewaysWithoutALink(t *testing.T) {
	f := start(t, nil)
	for id, state := range map[string]naming.State{"linked": naming.StateReady, "ready": naming.StateReady, "draining": naming.StateDraining} {
		f.lease(id)
		require.NoError(t, f.deps.Naming.Register(t.Context(), naming.Instance{
			ID: id, Service: naming.ServiceGateway, Node: id, Address: "127.0.0.1:1", State: state,
		}))
	}
	require.NoError(t, f.hub.Connect(link{id: "linked#1"}))
	ctx, stop := context.WithCancel(t.Context())
	var registry sync.WaitGroup
	registry.Go(func() { f.registration.Run(ctx) })
	registry.Go(func() { _ = f.barrier.Run(ctx) })
	defer registry.Wait()
	defer stop()
	await.Until(t, "the gateways", func() bool { return len(f.absent()) == 2 })
	f.sessions.setDown(true)
	f.succeeds(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"}, nil)
	f.idle()
	f.sessions.setDown(false)
	for gateway, want := range map[string]bool{"ready": true, "draining": true, "linked": false} {
		var got storage.Missed
		await.Until(t, gateway, func() (ok bool) {
			var err error
			got, err = f.sessions.Missed(t.Context(), gateway, 0)
			require.NoError(t, err)
			return got.All == want && len(f.links.broadcasts()) == 1
		})
		require.Empty(t, got.Channels, gateway)
	}
}

// A node that stopped while the session store was down for a moment tried once and left the clients
// behind a cut link in the dark.
func TestNotesOfANodeThatStops(t *testing.T) {
	for name, downFor := range map[string]time.Duration{"short": closeWait / 2, "long": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := build(t, nil)
				f.lease("gateway-1")
				f.deps.Server = stoppingServer{started: make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- f.Run(ctx) }()
				synctest.Wait()
				f.sessions.setDown(true)
				f.dispatch.unlinked.add("gateway-1", []string{"gateway-1.a"}, []string{"gateway-1.b"})
				time.AfterFunc(downFor, func() { f.sessions.setDown(false) })
				start := time.Now()
				stop()
				require.NoError(t, <-ended)
				require.LessOrEqual(t, time.Since(start), closeWait+time.Second)
				got, err := f.sessions.Missed(t.Context(), "gateway-1", 0)
				require.NoError(t, err)
				require.Equal(t, name == "short", len(got.Channels)+len(got.Kicked) == 2)
			})
		})
	}
}

// stoppingServer has no links.
type stoppingServer struct {
	im.Server
	started chan struct{}
}

func (s stoppingServer) Start() error                   { <-s.started; return nil }
func (s stoppingServer) Shutdown(context.Context) error { close(s.started); return nil }
