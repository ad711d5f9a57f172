package logic

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"

	im "github.com/hermod-im/hermod"
)

// dispatcher pushes to the devices of accounts: one packet per gateway, with the list of channels.
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

// maxChannels bounds the channels of one packet, so that a large group's stays far below the limit of a link.
const maxChannels = 10_000

// conversationID is the public form of a conversation's id.
func conversationID(id int64) string { return strconv.FormatInt(id, 10) }

// audience is a list of members: the messages of one conversation share it, unless it has changed.
type audience struct {
	first *string
	n     int
}

func audienceOf(members []string) audience { return audience{&members[0], len(members)} }

// keysOf appends the accounts.
func keysOf(app string, accounts []string, keys []storage.AccountKey) []storage.AccountKey {
	keys = slices.Grow(keys, len(accounts))
	for _, a := range accounts {
		keys = append(keys, storage.AccountKey{App: app, Account: a})
	}
	return keys
}

// receivers are whom the messages of a batch are for.
type receivers struct {
	// keys are the members of conversations that are no large groups, begins is where those of each begin.
	keys   []storage.AccountKey
	begins map[audience]int
	found  [][]storage.Session // for the keys
	// large has a draft for each large group, rosters the sessions of those of its members who are on line.
	large   []*storage.Draft
	rosters map[audience][][]storage.Session
}

// largeGroup is above how many members a group has a roster.
const largeGroup = 1000

// receiversOf are the receivers of a batch of stored messages, yet to be found.
func receiversOf(batch []*utterance) (r receivers) {
	r.begins = make(map[audience]int, len(batch))
	for _, u := range batch {
		t := &u.draft
		if t.Err != nil || len(t.Members) == 0 {
			continue
		}
		a := audienceOf(t.Members)
		if _, ok := r.begins[a]; ok {
			continue
		}
		r.begins[a] = len(r.keys)
		if len(t.Members) > largeGroup && !t.Duplicate { // whose members may be a list of its own
			r.large = append(r.large, t)
			continue
		}
		r.keys = keysOf(t.App, t.Members, r.keys)
	}
	return r
}

// of are the sessions of a message's receivers, a row for each account.
func (r *receivers) of(t *storage.Draft) [][]storage.Session {
	a := audienceOf(t.Members)
	if online, ok := r.rosters[a]; ok {
		return online
	}
	from := r.begins[a]
	return r.found[from : from+len(t.Members)]
}

// maxNow is how many receivers messagesNow looks for: some 100 µs.
const maxNow = 1000

// messagesNow is messages, if it need not ask the session store and they are not many. Otherwise it does nothing, and says so.
func (d *dispatcher) messagesNow(batch []*utterance) bool {
	r := receiversOf(batch)
	switch {
	case len(r.begins) == 0:
		return true
	case len(r.keys) > maxNow || len(r.large) > 0:
		return false
	}
	var ok bool
	if r.found, ok = d.locations.known(r.keys); ok {
		d.pushEach(batch, r)
	}
	return ok
}

// messages pushes a batch of stored messages, in order, after one look-up of all their receivers but those in large groups.
func (d *dispatcher) messages(batch []*utterance) {
	r := receiversOf(batch)
	var err error
	if len(r.keys) > 0 {
		if r.found, err = d.find(r.keys); err != nil {
			return
		}
	}
	for _, t := range r.large {
		if r.rosters == nil {
			r.rosters = make(map[audience][][]storage.Session)
		}
		if r.rosters[audienceOf(t.Members)], err = d.online(t.App, t.Members); err != nil {
			return
		}
	}
	d.writes.Begin()
	defer d.writes.End()
	d.pushEach(batch, r)
}

// pushEach pushes the messages of a batch to the sessions that were found: those of a group, of which
// there may be several, together.
func (d *dispatcher) pushEach(batch []*utterance, r receivers) {
	var groups map[audience][]*utterance
	for _, u := range batch {
		if t := &u.draft; t.Err == nil && len(t.Members) >= groupMembers {
			if groups == nil {
				groups = make(map[audience][]*utterance)
			}
			a := audienceOf(t.Members)
			groups[a] = append(groups[a], u)
		}
	}
	for _, u := range batch {
		t := &u.draft
		if t.Err != nil || len(t.Members) == 0 {
			continue
		}
		switch group := groups[audienceOf(t.Members)]; {
		case group == nil:
			d.message(u, r.of(t))
		case group[0] == u:
			d.burst(group, r.of(t))
		}
	}
}

// groupMembers is how many members make it worth the while to look for messages that can be pushed together.
const groupMembers = 8

