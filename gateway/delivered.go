package gateway

import (
	"cmp"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// deliveries are the messages that a client without cursors was sent and that are not acknowledged:
// runs in the order in which they were queued. Only the gateway knows that order, and an ack of a message
// counts for what was sent up to it (docs/decisions/0005). What the list forgets is not lost: nobody
// acknowledges it, and it is in the client's next offline index. The zero value is an empty list.
//
// Runs that follow each other and have the same MessageID were sent together.
//
//	MessageID > 0  a push or an answer to a talk, of this message; or a page of the index that has come, up to this message
//	MessageID < 0  a page, up to -MessageID, that may still be on its way: an ack may be of what the client had before
//	MessageID = 0  merged: in which order they were sent is forgotten
//
// A run takes 32 bytes.
type deliveries struct {
	runs []wire.Delivered
	// mergeAt is the number of runs at which the oldest are merged; 0 is 2 * keptApart.
	mergeAt int

	// unread: the client's last request for a page of the index was for what it has not acknowledged,
	// and read is the id up to which it has had that, while it goes on; 0 otherwise.
	unread bool
	read   int64
}

const (
	// keptApart is how many of the newest runs are never merged, so that an ack of one of them counts.
	// A client that has twice as many messages to acknowledge takes 18 KiB. Existing clients
	// acknowledge every 3 s.
	keptApart = 256
	// maxRuns bounds a client's list, to 128 KiB after a merge; the oldest go first. A page of the index has at most a
	// run a line (limits.offline_page).
	maxRuns = 4096
)

// add notes what has just been queued.
func (d *deliveries) add(runs []wire.Delivered, page bool) {
	if page && d.unread {
		d.read = runs[0].MessageID
	}
	for _, r := range runs {
		if page {
			r.MessageID = -r.MessageID
		}
		d.runs = append(d.runs, r)
	}
	if len(d.runs) >= max(d.mergeAt, 2*keptApart) {
		d.merge()
	}
}

// merge joins the oldest runs of each conversation and forgets when they were sent.
func (d *deliveries) merge() {
	n := max(0, len(d.runs)-keptApart)
	for n > 0 && d.runs[n-1].MessageID == d.runs[n].MessageID {
		n-- // sent together
	}
	old := slices.Clone(d.runs[:n])
	slices.SortFunc(old, func(a, b wire.Delivered) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.From, b.From))
	})
	merged := old[:0]
	for _, r := range old {
		r.MessageID = 0
		if last := len(merged) - 1; last >= 0 && merged[last].Conversation == r.Conversation && r.From <= merged[last].To+1 {
			merged[last].To = max(merged[last].To, r.To)
		} else {
			merged = append(merged, r)
		}
	}
	all := slices.Concat(merged, d.runs[n:])
	d.runs = slices.Clone(all[max(0, len(all)-maxRuns):])
	d.mergeAt = len(d.runs) + keptApart
}

// asksForPage notes a request for the page of the index above an id, and returns what a logic node
// is told with it: whether the client goes on reading what it has not acknowledged.
func (d *deliveries) asksForPage(after int64) []wire.Delivered {
	d.arrived()
	d.unread = after <= 0 || after == d.read
	if after <= 0 || !d.unread {
		return nil
	}
	return []wire.Delivered{{MessageID: after}}
}

// arrived notes that the client has asked for what comes after the pages so far, which it has by that.
// Clients read their index one answer after the other.
func (d *deliveries) arrived() {
	for i := range d.runs {
		d.runs[i].MessageID = max(d.runs[i].MessageID, -d.runs[i].MessageID)
	}
}

// all is what a logic node is told with an ack.
func (d *deliveries) all() []wire.Delivered {
	out := slices.Clone(d.runs)
	for i := range out {
		out[i].MessageID = max(out[i].MessageID, 0)
	}
	return out
}

