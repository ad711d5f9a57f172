package bench

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// tokenTTL outlives any run.
const tokenTTL = 24 * time.Hour

// runID tells the accounts of one run from those of others.
func runID() string {
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// user is a logged-in connection that does as little as it can, so that the load costs less than
// the servers: no reconnect, no inbox.
type user struct {
	*transport.Client
	account string
}

// userOptions are those of a user that has nothing in common with others.
var userOptions = transport.ClientOptions{Heartbeat: im.DefaultHeartbeat}

// login connects to a ws:// or tcp:// URL and signs in.
func login(url, app, account string, secret []byte, opts transport.ClientOptions) (*user, error) {
	u := &user{account: account}
	if address, ok := strings.CutPrefix(url, "tcp://"); ok {
		u.Client, url = tcp.NewClient(account, account, opts), address
	} else {
		u.Client = websocket.NewClient(account, account, opts)
	}
	t, err := token.Issue(secret, token.Claims{Account: account, App: app, Expires: time.Now().Add(tokenTTL)})
	if err != nil {
		return nil, err
	}
	if err := u.Connect(url); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	if err := u.signIn(t); err != nil {
		u.Close()
		return nil, fmt.Errorf("sign in at %s: %w", url, err)
	}
	return u, nil
}

func (u *user) signIn(t string) error {
	body, err := proto.Marshal(&pb.LoginReq{Token: t, Device: "bench", Platform: "bench", Features: wire.FeatureSync.Names()})
	if err != nil {
		return err
	}
	if err := u.request(wire.CmdSignIn, "", 1, body); err != nil {
		return err
	}
	p, err := u.next()
	if err != nil {
		return err
	}
	if p.Command != wire.CmdSignIn || p.Status != wire.StatusSuccess {
		return fmt.Errorf("answered with %s: is --secret the servers'?", p.Status)
	}
	return nil
}

func (u *user) request(cmd wire.Command, dest string, seq uint32, body []byte) error {
	p := wire.LogicPkt{Header: wire.Header{Command: cmd, Sequence: seq, Dest: dest}, Body: body}
	return u.Send(p.Append(nil))
}

// deliver calls receive with each LogicPkt until the connection ends, and says why, or with the first error of receive,
// which must not block. The packet is valid during the call.
func (u *user) deliver(receive func(p *wire.LogicPkt) error) error {
	err := u.Deliver(func(payload []byte) error {
		var p wire.LogicPkt
		switch err := p.Unmarshal(payload); {
		case err == nil:
			return receive(&p)
		case errors.Is(err, wire.ErrMagic):
			return nil
		default:
			return err
		}
	})
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the server has closed the connection: %w", u.account, err)
	}
	return fmt.Errorf("%s: %w", u.account, err)
}

// next returns the next LogicPkt, valid until the call after it.
func (u *user) next() (*wire.LogicPkt, error) {
	for {
		f, err := u.Read()
		if err != nil {
			return nil, err
		}
		var p wire.LogicPkt
		switch err := p.Unmarshal(f.GetPayload()); {
		case err == nil:
			return &p, nil
		case !errors.Is(err, wire.ErrMagic):
			return nil, err
		}
	}
}
