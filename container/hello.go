package container

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// The handshake of a link, three LogicPkts with the command link.hello:
//
//	accepting side → LinkHello{version, service, instance, nonce a}
//	dialling side  → LinkHello{version, service, instance, nonce d, proof("dial")}
//	accepting side → LinkHello{version, proof("accept")}, or a status and ErrorResp
//
// The version of the last packet is the one that is spoken: the lower one of the first two.
// proof(role) is HMAC-SHA256 under a key derived from the cluster's secret, over the role, both
// instances and both nonces: a recorded handshake proves nothing, and neither side talks to a stranger. What a
// stranger calls itself is cut to 64 characters where it is told.

const nonceSize = 16

// hello is one side's part in a handshake.
type hello struct {
	self    naming.Instance
	secret  []byte
	version uint32 // LinkVersion
}

// challenge is what the accepting side sends first.
func (h hello) challenge() *pb.LinkHello {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	return &pb.LinkHello{Version: h.version, Service: h.self.Service, Instance: h.self.ID, Nonce: nonce}
}

// answer is the dialling side's reply to the challenge.
func (h hello) answer(challenge *pb.LinkHello) *pb.LinkHello {
	a := h.challenge()
	a.Proof = h.proof("dial", challenge, a)
	return a
}

// verify is the accepting side's check of the answer; its result proves the accepting side in turn.
func (h hello) verify(challenge, answer *pb.LinkHello) (*pb.LinkHello, error) {
	version, err := h.agree(answer)
	if err != nil {
		return nil, err
	}
	if len(answer.Nonce) != nonceSize || answer.Instance == "" {
		return nil, errors.New("link.hello without nonce or instance")
	}
	if !hmac.Equal(answer.Proof, h.proof("dial", challenge, answer)) {
		return nil, fmt.Errorf("%.64s does not know this cluster's secret: set the same `secret` on every node", answer.Instance)
	}
	return &pb.LinkHello{Version: version, Proof: h.proof("accept", challenge, answer)}, nil
}

// check is the dialling side's check of the last packet.
func (h hello) check(challenge, answer, last *pb.LinkHello) error {
	if !hmac.Equal(last.Proof, h.proof("accept", challenge, answer)) {
		return fmt.Errorf("%.64s does not know this cluster's secret: set the same `secret` on every node", challenge.Instance)
	}
	return nil
}

// agree is the version that is spoken with a peer, the lower one of both, or an error with errVersion.
func (h hello) agree(peer *pb.LinkHello) (uint32, error) {
	low, high := min(h.version, peer.Version), max(h.version, peer.Version)
	if high-low > 1 {
		return 0, fmt.Errorf("%w: %.64s speaks version %d and this node %d: upgrade one version at a time", errVersion, peer.Instance, peer.Version, h.version)
	}
	return low, nil
}

var errVersion = errors.New("incompatible links")

func (h hello) proof(role string, challenge, answer *pb.LinkHello) []byte {
	key := mac(h.secret, []byte("hermod link"))
	return mac(key, []byte(role), []byte(challenge.Instance), []byte(answer.Instance), challenge.Nonce, answer.Nonce)
}

// mac is HMAC-SHA256 over the parts, each with its length in front.
func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		_, _ = m.Write([]byte{byte(len(p) >> 8), byte(len(p))})
		_, _ = m.Write(p)
	}
	return m.Sum(nil)
}

func marshalHello(flag wire.Flag, m *pb.LinkHello) []byte {
	return marshal(wire.Header{Command: wire.CmdLinkHello, Flag: flag}, m)
}

func unmarshalHello(payload []byte) (*pb.LinkHello, error) {
	var p wire.LogicPkt
	if err := p.Unmarshal(payload); err != nil {
		return nil, err
	}
	if p.Command != wire.CmdLinkHello {
		return nil, fmt.Errorf("got %.64q where link.hello was due: is this a hermod service port?", p.Command)
	}
	if err := AsError(&p); err != nil {
		return nil, err
	}
	m := new(pb.LinkHello)
	if err := proto.Unmarshal(p.Body, m); err != nil {
		return nil, fmt.Errorf("link.hello: %w", err)
	}
	return m, nil
}

// AsError returns a response's status and message as a *wire.Error; nil for success.
func AsError(p *wire.LogicPkt) error {
	if p.Status == wire.StatusSuccess {
		return nil
	}
	var m pb.ErrorResp
	_ = proto.Unmarshal(p.Body, &m) // a message is a courtesy
	return wire.ErrorOf(p.Status, &m)
}

// marshal makes a packet of a header and a body, which may be nil.
func marshal(h wire.Header, body proto.Message) []byte {
	p := wire.LogicPkt{Header: h}
	if body != nil {
		p.Body, _ = proto.Marshal(body) // fails on invalid UTF-8 only, which no caller has
	}
	return p.Append(nil)
}

// closedEarly makes the end of input during a handshake readable.
func closedEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("closed by the peer during the handshake")
	}
	return err
}
