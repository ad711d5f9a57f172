package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
	"github.com/hermod-im/hermod/wire/token"
)

// groupRun is one run of Group. Senders are users beside the swarm of receivers, on a device of
// their own, so that a sender's account receives too: every member on line is one receiver.
type groupRun struct {
	o         GroupOptions
	id        string
	targets   []target
	group     string
	swarm     *swarm
	senders   []*groupSender
	receivers []receiver // owned by the swarm's goroutine while it runs
	ack       *recorder
	deliver   *recorder

	measured   interval
	acked      atomic.Int64 // while measuring
	deliveries atomic.Int64 // while measuring
	failed     chan error   // capacity 1: the first
}

// receiver is what one connection has got of the group: all seqs up to highest but missing.
type receiver struct {
	highest            int64
	missing            map[int64]struct{} // nil for almost all
	doubled, reordered int64
}

// groupSender sends numbered messages.
type groupSender struct {
	run   *groupRun
	index int
	*user
	loop *loop

	mu      sync.Mutex
	sent    []groupSending // message n is at n-1; guarded by mu
	refused map[string]int64
}

type groupSending struct {
	at             time.Time // when it was sent, or due in an open loop
	acked, refused bool
	left           int         // receivers that do not have it
	reached        receiverSet // those that have it; nil before the first and after the last
}

// deliver notes that a receiver, of online, has got the message, and reports whether that is new.
func (m *groupSending) deliver(receiver, online int) bool {
	if m.left == 0 {
		return false
	}
	if m.reached == nil {
		m.reached = newReceiverSet(online)
	}
	if !m.reached.add(receiver) {
		return false
	}
	if m.left--; m.left == 0 {
		m.reached = nil // of thousands of messages, only those under way take room
	}
	return true
}

// Group runs the load and returns what was measured. An error means that the run says nothing.
func Group(ctx context.Context, o GroupOptions) (*GroupResult, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &groupRun{
		o: o, id: runID()[:4], ack: &recorder{}, deliver: &recorder{}, failed: make(chan error, 1),
		receivers: make([]receiver, o.Online),
	}
	if r.targets, err = parseTargets(o.URLs); err != nil {
		return nil, err
	}
	if err := enoughDescriptors(o.Online+o.Senders, groupLogins); err != nil {
		return nil, err
	}
	if r.swarm, err = newSwarm(o.Online, r.targets[0].websocket, im.DefaultHeartbeat, r.received); err != nil {
		return nil, err
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.swarm.run(stop) }()
	result, err := r.run(ctx)
	close(stop)
	if err := errors.Join(err, <-ended); err != nil {
		return nil, err
	}
	r.sum(result) // the swarm has ended
	return result, nil
}

func (r *groupRun) account(i int) string { return "g" + r.id + strconv.FormatInt(int64(i), 36) }

func (r *groupRun) run(ctx context.Context) (*GroupResult, error) {
	defer func() {
		for _, s := range r.senders {
			s.Close()
		}
	}()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders, readers sync.WaitGroup
	for _, s := range r.senders {
		senders.Go(func() { r.check(s.send(sending)) })
		readers.Go(func() { r.check(s.readAnswers()) })
	}
	result, err := r.measure(sending)
	stop()
	senders.Wait()
	if err == nil {
		r.settle()
	}
	for _, s := range r.senders {
		s.Close()
	}
	readers.Wait()
	return result, errors.Join(err, ctx.Err())
}

// prepare creates the group and connects its members.
func (r *groupRun) prepare(ctx context.Context) error {
	if err := r.addSender(0); err != nil {
		return err
	}
	if err := r.createGroup(); err != nil { // before the others log in: it is told to those on line, at length
		return err
	}
	for i := 1; i < r.o.Senders; i++ {
		if err := r.addSender(i); err != nil {
			return err
		}
	}
	each(ctx, r.o.Online, groupLogins, 0, func(i int, _ time.Time) bool {
		r.check(r.connect(i))
		if (i+1)%progressStep == 0 {
			r.o.Progress(i + 1)
		}
		return len(r.failed) == 0
	})
	select {
	case err := <-r.failed:
		return err
	default:
		return ctx.Err()
	}
}

func (r *groupRun) addSender(i int) error {
	u, err := login(r.o.URLs[i%len(r.o.URLs)], r.o.App, r.account(i), r.o.Secret, userOptions)
	if err != nil {
		return err
	}
	r.senders = append(r.senders, &groupSender{run: r, index: i, user: u, loop: newLoop(r.o.Rate, r.o.Window, i, r.o.Senders), refused: map[string]int64{}})
	return nil
}

