package client

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// fake is a small server: it keeps conversations, gives seqs and answers syncs as docs/protocol.md
// says, with hooks to misbehave. A token is the account's name.
type fake struct {
	t *testing.T

	mu      sync.Mutex
	links   map[*fakeLink]bool
	logs    map[string][]*pb.Message // by conversation
	members map[string][]string
	// joined and read are by conversation and account.
	joined, read map[string]int64
	channels     int
	groups       int
	page         int
	// instances are those of the links, attempts their logins.
	instances map[*fakeLink]*pb.LoginReq
	// dialled are the gateways asked for; noDial refuses one.
	dialled []string
	noDial  func(gateway string) error
	// got are the packets received, logins included, pings not.
	got []wire.LogicPkt
	// pings counts the pings received.
	pings int

	// onPacket, if not nil, may answer a packet itself and return true. Called with mu held.
	onPacket func(l *fakeLink, p *wire.LogicPkt) bool
	// onPush, if not nil, may keep a push and return true. Called with mu held.
	onPush func(l *fakeLink, p *wire.LogicPkt) bool
	// features are announced in LoginResp.
	features []string
	mute     bool // answer no pings
	fenced   bool // a login displaces the one of the same device
}

// fakeLink is a connection as the server sees it.
type fakeLink struct {
	gateway, account, device, channel string
	send                              func(payload []byte)
	close                             func(code uint16)
}

func newFake(t *testing.T) *fake {
	return &fake{
		t: t, links: map[*fakeLink]bool{}, logs: map[string][]*pb.Message{}, members: map[string][]string{}, page: 500,
		joined: map[string]int64{}, read: map[string]int64{}, instances: map[*fakeLink]*pb.LoginReq{}, features: []string{"sync"},
	}
}

func (f *fake) receive(l *fakeLink, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if wire.MagicOf(payload) == wire.MagicBasicPkt {
		if f.pings++; !f.mute {
			l.send(wire.Pong)
		}
		return
	}
	var p wire.LogicPkt
	if err := p.Unmarshal(slices.Clone(payload)); err != nil {
		f.t.Errorf("malformed packet: %v", err)
		l.close(1002)
		return
	}
	if len(payload) > im.DefaultMaxPacket {
		f.t.Errorf("%s: a packet of %d bytes", p.Command, len(payload))
	}
	f.got = append(f.got, p)
	if f.onPacket != nil && f.onPacket(l, &p) {
		return
	}
	f.handle(l, &p)
}

func (f *fake) handle(l *fakeLink, p *wire.LogicPkt) {
	switch p.Command {
	case wire.CmdSignIn:
		var req pb.LoginReq
		f.decode(p, &req)
		f.channels++
		l.account, l.device, l.channel = req.GetToken(), req.GetDevice(), fmt.Sprint("ch-", f.channels)
		f.fence(l, &req)
		f.links[l], f.instances[l] = true, &req
		f.answer(l, p, 0, &pb.LoginResp{ChannelId: l.channel, Account: l.account, Features: f.features})
	case wire.CmdSignOut:
		f.answer(l, p, 0, nil)
	case wire.CmdUserTalk:
		id := "u:" + min(l.account, p.Dest) + ":" + max(l.account, p.Dest)
		f.members[id] = []string{l.account, p.Dest}
		f.talk(l, p, id)
	case wire.CmdGroupTalk:
		f.talk(l, p, p.Dest)
	case wire.CmdGroupCreate:
		var req pb.GroupCreateReq
		f.decode(p, &req)
		f.groups++
		id := strconv.Itoa(f.groups)
		f.members[id] = append([]string{l.account}, req.GetMembers()...)
		f.answer(l, p, 0, &pb.GroupCreateResp{GroupId: id})
		f.push(wire.LogicPkt{Header: wire.Header{Command: p.Command}}, &pb.GroupCreateNotify{GroupId: id, Members: f.members[id]}, f.members[id], l)
	case wire.CmdSync:
		f.answer(l, p, 0, f.sync(l, p))
	case wire.CmdRead:
		f.readTo(l, p)
	case wire.CmdTalkAck, wire.CmdGroupJoin, wire.CmdGroupQuit:
		f.answer(l, p, 0, nil)
	default:
		f.answer(l, p, wire.StatusNotImplemented, &pb.ErrorResp{Message: "not implemented"})
	}
}

