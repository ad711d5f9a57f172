package oracle

import (
	"fmt"
	"strconv"
	"strings"
)

// maxPadding is the most that is added to a body, so that bodies have several lengths.
const maxPadding = 200

// body is what message n says: run, number, topic and sender, and some more.
func (o *Oracle) body(n, topic, account int) string {
	return fmt.Sprintf("%s:%d:%d:%d:%s", o.run, n, topic, account, padding[:n*7919%maxPadding])
}

var padding = strings.Repeat(".", maxPadding)

// clientID is the client id of message n.
func (o *Oracle) clientID(n int) string { return o.run + "-" + strconv.Itoa(n) }

// identify finds out which message a body is; false if it is none of this run, or not as it was sent.
// mu is held.
func (o *Oracle) identify(body string) (n int, s *send, ok bool) {
	parts := strings.SplitN(body, ":", 5)
	if len(parts) != 5 || parts[0] != o.run {
		return 0, nil, false
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil || n < 0 || n >= len(o.sends) {
		return 0, nil, false
	}
	s = &o.sends[n]
	number, err := strconv.Atoi(parts[2])
	if err != nil || number < 0 || number >= len(o.topics) || o.topics[number] != s.topic {
		return 0, nil, false
	}
	return n, s, body == o.body(n, number, s.account)
}

// Send begins a message and returns its number, body and client id. anon is for clients whose
// protocol has no client id.
func (o *Oracle) Send(topic, account int, anon bool) (n int, body, clientID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = len(o.sends)
	o.sends = append(o.sends, send{topic: o.topics[topic], account: account, anon: anon})
	o.counts.Sent++
	if o.open++; o.open == 1 {
		o.idle = make(chan struct{})
	}
	return n, o.body(n, topic, account), o.clientID(n)
}

// Idle is closed when every send has its outcome.
func (o *Oracle) Idle() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.idle
}

// Answer is the success of a send.
type Answer struct {
	ID, Seq      int64
	Conversation string
	// By is the device that sent it.
	By *Device
	// Shown: the device shows the message now; otherwise it will be given it like any other.
	Shown bool
	// InOrder: the device sends its messages to a conversation one after the other.
	InOrder bool
}

// Answered notes a success, the first or that of a repetition, which must say the same.
func (o *Oracle) Answered(n int, a Answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.sends[n]
	if s.outcome != answered {
		o.conclude(s, answered)
		o.counts.Acked++
		o.acked++
	}
	o.bind(s.topic, a.Conversation)
	if !o.place(s.topic, a.Seq, n, a.ID, "was answered") {
		return
	}
	v := a.By.views[s.topic]
	if v == nil {
		return
	}
	if a.InOrder {
		o.judgeSending(v, n, a.Seq)
	}
	if a.Shown {
		o.show(v, a.Seq)
	}
}

// judgeSending compares with the latest that the device has said: what is said later is stored later.
func (o *Oracle) judgeSending(v *view, n int, seq int64) {
	if n > v.said && seq < v.saidSeq || n < v.said && seq > v.saidSeq {
		o.trouble(&o.counts.Reordered, "%s/%s said message %d, which is seq %d of %s, and message %d, which is seq %d",
			o.accounts[v.device.Account], v.device.Name, n, seq, v.topic.name, v.said, v.saidSeq)
	}
	if seq > v.saidSeq {
		v.said, v.saidSeq = n, seq
	}
}

// Failed notes that a send ended with an error that its application sees.
func (o *Oracle) Failed(n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.sends[n]
	o.trouble(&o.counts.Errors, "%s: message %d of %s: %v", s.topic.name, n, o.accounts[s.account], err)
	o.conclude(s, failed)
	o.doubtful = append(o.doubtful, n)
}

// Unknown notes that a send without client id ended with its connection.
func (o *Oracle) Unknown(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts.Unknown++
	o.conclude(&o.sends[n], unknown)
	o.doubtful = append(o.doubtful, n)
}

func (o *Oracle) conclude(s *send, as outcome) {
	if s.outcome == pending || s.outcome == overdue {
		if o.open--; o.open == 0 {
			close(o.idle)
		}
	}
	s.outcome = as
}

// place notes which message is at a seq, and reports whether that agrees with what is known. mu is held.
func (o *Oracle) place(t *topic, seq int64, n int, id int64, how string) bool {
	if seq < 1 || seq > int64(len(t.facts))+maxJump {
		o.trouble(&o.counts.TwoIDs, "%s: message %d %s with seq %d", t.name, n, how, seq)
		return false
	}
	s, f := &o.sends[n], fact{}
	if seq <= int64(len(t.facts)) {
		f = t.facts[seq-1]
	}
	switch {
	case f.known && (f.n != n || f.id != id):
		o.trouble(&o.counts.TwoIDs, "%s: message %d %s with id %d at seq %d, where message %d with id %d is", t.name, n, how, id, seq, f.n, f.id)
		return false
	case f.known:
		return true
	case s.seq != 0:
		o.trouble(&o.counts.TwoIDs, "%s: message %d %s with id %d and seq %d, but has id %d and seq %d", t.name, n, how, id, seq, s.id, s.seq)
		return false
	}
	for int64(len(t.facts)) < seq {
		t.facts = append(t.facts, fact{})
	}
	t.facts[seq-1] = fact{known: true, n: n, id: id}
	s.id, s.seq = id, seq
	o.checkIDs(t, seq)
	for _, v := range t.views {
		if v.device.Kind == IDs && v.device.Account == s.account {
			o.show(v, seq)
		}
	}
	return true
}

// maxJump is how far beyond what is known a seq may be: a wild one must not take all memory.
const maxJump = 1 << 20

// checkIDs compares the id at seq with its neighbours': ids grow with seq.
func (o *Oracle) checkIDs(t *topic, seq int64) {
	for _, lower := range []int64{seq - 1, seq} {
		if lower < 1 || lower >= int64(len(t.facts)) {
			continue
		}
		a, b := &t.facts[lower-1], &t.facts[lower]
		if a.known && b.known && a.id >= b.id {
			o.trouble(&o.counts.Reordered, "%s: id %d at seq %d, id %d at seq %d", t.name, a.id, lower, b.id, lower+1)
		}
	}
}