func (r *groupRun) createGroup() error {
	req := &pb.GroupCreateReq{Name: "bench " + r.id}
	for i := range r.o.Members {
		req.Members = append(req.Members, r.account(i))
	}
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	s := r.senders[0]
	if err := s.request(wire.CmdGroupCreate, "", 1, body); err != nil {
		return fmt.Errorf("create a group of %d (a packet of %d bytes: is gateway.max_packet above it?): %w", r.o.Members, len(body), err)
	}
	for {
		p, err := s.next()
		if err != nil {
			return fmt.Errorf("create a group of %d (a packet of %d bytes: is gateway.max_packet above it?): %w", r.o.Members, len(body), err)
		}
		if p.Command != wire.CmdGroupCreate || p.Flag != wire.FlagResponse {
			continue
		}
		if p.Status != wire.StatusSuccess {
			return fmt.Errorf("create a group of %d: %s", r.o.Members, p.Status)
		}
		var resp pb.GroupCreateResp
		err = proto.Unmarshal(p.Body, &resp)
		r.group = resp.GroupId
		return err
	}
}

// groupLogins is how many members log in at a time.
const groupLogins = 32

// connect logs the i-th member on line in, as a receiver.
func (r *groupRun) connect(i int) error {
	t := r.targets[i%len(r.targets)]
	jwt, err := token.Issue(r.o.Secret, token.Claims{Account: r.account(i), App: r.o.App, Expires: time.Now().Add(tokenTTL)})
	if err != nil {
		return err
	}
	source, _ := t.sourceAddress(i/len(r.targets), 1+r.o.Online/20_000)
	s, err := dialSocket(t, source)
	if err != nil {
		return err
	}
	if err := s.signIn(jwt, "receiver"); err != nil {
		_ = s.Close()
		return err
	}
	return r.swarm.add(i, s)
}

// check notes the first error of a sender.
func (r *groupRun) check(err error) {
	if err != nil {
		select {
		case r.failed <- err:
		default:
		}
	}
}

func (r *groupRun) measure(ctx context.Context) (*GroupResult, error) {
	if err := r.wait(ctx, r.o.Warmup); err != nil {
		return nil, err
	}
	before, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	r.measured.begin()
	if err := r.wait(ctx, r.o.Duration); err != nil {
		return nil, err
	}
	r.measured.end()
	after, err := read(r.o.Processes)
	if err != nil {
		return nil, err
	}
	return &GroupResult{
		Members: r.o.Members, Online: r.o.Online, Senders: r.o.Senders, Window: r.o.Window, Rate: r.o.Rate, Size: r.o.Size,
		Seconds:  after.at.Sub(before.at).Seconds(),
		Messages: r.acked.Load(), Deliveries: r.deliveries.Load(),
		CPU:     after.cpuSince(before, r.o.Processes, r.deliveries.Load()),
		Refused: Refusals{},
	}, nil
}

func (r *groupRun) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-r.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until every message was answered and delivered to all, or settleWait.
func (r *groupRun) settle() {
	deadline := time.Now().Add(settleWait)
	for _, s := range r.senders {
		for s.underWay() > 0 && time.Now().Before(deadline) {
			time.Sleep(settlePoll)
		}
	}
}

func (s *groupSender) underWay() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.sent {
		if !m.refused && (!m.acked || m.left > 0) {
			n++
		}
	}
	return n
}

// send sends until ctx ends: in a closed loop, or at the moments that the rate gives, which count as
// the moments of sending even if it is late.
func (s *groupSender) send(ctx context.Context) error {
	padding := strings.Repeat("x", s.run.o.Size-MinSize)
	for n := 1; ; n++ {
		at, ok := s.loop.due(ctx)
		if !ok {
			return nil
		}
		text := fmt.Sprintf("%02x%06x", s.index, n) + padding
		body, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: text, ClientId: strconv.Itoa(n)})
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.sent = append(s.sent, groupSending{at: at, left: s.run.o.Online})
		s.mu.Unlock()
		if err := s.request(wire.CmdGroupTalk, s.run.group, uint32(n), body); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// readAnswers ends without error when the run closes the connection.
func (s *groupSender) readAnswers() error {
	for {
		m, err := s.next()
		if err != nil {
			return fmt.Errorf("%s: %w", s.account, err)
		}
		if m.Command == wire.CmdGroupTalk && m.Flag == wire.FlagResponse {
			s.answered(int(m.Sequence), m.Status)
		}
	}
}

