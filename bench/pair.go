package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// pair is a sender, a receiver, and what is known of each message of the sender's: those to the pair's
// own receiver, and with more conversations than pairs, those to the next pairs' by turns.
type pair struct {
	run      *talkRun
	index    int
	from, to *user
	loop     *loop
	underWay atomic.Int64

	mu        sync.Mutex
	sent      []sending // message n is at n-1; guarded by mu
	highest   []int     // delivered, by receiver; guarded by mu
	doubled   int64     // guarded by mu
	reordered int64     // guarded by mu
	refused   map[string]int64
}

// sending is one message.
type sending struct {
	at                        time.Time
	acked, delivered, refused bool
}

// senderOf and receiverOf are the accounts of a pair.
func (r *talkRun) senderOf(i int) string   { return fmt.Sprintf("bench-%s-a%d", r.id, i) }
func (r *talkRun) receiverOf(i int) string { return fmt.Sprintf("bench-%s-b%d", r.id, i%r.o.Pairs) }

func (r *talkRun) newPair(i int) (*pair, error) {
	from, err := login(r.o.URLs[i%len(r.o.URLs)], r.o.App, r.senderOf(i), r.o.Secret)
	if err != nil {
		return nil, err
	}
	to, err := login(r.o.URLs[(i+1)%len(r.o.URLs)], r.o.App, r.receiverOf(i), r.o.Secret)
	if err != nil {
		from.Close()
		return nil, err
	}
	return &pair{
		run: r, index: i, from: from, to: to, loop: newLoop(r.o.Rate, r.o.Window, i, r.o.Pairs),
		highest: make([]int, r.o.Conversations/r.o.Pairs), refused: map[string]int64{},
	}, nil
}

func (p *pair) send(ctx context.Context) error {
	padding := strings.Repeat("x", p.run.o.Size-MinSize)
	receivers := make([]string, len(p.highest))
	for i := range receivers {
		receivers[i] = p.run.receiverOf(p.index + i)
	}
	for n := 1; ; n++ {
		at, ok := p.loop.due(ctx)
		if !ok {
			return nil
		}
		text := fmt.Sprintf("%0*x", MinSize, n) + padding
		body, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: text, ClientId: strconv.Itoa(n)})
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.sent = append(p.sent, sending{at: at})
		p.mu.Unlock()
		p.underWay.Add(1)
		if err := p.from.request(wire.CmdUserTalk, receivers[(n-1)%len(receivers)], uint32(n), body); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if n == len(receivers) {
			p.run.warm <- struct{}{}
		}
	}
}

// done counts a message less under way.
func (p *pair) done() {
	p.underWay.Add(-1)
	p.loop.done()
}

// readAnswers ends without error when the run closes the connection.
func (p *pair) readAnswers() error {
	for {
		m, err := p.from.next()
		if err != nil {
			return fmt.Errorf("%s: %w", p.from.account, err)
		}
		if m.Command == wire.CmdUserTalk && m.Flag == wire.FlagResponse {
			p.answered(int(m.Sequence), m.Status)
		}
	}
}

func (p *pair) answered(n int, status wire.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) || p.sent[n-1].acked || p.sent[n-1].refused {
		return
	}
	s := &p.sent[n-1]
	if status != wire.StatusSuccess {
		s.refused = true
		p.refused[status.String()]++
		p.done()
		return
	}
	s.acked = true
	if p.run.measuring.Load() {
		p.run.ack.record(p.index, time.Since(s.at))
	}
	if s.delivered {
		p.done()
	}
}

// readPushes reads what the pair's receiver gets, of any sender.
func (p *pair) readPushes() error {
	for {
		m, err := p.to.next()
		if err != nil {
			return fmt.Errorf("%s: %w", p.to.account, err)
		}
		if m.Command != wire.CmdUserTalk || m.Flag != wire.FlagPush {
			continue
		}
		var push pb.MessagePush
		if err := proto.Unmarshal(m.Body, &push); err != nil {
			return err
		}
		n, err := strconv.ParseInt(push.Body[:min(MinSize, len(push.Body))], 16, 64)
		if err != nil {
			return fmt.Errorf("a body was changed on the way: %w", err)
		}
		if sender := p.run.senders[push.Sender]; sender != nil {
			sender.arrived(int(n))
		}
	}
}

func (p *pair) arrived(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 1 || n > len(p.sent) {
		return
	}
	s, highest := &p.sent[n-1], &p.highest[(n-1)%len(p.highest)]
	switch {
	case s.delivered:
		p.doubled++
		return
	case n < *highest:
		p.reordered++
	default:
		*highest = n
	}
	s.delivered = true
	p.run.delivered.Add(1)
	if p.run.measuring.Load() {
		p.run.deliver.record(p.index, time.Since(s.at))
	}
	if s.acked {
		p.done()
	}
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
