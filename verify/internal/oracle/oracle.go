package oracle

import (
	"fmt"
	"sync"
)

// Oracle knows every message that was sent and what each device has shown. Its methods are safe for
// concurrent use.
//
// A message is known by its number, which is in its body and in its client id, so that a delivery
// can be judged by itself. A place is a seq of a conversation: whoever speaks of it first, be it an
// answer, a delivery or the database, says which message is there, and all others must agree.
type Oracle struct {
	// Static after construction.
	run      string
	accounts []string

	mu      sync.Mutex
	topics  []*topic
	byID    map[string]*topic // by the server's id of the conversation, once that is known
	sends   []send            // by number
	devices []*Device
	goals   []*Goal
	// open is how many sends have no outcome; idle is closed while it is 0.
	open int
	idle chan struct{}
	// doubtful are sends without an answer, of which the database has not told yet.
	doubtful []int

	counts   Counts
	examples []string
	acked    int64 // ever
}

// Counts are what was seen since the last Take. The troubles are explained where they are counted.
type Counts struct {
	Sent, Acked, Live, Synced int64

	Lost, Doubled, Reordered, Gaps, TwoIDs, NotStored, WrongReaders, Errors int64

	Unanswered, Unknown, Repeated, Overtaken int64
}

// maxExamples bounds the troubles that are kept in words.
const maxExamples = 20

// outcome is the final outcome of a send.
type outcome uint8

const (
	pending outcome = iota
	answered
	failed
	unknown // its protocol does not let the sender find out
	overdue // still none when a row was settled
)

// send is one message.
type send struct {
	topic   *topic
	account int
	anon    bool // it has no client id
	outcome outcome
	stored  bool
	// id and seq are what whoever was first said of it; 0: nobody yet.
	id, seq int64
}

// topic is a conversation.
type topic struct {
	name         string
	conversation string        // the server's id; "" until it is known
	members      map[int]*span // by account
	views        []*view
	facts        []fact // by seq-1
	checked      int64  // an audit has looked at all up to here
}

// span is the part of a topic that an account may read.
type span struct {
	// after is the seq before the first one. While joining it is only the least that it can be.
	after   int64
	joining bool
	// leaving: it has asked to quit, and perhaps nobody has said that it has.
	leaving bool
	// left: it has quit, before message number gone was sent.
	left bool
	gone int
}

// fact is which message is at a place.
type fact struct {
	known, stored bool
	n             int
	id            int64
}

// Kind says how a device orders what it shows.
type Kind uint8

const (
	// Seqs is by the seq of each conversation: its application sees all, without a gap.
	Seqs Kind = iota
	// IDs is by message id, which is all that a client of the fixed protocol knows. It is not sent
	// what its own account says.
	IDs
)

// Device is one device of an account.
type Device struct {
	Account int // its index
	Name    string
	Kind    Kind
	// Steady devices stay on line by themselves: goals of convergence count them alone.
	Steady bool

	views map[*topic]*view // guarded by Oracle.mu
}

// view is what a device has of a topic.
type view struct {
	device *Device
	topic  *topic
	seen   bits
	// through: nothing is missing up to here. last is the largest shown, first the smallest.
	through, last, first int64
	// said and saidSeq are the latest message that the device itself has sent.
	said    int
	saidSeq int64
	// lost are those that were given up: one that comes after all is not doubled.
	lost map[int64]bool
}

// New makes the oracle of a run, whose name is the first word of each body, and of accounts with
// these names.
func New(run string, accounts []string) *Oracle {
	idle := make(chan struct{})
	close(idle)
	return &Oracle{run: run, accounts: accounts, byID: map[string]*topic{}, idle: idle}
}

// Topic adds a conversation of these accounts and returns its number. The server's id of it may be
// empty while it is not known.
func (o *Oracle) Topic(name, conversation string, members ...int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &topic{name: name, members: map[int]*span{}}
	for _, account := range members {
		t.members[account] = &span{}
	}
	o.topics = append(o.topics, t)
	if conversation != "" {
		o.bind(t, conversation)
	}
	for _, d := range o.devices {
		o.watch(d, t)
	}
	o.recount()
	return len(o.topics) - 1
}

// Open adds a device, which has to show everything from now on.
func (o *Oracle) Open(d *Device) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d.views = map[*topic]*view{}
	o.devices = append(o.devices, d)
	for _, t := range o.topics {
		o.watch(d, t)
	}
	o.recount()
}

// Close takes a device out: nothing more is expected of it.
func (o *Oracle) Close(d *Device) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.devices = without(o.devices, d)
	for t, v := range d.views {
		t.views = without(t.views, v)
	}
	o.recount()
}

// watch gives a device its view of a topic, if it may read it. Nothing is expected of the view
// while the account is joining.
func (o *Oracle) watch(d *Device, t *topic) {
	s := t.members[d.Account]
	if s == nil || s.leaving {
		return
	}
	v := &view{device: d, topic: t, through: s.after}
	d.views[t] = v
	if !s.joining {
		t.views = append(t.views, v)
	}
	if d.Kind == IDs {
		for seq, f := range t.facts {
			if f.known && o.sends[f.n].account == d.Account {
				v.seen.set(int64(seq) + 1)
			}
		}
	}
	v.advance()
}

func without[T comparable](list []T, x T) []T {
	out := list[:0]
	for _, y := range list {
		if y != x {
			out = append(out, y)
		}
	}
	return out
}

// bind notes the server's id of a conversation: one id, one conversation.
func (o *Oracle) bind(t *topic, conversation string) {
	switch other := o.byID[conversation]; {
	case conversation == "" || other == t:
	case other != nil:
		o.trouble(&o.counts.TwoIDs, "conversation %s is both %s and %s", conversation, other.name, t.name)
	case t.conversation != "":
		o.trouble(&o.counts.TwoIDs, "%s is both conversation %s and %s", t.name, t.conversation, conversation)
	default:
		t.conversation = conversation
		o.byID[conversation] = t
	}
}

// trouble counts one, and keeps some in words. mu is held.
func (o *Oracle) trouble(counter *int64, format string, args ...any) {
	*counter++
	if len(o.examples) < maxExamples {
		o.examples = append(o.examples, fmt.Sprintf(format, args...))
	}
}

// Repeated notes that a device dropped what it had.
func (o *Oracle) Repeated() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts.Repeated++
}

// Acked is how many sends were answered with success, ever.
func (o *Oracle) Acked() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

// Error notes a final outcome that is one, other than of a send.
func (o *Oracle) Error(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trouble(&o.counts.Errors, format, args...)
}

// bits are a set of seqs.
type bits []uint64

func (b *bits) set(seq int64) {
	for int64(len(*b))*64 <= seq {
		*b = append(*b, 0)
	}
	(*b)[seq/64] |= 1 << (seq % 64)
}

func (b bits) has(seq int64) bool {
	return seq/64 < int64(len(b)) && b[seq/64]&(1<<(seq%64)) != 0
}