func (s *groupSender) answered(n int, status wire.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 1 || n > len(s.sent) || s.sent[n-1].acked || s.sent[n-1].refused {
		return
	}
	m := &s.sent[n-1]
	if status != wire.StatusSuccess {
		m.refused = true
		s.refused[status.String()]++
		s.loop.done()
		return
	}
	m.acked = true
	if s.run.measured.has(m.at) {
		s.run.ack.record(s.index, time.Since(m.at))
	}
	if s.run.measured.runs() {
		s.run.acked.Add(1)
	}
	if m.left == 0 {
		s.loop.done()
	}
}

// received is called by the swarm with every packet of a receiver.
func (r *groupRun) received(i int, payload []byte) {
	seq, text, ok := parsePush(payload)
	if !ok {
		return
	}
	c := &r.receivers[i]
	if !c.take(seq) {
		return
	}
	sender, err1 := strconv.ParseUint(string(text[:2]), 16, 8)
	n, err2 := strconv.ParseUint(string(text[2:MinSize]), 16, 32)
	if err1 != nil || err2 != nil || int(sender) >= len(r.senders) {
		r.check(errors.New("a body was changed on the way"))
		return
	}
	if !r.senders[sender].delivered(i, int(n)) {
		c.doubled++ // stored twice: each has a seq of its own
	}
}

// delivered reports whether message n is new to the receiver.
func (s *groupSender) delivered(receiver, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 1 || n > len(s.sent) {
		return true
	}
	m := &s.sent[n-1]
	if !m.deliver(receiver, s.run.o.Online) {
		return false
	}
	if receiver%16 == 0 && s.run.measured.has(m.at) { // enough for a distribution
		s.run.deliver.record(receiver, time.Since(m.at))
	}
	if s.run.measured.runs() {
		s.run.deliveries.Add(1)
	}
	if m.left == 0 && m.acked {
		s.loop.done()
	}
	return true
}

// take notes a seq and reports whether it is new.
func (c *receiver) take(seq int64) bool {
	switch {
	case seq > c.highest:
		for s := c.highest + 1; s < seq; s++ {
			if c.missing == nil {
				c.missing = map[int64]struct{}{}
			}
			c.missing[s] = struct{}{}
		}
		c.highest = seq
	default:
		if _, ok := c.missing[seq]; !ok {
			c.doubled++
			return false
		}
		delete(c.missing, seq)
		c.reordered++
	}
	return true
}

// parsePush reads seq and body of a pushed group message, with as little work as will do.
func parsePush(payload []byte) (seq int64, text []byte, ok bool) {
	const start = 8 // magic and header length
	if wire.MagicOf(payload) != wire.MagicLogicPkt || len(payload) < start {
		return 0, nil, false
	}
	rest := payload[start:]
	n := int(binary.BigEndian.Uint32(payload[4:]))
	if len(rest) < n+4 || !bytes.Contains(rest[:n], []byte(wire.CmdGroupTalk)) {
		return 0, nil, false
	}
	const fieldBody, fieldSeq = 3, 16 // of MessagePush
	for body := rest[n+4:]; len(body) > 0; {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return 0, nil, false
		}
		body = body[n:]
		switch num {
		case fieldBody:
			text, n = protowire.ConsumeBytes(body)
		case fieldSeq:
			var v uint64
			v, n = protowire.ConsumeVarint(body)
			seq = int64(v)
		default:
			n = protowire.ConsumeFieldValue(num, typ, body)
		}
		if n < 0 {
			return 0, nil, false
		}
		body = body[n:]
	}
	return seq, text, seq > 0 && len(text) >= MinSize
}

// sum adds up what senders and receivers have counted, once all that still arrives has arrived.
func (r *groupRun) sum(res *GroupResult) {
	res.Ack, res.Deliver = r.ack.latency(), r.deliver.latency()
	var acked int64
	for _, s := range r.senders {
		for _, m := range s.sent {
			res.Sent++
			switch {
			case m.acked:
				acked++
				res.Lost += int64(m.left)
			case !m.refused:
				res.Unanswered++
			}
		}
		for status, n := range s.refused {
			res.Refused[status] += n
		}
	}
	res.Acked = acked
	for i := range r.receivers {
		res.Doubled += r.receivers[i].doubled
		res.Reordered += r.receivers[i].reordered
	}
	res.Dropped = r.swarm.dropped.Load()
	if why := r.swarm.failure.Load(); why != nil {
		res.Dropage = *why
	}
}