func (f *fake) talk(l *fakeLink, p *wire.LogicPkt, id string) {
	m, fresh := f.store(l, p, id)
	resp := &pb.MessageResp{MessageId: m.GetMessageId(), SendTime: m.GetSendTime()}
	push := &pb.MessagePush{MessageId: m.GetMessageId(), Type: m.GetType(), Body: m.GetBody(), Sender: m.GetSender(), SendTime: m.GetSendTime()}
	if f.features != nil {
		resp.Seq, resp.Conversation = m.GetSeq(), id
		push.Seq, push.Conversation, push.ClientId = m.GetSeq(), id, m.GetClientId()
	}
	f.answer(l, p, 0, resp)
	if fresh {
		f.push(wire.LogicPkt{Header: wire.Header{Command: p.Command, Dest: p.Dest}}, push, f.members[id], l)
	}
}

// store appends a message once per client id.
func (f *fake) store(l *fakeLink, p *wire.LogicPkt, id string) (m *pb.Message, fresh bool) {
	var req pb.MessageReq
	f.decode(p, &req)
	for _, m := range f.logs[id] {
		if req.GetClientId() != "" && m.GetClientId() == req.GetClientId() && m.GetSender() == l.account {
			return m, false
		}
	}
	seq := int64(len(f.logs[id]) + 1)
	m = &pb.Message{
		MessageId: 1000 + seq, Seq: seq, Sender: l.account, SendTime: time.Now().UnixNano(),
		Type: req.GetType(), Body: req.GetBody(), ClientId: req.GetClientId(),
	}
	f.logs[id] = append(f.logs[id], m)
	return m, true
}

// fence displaces the session of the same device.
func (f *fake) fence(l *fakeLink, req *pb.LoginReq) {
	for old := range f.links {
		if !f.fenced || old.account != l.account || old.device != l.device {
			continue
		}
		reason := "device"
		if before := f.instances[old]; before.GetInstance() == req.GetInstance() {
			if reason = "reconnected"; before.GetAttempt() >= req.GetAttempt() {
				f.t.Errorf("attempt %d after %d", req.GetAttempt(), before.GetAttempt())
			}
		}
		f.kick(old, reason)
		old.close(im.ReasonDisplaced.Code())
	}
}

func (f *fake) kick(l *fakeLink, reason string) {
	f.tell(l, wire.CmdSignIn, &pb.KickoutNotify{ChannelId: l.channel, Reason: reason, Device: "other", Platform: "web"})
}

// tell pushes to one connection.
func (f *fake) tell(l *fakeLink, c wire.Command, body proto.Message) {
	l.send(wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: c, Flag: wire.FlagPush}, Body: f.encode(body)}))
}

// unread counts the messages of others beyond the account's position.
func (f *fake) unread(account, id string) (n int64) {
	for _, m := range f.logs[id] {
		if m.GetSeq() > f.read[id+account] && m.GetSeq() > f.joined[id+account] && m.GetSender() != account {
			n++
		}
	}
	return n
}

func (f *fake) readTo(l *fakeLink, p *wire.LogicPkt) {
	var req pb.ReadReq
	f.decode(p, &req)
	id, last := req.GetConversation(), int64(len(f.logs[req.GetConversation()]))
	before := f.read[id+l.account]
	at := max(before, min(req.GetSeq(), last))
	f.read[id+l.account] = at
	n := f.unread(l.account, id)
	f.answer(l, p, 0, &pb.ReadResp{Seq: at, Unread: n, LastSeq: last})
	if at > before {
		f.push(wire.LogicPkt{Header: wire.Header{Command: p.Command}}, &pb.ReadNotify{Conversation: id, Seq: at, Unread: n, LastSeq: last}, []string{l.account}, l)
	}
}

// modern reports whether the server knows digests and read positions.
func (f *fake) modern() bool { return slices.Contains(f.features, "read") }

