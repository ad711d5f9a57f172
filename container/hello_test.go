package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func linkConn(c net.Conn) *transport.Conn {
	return transport.NewConn(c, tcp.Protocol(), im.DefaultMaxLinkPacket)
}

// receiveHello reads one packet of a handshake.
func receiveHello(c *transport.Conn) (*pb.LinkHello, error) {
	f, err := c.ReadFrame()
	if err != nil {
		return nil, err
	}
	return unmarshalHello(f.GetPayload())
}

// connChannel is a channel that writes to its connection at once.
type connChannel struct {
	im.Channel
	id   string
	conn *transport.Conn
}

func (c *connChannel) ID() string                { return c.id }
func (c *connChannel) SetAttachment(any)         {}
func (c *connChannel) Push(payload []byte) error { return send(c.conn, payload) }

// What a dialling side may send to the accepting side, and what comes of it.
func TestAcceptChecksTheDiallingSide(t *testing.T) {
	gateway := naming.Instance{ID: "gateway-1", Service: naming.ServiceGateway}
	answer := func(secret []byte, change func(*pb.LinkHello)) func(*transport.Conn, *pb.LinkHello) error {
		return func(c *transport.Conn, challenge *pb.LinkHello) error {
			h := hello{gateway, secret, LinkVersion}
			a := h.challenge()
			change(a)
			a.Proof = h.proof("dial", challenge, a)
			return send(c, marshalHello(wire.FlagRequest, a))
		}
	}
	same := func(*pb.LinkHello) {}
	raw := func(payload []byte) func(*transport.Conn, *pb.LinkHello) error {
		return func(c *transport.Conn, _ *pb.LinkHello) error { return send(c, payload) }
	}
	var recorded []byte // a proof of another handshake

	for _, test := range []struct {
		name   string
		peer   func(*transport.Conn, *pb.LinkHello) error
		fails  string // empty: accepted
		reason im.Reason
		told   bool // the peer reads a refusal
	}{
		{name: "the cluster's secret", peer: answer(secret, same)},
		{name: "the version before", peer: answer(secret, func(h *pb.LinkHello) { h.Version = LinkVersion - 1 })},
		{name: "the version after", peer: answer(secret, func(h *pb.LinkHello) { h.Version = LinkVersion + 1 })},
		{
			name: "another secret", peer: answer([]byte("another"), same),
			fails: "does not know this cluster's secret", reason: im.ReasonUnauthorized, told: true,
		},
		{
			name:  "another secret and a long name",
			peer:  answer([]byte("another"), func(h *pb.LinkHello) { h.Instance = strings.Repeat("n", 3000) }),
			fails: "unauthorized: " + strings.Repeat("n", 64) + " does not know this cluster's secret", reason: im.ReasonUnauthorized, told: true,
		},
		{
			name: "a version too new", peer: answer(secret, func(h *pb.LinkHello) { h.Version = LinkVersion + 2 }),
			fails: fmt.Sprintf("incompatible links: gateway-1 speaks version %d and this node %d", LinkVersion+2, LinkVersion), reason: im.ReasonUnauthorized, told: true,
		},
		{
			name: "no instance", peer: answer(secret, func(h *pb.LinkHello) { h.Instance = "" }),
			fails: "without nonce or instance", reason: im.ReasonUnauthorized, told: true,
		},
		{
			name: "a short nonce", peer: answer(secret, func(h *pb.LinkHello) { h.Nonce = h.Nonce[:4] }),
			fails: "without nonce or instance", reason: im.ReasonUnauthorized, told: true,
		},
		{
			name: "a recorded answer", fails: "does not know this cluster's secret", reason: im.ReasonUnauthorized, told: true,
			peer: func(c *transport.Conn, _ *pb.LinkHello) error { return send(c, recorded) },
		},
		{name: "garbage", peer: raw([]byte("GET / HTTP/1.1")), fails: "magic", reason: im.ReasonProtocolError},
		{
			name: "a client's login", peer: raw(marshal(wire.Header{Command: wire.CmdSignIn}, &pb.LoginReq{Token: "t"})),
			fails: "where link.hello was due", reason: im.ReasonProtocolError,
		},
		{
			name: "a hello that is none", peer: raw((&wire.LogicPkt{Header: wire.Header{Command: wire.CmdLinkHello}, Body: []byte{0xff}}).Append(nil)),
			fails: "link.hello", reason: im.ReasonProtocolError,
		},
		{name: "silence", peer: func(*transport.Conn, *pb.LinkHello) error { return nil }, fails: "timeout"},
		{
			name: "a hang-up", peer: func(c *transport.Conn, _ *pb.LinkHello) error { return c.Close() },
			fails: "closed by the peer during the handshake",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged strings.Builder
				log := logrus.New()
				log.SetOutput(&logged)
				hub := NewHub(HubOptions{Self: instance("logic-1", "logic", naming.StateReady, ""), Secret: secret, Changed: func() {}, Log: logrus.NewEntry(log)})
				here, there := net.Pipe()
				defer here.Close()
				defer there.Close()
				refused := make(chan error, 1)
				go func() {
					c := linkConn(there)
					challenge, err := receiveHello(c)
					if err == nil {
						if recorded == nil {
							recorded = marshalHello(wire.FlagRequest, hello{gateway, secret, LinkVersion}.answer(challenge))
						}
						err = test.peer(c, challenge)
					}
					if err == nil {
						_, err = receiveHello(c)
					}
					refused <- err
				}()
				start := time.Now()
				id, err := hub.Accept(linkConn(here), im.DefaultLoginWait)
				if test.fails == "" {
					require.NoError(t, err)
					require.Equal(t, "gateway-1", peerOf(id))
					require.False(t, hub.Linked("gateway-1"))
					require.NoError(t, hub.Connect(&connChannel{id: id, conn: linkConn(here)}))
					require.True(t, hub.Linked("gateway-1"), "before the peer knows that it is linked")
					require.NoError(t, <-refused)
					return
				}
				require.ErrorContains(t, err, test.fails)
				require.Equal(t, test.reason, im.ReasonOf(err, im.ReasonNone))
				require.LessOrEqual(t, time.Since(start), helloWait)
				require.Less(t, logged.Len(), 500)
				here.Close()
				var status *wire.Error
				require.Equal(t, test.told, errors.As(<-refused, &status))
				if test.told {
					require.Equal(t, wire.StatusUnauthorized, status.Status)
				}
			})
		})
	}
}

