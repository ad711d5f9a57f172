package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// pair is a sender, a receiver, and what is known of each message of the sender's: those to the pair's
// own receiver, and with more conversations than pairs, those to the next pairs' by turns.
type pair struct {
	// Static after construction.
	run       *talkRun
	index     int
	from, to  *user
	receivers []string
	padding   string

	mu        sync.Mutex
	stopped   bool      // nothing more is sent
	sent      []sending // message n is at n-1
	underWay  int       // of those
	highest   []int     // delivered, by receiver
	doubled   int64
	reordered int64
	refused   map[string]int64
}

// sending is one message.
type sending struct {
	at                        time.Time // when it was sent, or due in an open loop
	acked, delivered, refused bool
}

// senderOf and receiverOf are the accounts of a pair.
func (r *talkRun) senderOf(i int) string   { return fmt.Sprintf("bench-%s-a%d", r.id, i) }
func (r *talkRun) receiverOf(i int) string { return fmt.Sprintf("bench-%s-b%d", r.id, i%r.o.Pairs) }

func (r *talkRun) newPair(i int) (*pair, error) {
	opts := r.pool.Options()
	from, err := login(r.o.URLs[i%len(r.o.URLs)], r.o.App, r.senderOf(i), r.o.Secret, opts)
	if err != nil {
		return nil, err
	}
	to, err := login(r.o.URLs[(i+1)%len(r.o.URLs)], r.o.App, r.receiverOf(i), r.o.Secret, opts)
	if err != nil {
		from.Close()
		return nil, err
	}
	p := &pair{
		run: r, index: i, from: from, to: to, padding: strings.Repeat("x", r.o.Size-MinSize),
		receivers: make([]string, r.o.Conversations/r.o.Pairs), refused: map[string]int64{},
	}
	p.highest = make([]int, len(p.receivers))
	for k := range p.receivers {
		p.receivers[k] = r.receiverOf(i + k)
	}
	return p, nil
}

// begin fills the window, which every message that is done fills again.
func (p *pair) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill()
}

// pace sends at a rate until ctx ends.
func (p *pair) pace(ctx context.Context, pace *pacer) error {
	for {
		at, ok := pace.next(ctx)
		if !ok {
			return nil
		}
		p.mu.Lock()
		err := p.send(at)
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// stop has nothing more sent.
func (p *pair) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// left is how many messages are under way.
func (p *pair) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.underWay
}

// fill sends as many messages as the window has room for. An error is the sender's, and not of the connection that is read. Locked.
func (p *pair) fill() {
	for p.underWay < p.run.o.Window && !p.stopped {
		if err := p.send(time.Now()); err != nil {
			p.run.check(err)
			return
		}
	}
}

// send sends the next message, which was due at that time. Locked.
func (p *pair) send(at time.Time) error {
	if p.stopped {
		return nil
	}
	n := len(p.sent) + 1
	text := fmt.Sprintf("%0*x", MinSize, n) + p.padding
	body, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: text, ClientId: strconv.Itoa(n)})
	if err != nil {
		return err
	}
	p.sent = append(p.sent, sending{at: at})
	p.underWay++
	if err := p.from.request(wire.CmdUserTalk, p.receivers[(n-1)%len(p.receivers)], uint32(n), body); err != nil {
		return fmt.Errorf("%s: send: %w", p.from.account, err)
	}
	if n == len(p.receivers) {
		p.run.warm <- struct{}{}
	}
	return nil
}

// done counts a message less under way. Locked.
func (p *pair) done() {
	p.underWay--
	p.fill()
}

// answer takes what the pair's sender gets.
func (p *pair) answer(m *wire.LogicPkt) error {
	if m.Command != wire.CmdUserTalk {
		return nil
	}
	if m.Flag != wire.FlagResponse {
		return p.run.push(p.from.account, m) // nothing is for a sender
	}
	n := int(m.Sequence)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) || p.sent[n-1].acked || p.sent[n-1].refused {
		return nil
	}
	s := &p.sent[n-1]
	if m.Status != wire.StatusSuccess {
		s.refused = true
		p.refused[m.Status.String()]++
		p.done()
		return nil
	}
	s.acked = true
	if p.run.measured.has(s.at) {
		p.run.ack.record(p.index, time.Since(s.at))
	}
	if s.delivered {
		p.done()
	}
	return nil
}

// push takes what the pair's receiver gets, of any sender.
func (p *pair) push(m *wire.LogicPkt) error { return p.run.push(p.to.account, m) }

// push takes what an account gets.
func (r *talkRun) push(account string, m *wire.LogicPkt) error {
	if m.Command != wire.CmdUserTalk || m.Flag != wire.FlagPush {
		return nil
	}
	var push pb.MessagePush
	if err := proto.Unmarshal(m.Body, &push); err != nil {
		return err
	}
	n, err := strconv.ParseInt(push.Body[:min(MinSize, len(push.Body))], 16, 64)
	if err != nil {
		return fmt.Errorf("a body was changed on the way: %w", err)
	}
	if sender := r.senders[push.Sender]; sender == nil || !sender.arrived(int(n), account) {
		r.misdirected.Add(1)
		what := fmt.Sprintf("%s got message %d of %s", account, n, push.Sender)
		r.misdirection.CompareAndSwap(nil, &what)
	}
	return nil
}

// arrived notes that an account has got message n, and reports whether it is for it.
func (p *pair) arrived(n int, account string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) || account != p.receivers[(n-1)%len(p.receivers)] {
		return false
	}
	s, highest := &p.sent[n-1], &p.highest[(n-1)%len(p.highest)]
	switch {
	case s.delivered:
		p.doubled++
		return true
	case n < *highest:
		p.reordered++
	default:
		*highest = n
	}
	s.delivered = true
	p.run.delivered.Add(1)
	if p.run.measured.has(s.at) {
		p.run.deliver.record(p.index, time.Since(s.at))
	}
	if s.acked {
		p.done()
	}
	return true
}

// sum adds the pair's counts to the result.
func (p *pair) sum(r *TalkResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sent {
		r.Sent++
		switch {
		case s.acked && !s.delivered:
			r.Lost++
		case !s.acked && !s.refused:
			r.Unanswered++
		}
		if s.acked {
			r.Acked++
		}
	}
	r.Doubled += p.doubled
	r.Reordered += p.reordered
	for status, n := range p.refused {
		r.Refused[status] += n
	}
}