func (f *fake) sync(l *fakeLink, p *wire.LogicPkt) *pb.SyncResp {
	var req pb.SyncReq
	f.decode(p, &req)
	if len(req.GetDigests()) > 0 && f.modern() {
		return &pb.SyncResp{Stale: f.stale(l, &req)}
	}
	named := map[string]*pb.Cursor{}
	resp, left := &pb.SyncResp{}, min(f.page, int(req.GetLimit()))
	for _, c := range req.GetCursors() {
		named[c.GetConversation()] = c
		if f.modern() && !slices.Contains(f.members[c.GetConversation()], l.account) {
			resp.Gone = append(resp.Gone, c.GetConversation())
		}
	}
	for id, members := range f.members {
		if !slices.Contains(members, l.account) || (len(req.GetOnly()) > 0 && !slices.Contains(req.GetOnly(), f.bucket(id, req.GetBuckets()))) {
			continue
		}
		k, log, joined := named[id], f.logs[id], f.joined[id+l.account]
		news := log[min(max(k.GetSeq(), joined), int64(len(log))):]
		if len(news) == 0 && (!f.modern() || k != nil && k.GetSeq() >= joined && k.GetSeq() <= int64(len(log)) && (k.ReadSeq == nil || k.GetReadSeq() == f.read[id+l.account])) {
			continue
		}
		n := min(left, len(news))
		resp.More = resp.More || n < len(news) || left == 0
		if left == 0 {
			continue
		}
		left -= max(n, 1)
		d := &pb.ConversationDelta{Conversation: id, Group: id, LastSeq: int64(len(log)), JoinedSeq: joined, Messages: news[:n], ReadSeq: f.read[id+l.account]}
		if pair, ok := strings.CutPrefix(id, "u:"); ok {
			one, other, _ := strings.Cut(pair, ":")
			if d.Group, d.Peer = "", one; one == l.account {
				d.Peer = other
			}
		}
		if n == len(news) {
			d.Unread = f.unread(l.account, id)
		}
		resp.Conversations = append(resp.Conversations, d)
	}
	return resp
}

func (f *fake) bucket(id string, buckets uint32) uint32 {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		f.t.Errorf("%q is in no bucket", id)
	}
	return uint32(n) % buckets
}

// stale compares digests.
func (f *fake) stale(l *fakeLink, req *pb.SyncReq) (stale []uint32) {
	have := make([]pb.Digest, req.GetBuckets())
	reads := make([]uint64, len(have))
	for id, members := range f.members {
		if !slices.Contains(members, l.account) {
			continue
		}
		n := f.bucket(id, req.GetBuckets())
		number, _ := strconv.ParseUint(id, 10, 32)
		have[n].Conversations++
		have[n].Ids += number % (1<<31 - 1)
		have[n].Seqs += uint64(len(f.logs[id]))
		reads[n] += uint64(f.read[id+l.account])
	}
	for i, d := range req.GetDigests() {
		h := &have[i]
		if d.GetConversations() != h.GetConversations() || d.GetIds() != h.GetIds() || d.GetSeqs() != h.GetSeqs() ||
			(d.Reads != nil && d.GetReads() != reads[i]) {
			stale = append(stale, uint32(i))
		}
	}
	return stale
}

// push sends to all devices of the accounts but one connection.
func (f *fake) push(p wire.LogicPkt, body proto.Message, accounts []string, except *fakeLink) {
	p.Flag = wire.FlagPush
	p.Body = f.encode(body)
	for l := range f.links {
		if l == except || !slices.Contains(accounts, l.account) {
			continue
		}
		if f.onPush == nil || !f.onPush(l, &p) {
			l.send(wire.Marshal(&p))
		}
	}
}

func (f *fake) answer(l *fakeLink, p *wire.LogicPkt, status wire.Status, body proto.Message) {
	l.send(wire.Marshal(&wire.LogicPkt{
		Header: wire.Header{Command: p.Command, Sequence: p.Sequence, Flag: wire.FlagResponse, Status: status, Dest: p.Dest},
		Body:   f.encode(body),
	}))
}