// forget removes what is acknowledged: of each conversation, sorted by id, up to To.
func (d *deliveries) forget(acked []wire.Delivered) {
	d.runs = slices.DeleteFunc(d.runs, func(r wire.Delivered) bool {
		i, ok := slices.BinarySearchFunc(acked, r.Conversation, func(a wire.Delivered, id int64) int { return cmp.Compare(a.Conversation, id) })
		return ok && r.To <= acked[i].To
	})
	if cap(d.runs) > 4*keptApart && cap(d.runs) > 2*len(d.runs) {
		d.runs, d.mergeAt = slices.Clone(d.runs), 0
	}
}

// acks reports whether the client acknowledges what it is sent; those that keep cursors need not.
func (s *session) acks() bool { return !s.features.Has(wire.FeatureSync) }

// deliver is push for a packet that holds messages, and notes them if the client will acknowledge
// them: under one lock, because the order of the list is that of the queue.
func (s *session) deliver(payload []byte, runs []wire.Delivered, page bool) error {
	if len(runs) == 0 || !s.acks() {
		return s.push(payload)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.queue(payload); err != nil {
		return err
	}
	s.list().add(runs, page)
	return nil
}

// deliverAll is deliver for several packets of one message each, or of which nothing is noted: runs is empty then.
func (s *session) deliverAll(payloads [][]byte, runs []wire.Delivered) error {
	if len(runs) == 0 || !s.acks() {
		return s.pushAll(payloads)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.queueAll(payloads); err != nil {
		return err
	}
	s.list().add(runs, false)
	return nil
}

// list is the session's list, for who holds mu.
func (s *session) list() *deliveries {
	if s.delivered == nil {
		s.delivered = new(deliveries)
	}
	return s.delivered
}

// tidy gives back a list that says nothing, for who holds mu.
func (s *session) tidy() {
	if d := s.delivered; d != nil && len(d.runs) == 0 && d.read == 0 {
		s.delivered = nil
	}
}

// answer queues an answer to what the client has asked. What that holds of messages is in the
// header's Delivered, which clients do not see, but for the client's own new message.
func (s *session) answer(p *wire.LogicPkt) error {
	runs := p.Delivered
	p.Link = wire.Link{}
	switch {
	case !s.acks() || p.Status != wire.StatusSuccess:
		runs = nil
	case p.Command == wire.CmdUserTalk || p.Command == wire.CmdGroupTalk:
		runs = ownMessage(p.Body)
	case p.Command == wire.CmdTalkAck:
		s.acknowledged(runs)
		runs = nil
	case p.Command == wire.CmdOfflineIndex && len(runs) == 0:
		s.readAll()
	}
	return s.deliver(encode(p), runs, p.Command == wire.CmdOfflineIndex)
}

// acknowledged forgets what is acknowledged.
func (s *session) acknowledged(acked []wire.Delivered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivered != nil {
		s.delivered.forget(acked)
		s.tidy()
	}
}

// readAll notes that the client has read its index.
func (s *session) readAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivered != nil {
		s.delivered.read = 0
		s.tidy()
	}
}

// ownMessage is what a client learns by the answer to its talk.
func ownMessage(body []byte) []wire.Delivered {
	var m pb.MessageResp
	if proto.Unmarshal(body, &m) != nil {
		return nil
	}
	id, err := strconv.ParseInt(m.Conversation, 10, 64)
	if err != nil {
		return nil
	}
	return []wire.Delivered{{Conversation: id, From: m.Seq, To: m.Seq, MessageID: m.MessageId}}
}

// asks notes a request of the client and returns what a logic node is told with it.
func (s *session) asks(cmd wire.Command, body []byte) []wire.Delivered {
	if !s.acks() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case cmd == wire.CmdOfflineIndex:
		var req pb.MessageIndexReq
		_ = proto.Unmarshal(body, &req) // otherwise logic refuses it
		return s.list().asksForPage(req.MessageId)
	case s.delivered == nil:
	case cmd == wire.CmdOfflineContent:
		s.delivered.arrived()
	case cmd == wire.CmdTalkAck:
		return s.delivered.all()
	}
	return nil
}
