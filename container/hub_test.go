package container

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/wire"
)

func push(command wire.Command) []byte {
	return marshal(wire.Header{Command: command, Flag: wire.FlagPush}, nil)
}

func TestPushReachesThePeer(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	require.ErrorIs(t, n.Push("gateway-1", push("x")), ErrNotLinked)
	require.False(t, n.Linked("gateway-1"))
	d := startDialler(t, n.self)
	d.awaitUsable(t, 1)
	n.Until(t, "the link", func() bool { return n.Linked("gateway-1") })
	require.NoError(t, n.Push("gateway-1", push("first")))
	n.Broadcast(push("second"))
	d.Until(t, "the pushes", func() bool { return len(d.packets()) == 2 })
	require.Equal(t, wire.Command("first"), d.packets()[0].Command)
	require.Equal(t, wire.Command("second"), d.packets()[1].Command)
}

// A peer that redials before its old connection is known to be dead gets the new one, and the end
// of the old one does not take it away.
func TestNewerLinkOfAPeerWins(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	first := startDialler(t, n.self)
	first.awaitUsable(t, 1)
	n.Until(t, "the first link", func() bool { return n.Linked("gateway-1") })
	second := newDialler(nil)
	client, err := second.newLink(n.self).dial(t.Context())
	require.NoError(t, err)
	defer client.Close()
	first.Until(t, "the end of the first link", func() bool { return len(first.downList()) > 0 })
	require.NoError(t, client.Send(push("hello"))) // and its reader runs: it was accepted
	n.Until(t, "a packet on the second link", func() bool { return n.count() == 1 })
}

func TestDrainRefusesNewLinks(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	require.NoError(t, n.Drain(t.Context()), "nobody is linked")
	_, err := newDialler(nil).newLink(n.self).dial(t.Context())
	require.Error(t, err)
}

func TestDrainWaitsForEveryPeer(t *testing.T) {
	n := startNode(t, "logic-1", "127.0.0.1:0")
	// Peers that do not answer link.drain: they are not read.
	var clients []im.Client
	for _, peer := range []string{"gateway-2", "gateway-1"} {
		d := newDialler(nil)
		d.opts.Self.ID = peer
		client, err := d.newLink(n.self).dial(t.Context())
		require.NoError(t, err)
		n.Until(t, "the link", func() bool { return n.Linked(peer) })
		clients = append(clients, client)
	}

	late, cancel := context.WithCancel(t.Context())
	cancel()
	err := n.Drain(late)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "not drained: gateway-1#2, gateway-2#1: ", "who it is, not how many")

	for _, client := range clients { // one that has gone is not waited for
		client.Close()
	}
	require.NoError(t, n.Drain(t.Context()))
}

// A drain whose time was over, of a node with nothing to drain, said now and then that 0 links are not drained.
func TestDrainOfNobodyTakesNoTime(t *testing.T) {
	late, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		hub := NewHub(HubOptions{Self: naming.Instance{ID: "l"}, Secret: secret, Changed: func() {}, Log: quiet()})
		require.NoError(t, hub.Drain(late))
	}
}

// Channel ids carry the instance, whatever it contains: what Accept had noted of a channel that
// never came to be was kept for ever.
func TestPeerOfAChannel(t *testing.T) {
	for channel, peer := range map[string]string{"gateway-1#7": "gateway-1", "a#b#12": "a#b", "": "", "none": ""} {
		require.Equal(t, peer, peerOf(channel), channel)
	}
}

// Hub is what a transport server calls back: a stranger's channel changes nothing.
func TestDisconnectOfAStranger(t *testing.T) {
	hub := NewHub(HubOptions{Self: naming.Instance{ID: "l"}, Secret: secret, Changed: func() { t.Error("nothing changed") }, Log: quiet()})
	require.NoError(t, hub.Disconnect("gateway-1#1"))
	hub.Receive(agent{}, push("x"))
}

type agent struct{ im.Agent }
