package oracle

import (
	"fmt"
	"slices"
)

// Goal is that the devices have everything up to a seq of each topic.
type Goal struct {
	o      *Oracle
	until  map[*topic]int64
	steady bool
	left   int // views that are behind; guarded by Oracle.mu
	done   chan struct{}
}

// NewGoal is reached when every device, or every steady one, has everything that is known by now.
// Each is ended with Drop.
func (o *Oracle) NewGoal(steady bool) *Goal {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := &Goal{o: o, until: map[*topic]int64{}, steady: steady, done: make(chan struct{})}
	for _, t := range o.topics {
		g.until[t] = int64(len(t.facts))
	}
	o.goals = append(o.goals, g)
	g.count()
	return g
}

// Raise moves the goal to this seq of a conversation, if it is less far.
func (g *Goal) Raise(conversation string, seq int64) {
	g.o.mu.Lock()
	defer g.o.mu.Unlock()
	if t := g.o.byID[conversation]; t != nil && seq > g.until[t] {
		g.until[t] = seq
		g.count()
	}
}

// Done is closed when the goal is reached; after a Raise it is another one.
func (g *Goal) Done() <-chan struct{} {
	g.o.mu.Lock()
	defer g.o.mu.Unlock()
	return g.done
}

// Behind says who is behind, in words: how many devices, and what some of them lack.
func (g *Goal) Behind(some int) (devices int, lacks []string) {
	g.o.mu.Lock()
	defer g.o.mu.Unlock()
	behind := map[*Device]bool{}
	for t, until := range g.until {
		for _, v := range t.views {
			if !g.behind(v, v.through) || behind[v.device] {
				continue
			}
			behind[v.device] = true
			if len(lacks) < some {
				lacks = append(lacks, fmt.Sprintf("%s/%s lacks seq %d to %d of %s", g.o.accounts[v.device.Account], v.device.Name, v.through+1, until, t.name))
			}
		}
	}
	return len(behind), lacks
}

// Drop ends the goal.
func (g *Goal) Drop() {
	g.o.mu.Lock()
	defer g.o.mu.Unlock()
	g.o.goals = without(g.o.goals, g)
}

func (g *Goal) behind(v *view, through int64) bool {
	return through < g.until[v.topic] && (v.device.Steady || !g.steady)
}

// moved notes that a view has moved on from before.
func (g *Goal) moved(v *view, before int64) {
	if g.behind(v, before) && !g.behind(v, v.through) {
		if g.left--; g.left == 0 {
			close(g.done)
		}
	}
}

// count counts anew. mu is held.
func (g *Goal) count() {
	g.left = 0
	for t := range g.until {
		for _, v := range t.views {
			if g.behind(v, v.through) {
				g.left++
			}
		}
	}
	select {
	case <-g.done:
		if g.left > 0 {
			g.done = make(chan struct{})
		}
	default:
		if g.left == 0 {
			close(g.done)
		}
	}
}

func (o *Oracle) recount() {
	for _, g := range o.goals {
		g.count()
	}
}

// Audit compares with what is stored. It expects what was known when it began.
type Audit struct {
	o     *Oracle
	whole bool
	until map[*topic]int64
}

// NewAudit begins an audit, of everything or of what no audit has seen.
func (o *Oracle) NewAudit(whole bool) *Audit {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := &Audit{o: o, whole: whole, until: map[*topic]int64{}}
	for _, t := range o.topics {
		a.until[t] = int64(len(t.facts))
		for i := range t.facts[a.from(t):] {
			t.facts[a.from(t)+int64(i)].stored = false
		}
	}
	return a
}

// from is the seq behind which the audit looks.
func (a *Audit) from(t *topic) int64 {
	if a.whole {
		return 0
	}
	return t.checked
}

// From returns, for each conversation that is known, the seq behind which the audit looks.
func (a *Audit) From() map[string]int64 {
	a.o.mu.Lock()
	defer a.o.mu.Unlock()
	from := map[string]int64{}
	for id, t := range a.o.byID {
		from[id] = a.from(t)
	}
	return from
}

// Row is a stored message.
type Row struct {
	Conversation string
	Seq, ID      int64
	Sender       string
	Body         string
	ClientID     string
}