// What may answer where a peer was dialled, and what comes of it.
func TestDialChecksTheAcceptingSide(t *testing.T) {
	peer := instance("logic-1", "logic", naming.StateReady, "pipe")
	accept := func(self naming.Instance, secret []byte, change func(*pb.LinkHello)) func(*transport.Conn) error {
		return func(c *transport.Conn) error {
			h := hello{self, secret, LinkVersion}
			challenge := h.challenge()
			change(challenge)
			if err := send(c, marshalHello(wire.FlagPush, challenge)); err != nil {
				return err
			}
			answer, err := receiveHello(c)
			if err != nil {
				return err
			}
			return send(c, marshalHello(wire.FlagResponse, &pb.LinkHello{Proof: h.proof("accept", challenge, answer)}))
		}
	}
	same := func(*pb.LinkHello) {}
	hangUp := func(c *transport.Conn) error {
		synctest.Wait() // until the client reads
		return c.Close()
	}

	for _, test := range []struct {
		name  string
		peer  func(*transport.Conn) error
		fails string // empty: connected
		takes time.Duration
	}{
		{name: "the peer", peer: accept(peer, secret, same)},
		{name: "a peer that cannot prove itself", peer: accept(peer, []byte("another"), same), fails: "does not know this cluster's secret"},
		{
			name: "another instance", peer: accept(instance("logic-2", "logic", naming.StateReady, ""), secret, same),
			fails: "logic-2 answers there",
		},
		{name: "a version too new", peer: accept(peer, secret, func(h *pb.LinkHello) { h.Version += 2 }), fails: fmt.Sprintf("incompatible links: logic-1 speaks version %d and this node %d", LinkVersion+2, LinkVersion)},
		{
			name: "a refusal", fails: "no, because",
			peer: func(c *transport.Conn) error {
				return send(c, marshal(wire.Header{Command: wire.CmdLinkHello, Status: wire.StatusUnauthorized}, &pb.ErrorResp{Message: "no, because"}))
			},
		},
		{name: "garbage", peer: func(c *transport.Conn) error { return send(c, []byte("220 smtp ready")) }, fails: "magic"},
		{name: "a hang-up", peer: hangUp, fails: "closed by the peer during the handshake"},
		{name: "silence", peer: func(c *transport.Conn) error { return nil }, fails: "closed by the peer", takes: helloWait},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan net.Conn, 1)
				d := newDialler(func(id, name string) im.Client {
					c := tcp.NewClient(id, name, transport.ClientOptions{})
					c.SetDialer(pipeDialer{ends})
					return c
				})
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					c := linkConn(<-ends)
					if test.peer(c) == nil {
						_, _ = receiveHello(c) // until the client closes
					}
					_ = c.Close()
				}()
				start := time.Now()
				client, err := d.newLink(peer).dial(t.Context())
				if test.fails == "" {
					require.NoError(t, err)
					client.Close()
					<-gone
					return
				}
				// A handshake that failed once took the gateway down: the client to be closed was nil.
				require.ErrorContains(t, err, test.fails)
				require.GreaterOrEqual(t, time.Since(start), test.takes)
				<-gone
			})
		})
	}
}

