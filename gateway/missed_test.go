package gateway

import (
	"sync/atomic"
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
	f, n := startPair(t, func(c *Config) { c.Lease = 30 * time.Millisecond })
	missed, old, kicked, other := f.login("alice", "sync"), f.login("bob"), f.login("carol", "sync"), f.login("dave", "sync")
	var answers, told atomic.Int64
	n.on(wire.CmdSessionRenew, func(_ *logic, a im.Agent, p *wire.LogicPkt) {
		var req pb.LeaseRenewReq
		_ = proto.Unmarshal(p.Body, &req)
		resp := &pb.LeaseRenewResp{}
		if answers.Add(1) == 1 {
			resp.Missed = &pb.Missed{
				Channels: []string{missed.channel, old.channel, "gateway-1.gone"}, Kicked: []string{kicked.channel, "gateway-1.gone"}, UpTo: 47,
			}
		}
		told.Store(req.Told)
		respond(a, p, wire.StatusSuccess, resp)
	})
	require.Equal(t, wire.CmdSyncHint, missed.read().Command)
	old.ended(im.ReasonSyncNeeded)
	require.Equal(t, wire.CmdSignIn, kicked.read().Command)
	kicked.ended(im.ReasonDisplaced)
	poll(t, "the confirmation", func() bool { return told.Load() == 47 })
	n.push(t, wire.CmdUserTalk, nil, other.channel)
	require.Equal(t, wire.CmdUserTalk, other.read().Command, "and nothing before")
	require.EqualValues(t, 2, f.counter("hinted_total", "unlinked"))
}

// More than is named is everybody.
func TestMissedByAll(t *testing.T) {
	f, _ := startPair(t, nil)
	c := f.login("alice", "sync")
	f.missed(&pb.Missed{All: true, UpTo: 1})
	require.Equal(t, wire.CmdSyncHint, c.read().Command)
}
