package boot

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/verify/oldclient"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// A client that asked for 480 MB without reading them had the link between its gateway and the logic node cut: everybody's
// messages waited for seconds, and old clients were disconnected (I5).
func TestOneClientDoesNotCutTheLink(t *testing.T) {
	c := newCluster(t)
	logic, gateway := c.logic("logic-0"), c.gateway("gateway-0")
	awaitReady(t, logic)
	awaitReady(t, gateway)
	login := func(account, device string) *oldclient.Client {
		tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		k, err := oldclient.Dial(gateway.Service.TCP)
		require.NoError(t, err)
		k.Timeout = patience
		require.NoError(t, k.LoginAs(tk, oldclient.Device{Name: device}))
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	eve, bob := login("eve", "1"), login("bob", "1")
	body := strings.Repeat("x", int(config.Default().Limits.MaxBody))
	var all pb.MessageContentReq
	for range 200 {
		sent, err := eve.Talk("eve", body)
		require.NoError(t, err)
		all.MessageIds = append(all.MessageIds, sent.MessageID)
	}
	req, err := proto.Marshal(&all)
	require.NoError(t, err)
	deaf := login("eve", "2")
	for i := range 40 {
		p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdOfflineContent, Sequence: uint32(i + 10)}, Body: req}
		require.NoError(t, deaf.Send(p.Append(nil)))
	}
	await(t, "all have come", func() bool {
		_, err := bob.Talk("carol", "hi")
		require.NoError(t, err)
		return logic.labelled(t, "hermod_logic_requests_total", string(wire.CmdOfflineContent))+logic.labelled(t, "hermod_logic_limited_total", "bulk") == 40
	})
	var got []oldclient.Content
	reads := login("eve", "3")
	await(t, "who reads gets all of them", func() bool {
		got, err = reads.Content(all.MessageIds...)
		var refused *oldclient.StatusError
		if errors.As(err, &refused) {
			require.Equal(t, 300, refused.Status)
			return false
		}
		require.NoError(t, err)
		return true
	})
	require.Len(t, got, 200)
	_, err = bob.Talk("carol", "hi")
	require.NoError(t, err)
	require.Zero(t, logic.counter(t, "hermod_logic_connections_closed_total"))
	require.Zero(t, gateway.counter(t, "hermod_gateway_hinted_total"))
}

// labelled is the sum of a counter of the node, over all that have such a label.
func (n *node[S]) labelled(t *testing.T, name, label string) (sum float64) {
	t.Helper()
	families, err := n.env.Metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