func (f *fake) refuse(l *fakeLink, p *wire.LogicPkt, status wire.Status) {
	f.answer(l, p, status, &pb.ErrorResp{Message: "refused"})
}

func (f *fake) hint(l *fakeLink) {
	l.send(wire.Marshal(&wire.LogicPkt{Header: wire.Header{Command: wire.CmdSyncHint, Flag: wire.FlagPush}}))
}

func (f *fake) encode(m proto.Message) []byte {
	if m == nil {
		return nil
	}
	b, err := proto.Marshal(m)
	if err != nil {
		f.t.Error(err)
	}
	return b
}

func (f *fake) decode(p *wire.LogicPkt, m proto.Message) {
	if err := proto.Unmarshal(p.Body, m); err != nil {
		f.t.Errorf("%s: %v", p.Command, err)
	}
}

// gone notes the end of a connection.
func (f *fake) gone(l *fakeLink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, l)
}

// intercept sets onPacket.
func (f *fake) intercept(g func(l *fakeLink, p *wire.LogicPkt) bool) {
	f.do(func() { f.onPacket = g })
}

// do calls g with mu held.
func (f *fake) do(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g()
}

// each calls g for every connection of the account.
func (f *fake) each(account string, g func(l *fakeLink)) {
	f.do(func() {
		for l := range f.links {
			if l.account == account {
				g(l)
			}
		}
	})
}

// count is how many packets with this command came.
func (f *fake) count(c wire.Command) (n int) {
	f.do(func() {
		for _, p := range f.got {
			if p.Command == c {
				n++
			}
		}
	})
	return n
}

// dial connects a client by a pipe in memory.
func (f *fake) dial(gateway string, _ *Options) (im.Client, string, error) {
	var err error
	f.do(func() {
		f.dialled = append(f.dialled, gateway)
		if f.noDial != nil {
			err = f.noDial(gateway)
		}
	})
	if err != nil {
		return nil, "", err
	}
	c := &pipe{up: newMailbox(), down: newMailbox()}
	link := &fakeLink{
		gateway: gateway,
		send:    func(b []byte) { c.down.put(slices.Clone(b)) },
		close:   func(code uint16) { c.down.end(&transport.PeerClosedError{Code: code}); c.up.end(io.EOF) },
	}
	go func() {
		defer f.gone(link)
		for {
			b, err := c.up.take()
			if err != nil {
				c.down.end(io.EOF)
				return
			}
			f.receive(link, b)
		}
	}()
	return c, "", nil
}

// pipe is an im.Client in memory.
type pipe struct{ up, down *mailbox }

func (*pipe) ID() string           { return "pipe" }
func (*pipe) Name() string         { return "pipe" }
func (*pipe) Connect(string) error { return nil }
func (*pipe) SetDialer(im.Dialer)  {}

func (p *pipe) Send(b []byte) error {
	if !p.up.put(slices.Clone(b)) {
		return im.ErrChannelClosed
	}
	return nil
}

func (p *pipe) Read() (im.Frame, error) {
	b, err := p.down.take()
	if err != nil {
		return nil, err
	}
	return &transport.Frame{Op: im.OpBinary, Payload: b}, nil
}

func (p *pipe) Close() {
	p.up.end(io.EOF)
	p.down.end(io.EOF)
}

// mailbox is a queue without bound; what was put before its end is taken before it.
type mailbox struct {
	mu   sync.Mutex
	cond *sync.Cond
	list [][]byte
	err  error
}

func newMailbox() *mailbox {
	m := &mailbox{}
	m.cond = sync.NewCond(&m.mu)
	return m
}

func (m *mailbox) put(b []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return false
	}
	m.list = append(m.list, b)
	m.cond.Signal()
	return true
}

func (m *mailbox) take() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.list) == 0 && m.err == nil {
		m.cond.Wait()
	}
	if len(m.list) == 0 {
		return nil, m.err
	}
	b := m.list[0]
	m.list = m.list[1:]
	return b, nil
}

func (m *mailbox) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	m.cond.Broadcast()
}