// find looks sessions up. After an error nobody was reached, and all are hinted. Until the session store answers again, nobody waits
// for it: what is stored by then is in what the clients will sync when they are hinted.
func (d *dispatcher) find(keys []storage.AccountKey) ([][]storage.Session, error) {
	return d.look(len(keys), func(ctx context.Context) ([][]storage.Session, error) { return d.locations.find(ctx, keys) })
}

// online is find for the members of a large group.
func (d *dispatcher) online(app string, members []string) ([][]storage.Session, error) {
	return d.look(len(members), func(ctx context.Context) ([][]storage.Session, error) { return d.locations.online(ctx, app, members) })
}

func (d *dispatcher) look(accounts int, find func(context.Context) ([][]storage.Session, error)) ([][]storage.Session, error) {
	if d.failing.Load() && d.owed.Load() { // the hint is still to come: after this
		d.metrics.unpushed.WithLabelValues("session_store").Add(float64(accounts))
		return nil, errNotAsked
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	found, err := find(ctx)
	if err != nil {
		d.metrics.unpushed.WithLabelValues("session_store").Add(float64(accounts))
		d.log.WithError(err).WithField("accounts", accounts).Error("cannot look sessions up: nothing pushed")
		d.failing.Store(true)
		d.missed()
	}
	return found, err
}

var errNotAsked = errors.New("the session store does not answer")

// message pushes one message to the devices of all members but the one that sent it.
func (d *dispatcher) message(u *utterance, members [][]storage.Session) {
	t := targetsFor(u, members)
	if len(t) == 0 {
		return
	}
	if p, ok := d.pushOf(u); ok {
		d.sendAll(t, p)
	}
}

// targetsFor is whom a message is pushed to. Devices that
// keep cursors also get what their own account sent, and what had been sent before under the same
// client_id: its first push may have been lost with the node that stored it.
func targetsFor(u *utterance, members [][]storage.Session) targets {
	var out targets
	for _, sessions := range members {
		for i := range sessions {
			s := &sessions[i]
			if s.Channel == u.c.Packet.ChannelID || !keepsCursors(s) && (s.Account == u.draft.Sender || u.draft.Duplicate) {
				continue
			}
			out.add(s)
		}
	}
	return out
}

// pushOf is the push of a message, without its channels.
func (d *dispatcher) pushOf(u *utterance) (p wire.LogicPkt, ok bool) {
	t := &u.draft
	header := wire.Header{Command: u.c.Packet.Command, Dest: t.Dest}
	header.Delivered = []wire.Delivered{{Conversation: t.Conversation, From: t.Seq, To: t.Seq, MessageID: t.MessageID}}
	return d.encode(header, &pb.MessagePush{
		MessageId:    t.MessageID,
		Type:         t.Type,
		Body:         t.Body,
		Extra:        t.Extra,
		Sender:       t.Sender,
		SendTime:     t.SendTime,
		Seq:          t.Seq,
		Conversation: conversationID(t.Conversation),
		ClientId:     t.ClientID,
	})
}

// burst pushes messages of one conversation, in order.
func (d *dispatcher) burst(all []*utterance, members [][]storage.Session) {
	for len(all) > 0 {
		n := together(all)
		if n == 1 {
			d.message(all[0], members)
		} else {
			d.messagesTogether(all[:n], members)
		}
		all = all[n:]
	}
}

// Bounds of what is pushed in one packet, so that it stays far below the limit of a link, and of a client's queue.
const (
	maxTogether      = 64
	maxTogetherBytes = 128 << 10
)

// together is how many of the messages can be pushed in one packet: not those that were stored before, which some devices do not get.
func together(all []*utterance) (n int) {
	bytes := 0
	for n < len(all) && n < maxTogether && !all[n].draft.Duplicate {
		if bytes += all[n].size(); bytes > maxTogetherBytes {
			break
		}
		n++
	}
	return max(1, n)
}

// messagesTogether pushes messages to all members: to those who sent none of them in one packet for each gateway.
func (d *dispatcher) messagesTogether(all []*utterance, members [][]storage.Session) {
	senders := make(map[string]struct{})
	for _, u := range all {
		senders[u.draft.Sender] = struct{}{}
	}
	var own [][]storage.Session
	var others targets
	for _, sessions := range members {
		if len(sessions) == 0 {
			continue
		}
		if _, ok := senders[sessions[0].Account]; ok {
			own = append(own, sessions)
			continue
		}
		for i := range sessions {
			others.add(&sessions[i])
		}
	}
	pushes := make([]wire.LogicPkt, 0, len(all))
	for _, u := range all {
		if p, ok := d.pushOf(u); ok {
			pushes = append(pushes, p)
			d.sendAll(targetsFor(u, own), p)
		}
	}
	d.sendAll(others, pushes...)
}

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

// keepsCursors reports whether the session's client keeps cursors, and so acknowledges nothing.
func keepsCursors(s *storage.Session) bool { return wire.Features(s.Features).Has(wire.FeatureSync) }

// targets are the channels to reach, by gateway.
type targets []target

type target struct {
	gateway  string
	channels []string
	acks     bool // some of them are of clients that acknowledge what they are sent
}

func (t *targets) add(s *storage.Session) {
	i := 0
	for i < len(*t) && (*t)[i].gateway != s.Gateway {
		i++
	}
	if i == len(*t) {
		*t = append(*t, target{gateway: s.Gateway})
	}
	to := &(*t)[i]
	to.channels = append(to.channels, s.Channel)
	to.acks = to.acks || !keepsCursors(s)
}

func targetsOf(found [][]storage.Session) targets {
	var t targets
	for _, sessions := range found {
		for i := range sessions {
			t.add(&sessions[i])
		}
	}
	return t
}

// encode makes a push of its header and body.
func (d *dispatcher) encode(header wire.Header, body proto.Message) (p wire.LogicPkt, ok bool) {
	p.Header, p.Flag = header, wire.FlagPush
	var err error
	if p.Body, err = proto.Marshal(body); err != nil {
		d.log.WithError(err).WithField("command", p.Command).Error("cannot encode a push")
		return p, false
	}
	return p, true
}

// send encodes a push and queues it.
func (d *dispatcher) send(t targets, header wire.Header, body proto.Message) {
	if len(t) == 0 {
		return
	}
	if p, ok := d.encode(header, body); ok {
		d.sendAll(t, p)
	}
}

// sendAll queues the pushes to each gateway, in order: several as one packet, unless that is too old to take them so. The gateway
// learns what they hold, by the header's Delivered, if clients of it will acknowledge that.
func (d *dispatcher) sendAll(t targets, pushes ...wire.LogicPkt) {
	var all wire.LogicPkt
	for _, to := range t {
		packets := pushes
		if len(pushes) > 1 && d.links.Speaks(to.gateway, container.VersionPushes) {
			if all.Body == nil {
				all = inOne(pushes)
			}
			packets = []wire.LogicPkt{all}
		}
		for _, p := range packets {
			if !to.acks {
				p.Delivered = nil
			}
			d.queue(to, &p, len(pushes)/len(packets))
		}
	}
}

// inOne is link.pushes.
func inOne(pushes []wire.LogicPkt) wire.LogicPkt {
	all := wire.LogicPkt{Header: wire.Header{Command: wire.CmdLinkPushes, Flag: wire.FlagPush}}
	var body pb.LinkPushes
	for _, p := range pushes {
		all.Delivered = append(all.Delivered, p.Delivered...)
		p.Delivered = nil
		body.Packets = append(body.Packets, p.Append(make([]byte, 0, packetSize(&p))))
	}
	all.Body, _ = proto.Marshal(&body) // it holds only bytes
	return all
}

// queue sends a packet of n pushes to the channels of one gateway.
func (d *dispatcher) queue(to target, p *wire.LogicPkt, n int) {
	for p.Channels = range slices.Chunk(to.channels, maxChannels) {
		err := d.links.Push(to.gateway, p.Append(make([]byte, 0, packetSize(p))))
		d.count(n*len(p.Channels), err)
		if err == nil || errors.Is(err, im.ErrQueueFull) {
			continue
		}
		d.locations.forgetAll()          // the gateway's lease may have ended
		if p.Command == wire.CmdSignIn { // KickoutNotify
			d.unlinked.add(to.gateway, nil, p.Channels)
		} else {
			d.unlinked.add(to.gateway, p.Channels, nil)
		}
	}
}

// packetSize is about the size of a push, rather more.
func packetSize(p *wire.LogicPkt) int {
	n := 96 + len(p.Body) + len(p.Dest)
	for _, channel := range p.Channels {
		n += len(channel) + 2
	}
	return n
}

func (d *dispatcher) count(n int, err error) {
	switch {
	case err == nil:
		d.metrics.pushed.Add(float64(n))
	case errors.Is(err, im.ErrQueueFull):
		d.metrics.unpushed.WithLabelValues("queue_full").Add(float64(n))
	default:
		d.metrics.unpushed.WithLabelValues("not_linked").Add(float64(n))
	}
}
