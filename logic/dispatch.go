package logic

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// dispatcher pushes to the devices of accounts: one packet per gateway, with the list of channels (send.go); messages as fanout.go says.
// A push that cannot be queued is lost for now (I4): if the queue was full, the link is cut, and the
// gateway hints its clients for that; if there was no link, the gateway learns it with its lease (see
// unlinked). If nobody knows whom it was for, because the session store did not answer, all gateways
// hint all clients as soon as it does; those without a link learn that with their lease, too.
type dispatcher struct {
	sessions  storage.Sessions
	locations *locations
	links     links
	writes    Batch
	unlinked  *unlinked
	metrics   *metrics
	log       *logrus.Entry
	timeout   time.Duration
	absent    func() []string // the registered gateways without a link. May be nil: none

	owed    atomic.Bool   // all clients are to be hinted
	failing atomic.Bool   // a look-up has failed, and the session store has not answered since
	wake    chan struct{} // capacity 1: owed was set
}

// links are the ways to the gateways: a *container.Hub.
type links interface {
	Push(gateway string, packet []byte) error
	Speaks(gateway string, version uint32) bool
	Broadcast(packet []byte)
}

func newDispatcher(cfg Config, s storage.Sessions, l links, w Batch, m *metrics, log *logrus.Entry) *dispatcher {
	return &dispatcher{
		sessions: s, locations: newLocations(s, cfg.LocationAge, m), links: l, writes: w,
		unlinked: newUnlinked(s, log, cfg.Timeout), metrics: m, log: log, timeout: cfg.Timeout,
		wake: make(chan struct{}, 1),
	}
}

// hintAll is sync.hint to all clients of a gateway: it names no channels.
var hintAll = (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}}).Append(nil)

// missed notes that there were pushes which nobody got.
func (d *dispatcher) missed() {
	d.owed.Store(true)
	signal(d.wake)
}

// settle hints the clients if that is owed.
func (d *dispatcher) settle() {
	if !d.owed.Swap(false) {
		return
	}
	d.links.Broadcast(hintAll)
	if d.absent == nil {
		return
	}
	for _, gateway := range d.absent() { // after the broadcast: who is linked since then has its clients hinted for that
		d.unlinked.add(gateway, []string{storage.AllChannels}, nil)
	}
}

// run settles whenever something is owed and the session store answers (again), until ctx ends.
func (d *dispatcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.unlinked.run(ctx) })
	for {
		select {
		case <-d.wake:
		case <-ctx.Done():
			return
		}
		if d.awaitStore(ctx) != nil {
			return
		}
		d.failing.Store(false)
		d.settle()
	}
}

// awaitStore returns when the session store answers, or with ctx's error.
func (d *dispatcher) awaitStore(ctx context.Context) error {
	pause := time.NewTicker(storeRetry)
	defer pause.Stop()
	for {
		// At least one pause, in which failures add up to one hint.
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		ping, cancel := context.WithTimeout(ctx, d.timeout)
		err := d.sessions.Ping(ping)
		cancel()
		if err == nil {
			return nil
		}
	}
}

// storeRetry is the pause between looks whether the session store answers.
const storeRetry = time.Second

// find looks sessions up; see look.
func (d *dispatcher) find(keys []storage.AccountKey) (found [][]storage.Session, err error) {
	err = d.look(len(keys), func(ctx context.Context) (err error) {
		found, err = d.locations.find(ctx, keys)
		return err
	})
	return found, err
}

// look looks sessions of so many accounts up. After an error nobody was reached, and all are hinted. Until the session store answers again, nobody waits
// for it: what is stored by then is in what the clients will sync when they are hinted.
func (d *dispatcher) look(accounts int, find func(context.Context) error) error {
	if d.failing.Load() && d.owed.Load() { // the hint is still to come: after this
		d.metrics.unpushed.WithLabelValues("session_store").Add(float64(accounts))
		return errNotAsked
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	err := find(ctx)
	if err != nil {
		d.metrics.unpushed.WithLabelValues("session_store").Add(float64(accounts))
		d.log.WithError(err).WithField("accounts", accounts).Error("cannot look sessions up: nothing pushed")
		d.failing.Store(true)
		d.missed()
	}
	return err
}

var errNotAsked = errors.New("the session store does not answer")

// notify pushes to all devices of accounts.
func (d *dispatcher) notify(app string, accounts []string, header wire.Header, body proto.Message) {
	if len(accounts) == 0 {
		return
	}
	found, err := d.find(keysOf(app, accounts, nil))
	if err != nil {
		return
	}
	d.send(targetsOf(found), header, body)
}

// toOthers pushes to the account's devices that understand the feature, but for the channel that asked.
func (d *dispatcher) toOthers(who storage.AccountKey, asking string, feature wire.Features, header wire.Header, body proto.Message) {
	found, err := d.find([]storage.AccountKey{who})
	if err != nil {
		return
	}
	var targets targets
	for i := range found[0] {
		if s := &found[0][i]; s.Channel != asking && wire.Features(s.Features).Has(feature) {
			targets.add(s)
		}
	}
	d.send(targets, header, body)
}

// hint tells accounts' clients that they may have missed a message.
func (d *dispatcher) hint(accounts map[storage.AccountKey]struct{}) {
	if len(accounts) == 0 {
		return
	}
	d.log.WithField("accounts", len(accounts)).Warn("messages may be stored that nobody was told of: hinting their members")
	found, err := d.find(slices.Collect(maps.Keys(accounts)))
	if err != nil {
		return
	}
	d.send(targetsOf(found), wire.Header{Command: wire.CmdSyncHint}, nil)
}

// kick tells a displaced session so, and why; its gateway closes the connection.
func (d *dispatcher) kick(x storage.Displaced) {
	d.metrics.displaced.WithLabelValues(string(x.Reason)).Inc()
	var targets targets
	targets.add(&x.Session)
	d.send(targets, wire.Header{Command: wire.CmdSignIn}, &pb.KickoutNotify{
		ChannelId: x.Channel, Reason: string(x.Reason), Device: x.ByDevice, Platform: x.ByPlatform,
	})
}

// verify has gateways end those of the sessions whose channels they do not know: a session that the
// store has kept for longer than its connection must not refuse logins for ever.
func (d *dispatcher) verify(sessions []storage.Session) {
	byGateway := map[string]*pb.SessionEndReq{}
	for _, s := range sessions {
		if byGateway[s.Gateway] == nil {
			byGateway[s.Gateway] = &pb.SessionEndReq{}
		}
		req := byGateway[s.Gateway]
		req.Sessions = append(req.Sessions, &pb.Session{App: s.App, Account: s.Account, Device: s.Device, Channel: s.Channel})
	}
	for gateway, req := range byGateway {
		p := wire.LogicPkt{Header: wire.Header{Command: wire.CmdSessionEnd, Flag: wire.FlagPush}}
		p.Body, _ = proto.Marshal(req)           // what it holds came as protobuf
		_ = d.links.Push(gateway, p.Append(nil)) // the next refusal asks again
	}
}