// A gateway that stops while a peer does not answer its hello waited for it to time out.
func TestRunEndsDuringAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan net.Conn, 1)
		d := newDialler(func(id, name string) im.Client {
			c := tcp.NewClient(id, name, transport.ClientOptions{})
			c.SetDialer(pipeDialer{ends})
			return c
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.Run(ctx)
		}()
		d.Update([]naming.Instance{instance("logic-1", "logic", naming.StateReady, "pipe")})
		silent := <-ends
		go func() {
			_, _ = receiveHello(linkConn(silent)) // the close frame
			silent.Close()
		}()
		synctest.Wait()
		start := time.Now()
		stop()
		<-ended
		require.Less(t, time.Since(start), helloWait)
	})
}

// A node that becomes ready because it is linked has missed nothing: all clients were hinted, and
// the old ones closed, whenever a logic node joined.
func TestPeerThatBecomesReadyByTheLinkMissedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan net.Conn, 1)
		d := newDialler(func(id, name string) im.Client {
			c := tcp.NewClient(id, name, transport.ClientOptions{})
			c.SetDialer(pipeDialer{ends})
			return c
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.Run(ctx)
		}()
		joining, ready := instance("logic-1", "l", naming.StateJoining, "pipe"), instance("logic-1", "l", naming.StateReady, "pipe")
		d.Update([]naming.Instance{joining})
		c := linkConn(<-ends)
		h := hello{joining, secret, LinkVersion}
		challenge := h.challenge()
		require.NoError(t, send(c, marshalHello(wire.FlagPush, challenge)))
		answer, err := receiveHello(c)
		require.NoError(t, err)
		d.Update([]naming.Instance{ready}) // it was linked, and said so before we know
		require.NoError(t, send(c, marshalHello(wire.FlagResponse, &pb.LinkHello{Proof: h.proof("accept", challenge, answer)})))
		synctest.Wait()
		require.Equal(t, []bool{false}, d.upList())
		stop()
		_, _ = receiveHello(c) // the close frame
		c.Close()
		<-ended
	})
}
