package gateway

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// What a logic node without a link could not push comes with the answer to the lease: exactly these
// clients are told, and the node's store that they have been.
func TestMissedComesWithTheLease(t *testing.T) {
	f, n := leaseFixture(t)
	f.settle()
	clients := f.online(4)
	missed, old, kicked, other := clients[0], clients[1], clients[2], clients[3]
	sessionOf(old).features = 0
	renew := func(missed *pb.Missed) (told int64) {
		n.on(wire.CmdSessionRenew, reply(&pb.LeaseRenewResp{Missed: missed}))
		f.leases.renewed = time.Now().Add(-f.cfg.Lease / 2)
		f.settle()
		asked := n.got(wire.CmdSessionRenew)
		var req pb.LeaseRenewReq
		require.NoError(t, proto.Unmarshal(asked[len(asked)-1].Body, &req))
		return req.Told
	}
	require.Zero(t, renew(&pb.Missed{
		Channels: []string{missed.id, old.id, "gateway-1.gone"}, Kicked: []string{kicked.id, "gateway-1.gone"}, UpTo: 47,
	}))
	require.Equal(t, [][]byte{syncHint}, missed.pushed)
	require.Equal(t, im.ReasonNone, missed.reason())
	require.Equal(t, im.ReasonSyncNeeded, old.reason())
	require.Equal(t, im.ReasonDisplaced, kicked.reason())
	require.Empty(t, other.pushed)
	require.EqualValues(t, 2, f.counter("hinted_total", "unlinked"))
	require.EqualValues(t, 47, renew(nil))
	require.Zero(t, renew(nil), "the store has forgotten it, and may count from below if its clock is set back")
}

// More than is named is everybody.
func TestMissedByAll(t *testing.T) {
	f, _ := startPair(t, nil)
	c := f.login("alice", "sync")
	f.missed(&pb.Missed{All: true, UpTo: 1})
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
}