// Stored takes a stored message.
func (a *Audit) Stored(r Row) {
	o := a.o
	o.mu.Lock()
	defer o.mu.Unlock()
	n, s, ok := o.identify(r.Body)
	if !ok || r.Sender != o.accounts[s.account] || (r.ClientID != "") == s.anon || r.ClientID != "" && r.ClientID != o.clientID(n) {
		o.trouble(&o.counts.WrongReaders, "stored is what nobody sent so: id %d, seq %d of %s, sender %q", r.ID, r.Seq, r.Conversation, r.Sender)
		return
	}
	o.bind(s.topic, r.Conversation)
	if o.place(s.topic, r.Seq, n, r.ID, "is stored") {
		s.topic.facts[r.Seq-1].stored = true
		s.stored = true
	}
}

// Done judges, when all that is stored was taken.
func (a *Audit) Done() {
	o := a.o
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.topics {
		from := a.from(t)
		until := max(a.until[t], t.stored(from))
		for seq := from + 1; seq <= until; seq++ {
			switch f := &t.facts[seq-1]; {
			case !f.known:
				o.trouble(&o.counts.Gaps, "%s: no message has seq %d, the last is %d", t.name, seq, until)
			case !f.stored:
				o.trouble(&o.counts.NotStored, "%s: message %d with seq %d was answered or shown, but is not stored", t.name, f.n, seq)
			}
		}
		t.checked = max(t.checked, until)
	}
}

// stored is the last seq that is stored, or from.
func (t *topic) stored(from int64) int64 {
	for seq := int64(len(t.facts)); seq > from; seq-- {
		if t.facts[seq-1].stored {
			return seq
		}
	}
	return from
}

// Judge ends a row: what devices lack of the goal is lost, what has no outcome is an error. It
// returns what was counted since the last time, and some troubles in words.
func (o *Oracle) Judge(g *Goal) (Counts, []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.topics {
		for _, v := range t.views {
			o.writeOff(v, g.until[t])
		}
	}
	o.judgeJoins()
	o.judgeSends()
	counts, examples := o.counts, o.examples
	o.counts, o.examples = Counts{}, nil
	return counts, examples
}

// writeOff counts what a device lacks, once.
func (o *Oracle) writeOff(v *view, until int64) {
	until = min(until, int64(len(v.topic.facts)))
	for seq := v.through + 1; seq <= until; seq++ {
		f := &v.topic.facts[seq-1]
		if v.seen.has(seq) || !f.known {
			continue // one that nobody knows is a gap
		}
		o.trouble(&o.counts.Lost, "%s/%s lacks message %d, seq %d of %s", o.accounts[v.device.Account], v.device.Name, f.n, seq, v.topic.name)
		if v.lost == nil {
			v.lost = map[int64]bool{}
		}
		v.lost[seq] = true
	}
	for seq := v.through + 1; seq <= until; seq++ {
		o.show(v, seq)
	}
}

// judgeJoins looks at what was shown before it was known from where on an account may read.
func (o *Oracle) judgeJoins() {
	for _, t := range o.topics {
		for _, v := range t.views {
			if s := t.members[v.device.Account]; s != nil && v.first != 0 && v.first <= s.after {
				o.trouble(&o.counts.WrongReaders, "%s/%s was shown seq %d of %s, but joined after seq %d",
					o.accounts[v.device.Account], v.device.Name, v.first, t.name, s.after)
				v.first = s.after + 1
			}
		}
	}
}

// judgeSends looks at the sends that were not answered.
func (o *Oracle) judgeSends() {
	if o.open > 0 {
		for n := range o.sends {
			if s := &o.sends[n]; s.outcome == pending {
				s.outcome = overdue
				o.doubtful = append(o.doubtful, n)
				o.trouble(&o.counts.Errors, "%s: message %d of %s has no outcome", s.topic.name, n, o.accounts[s.account])
			}
		}
	}
	o.doubtful = slices.DeleteFunc(o.doubtful, func(n int) bool {
		s := &o.sends[n]
		if s.stored && s.outcome != answered {
			o.counts.Unanswered++
		}
		return s.stored || s.outcome == answered
	})
}
