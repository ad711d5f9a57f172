package oracle

import "fmt"

// Delivery is a message as a device shows it to its user.
type Delivery struct {
	Conversation string
	Seq, ID      int64
	Sender       string
	Body         string
	ClientID     string // "" if the device does not know
	// Synced: it was asked for; otherwise it was pushed.
	Synced bool
}

// Delivered judges what a device has shown.
func (o *Oracle) Delivered(d *Device, m Delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.Synced {
		o.counts.Synced++
	} else {
		o.counts.Live++
	}
	who := o.accounts[d.Account] + "/" + d.Name
	n, s, ok := o.identify(m.Body)
	if !ok || m.Sender != o.accounts[s.account] || m.ClientID != "" && (s.anon || m.ClientID != o.clientID(n)) {
		o.trouble(&o.counts.WrongReaders, "%s was shown what nobody sent so: id %d, seq %d of %s, sender %q", who, m.ID, m.Seq, m.Conversation, m.Sender)
		return
	}
	t := s.topic
	if why := t.members[d.Account].forbids(m.Seq, n); why != "" {
		o.trouble(&o.counts.WrongReaders, "%s was shown message %d, seq %d of %s, but %s", who, n, m.Seq, t.name, why)
		return
	}
	o.bind(t, m.Conversation)
	if !o.place(t, m.Seq, n, m.ID, "was shown to "+who) {
		return
	}
	v := d.views[t]
	if v == nil {
		return // it is leaving
	}
	o.judgeOrder(v, m.Seq, who)
	o.show(v, m.Seq)
}

// judgeOrder compares a message with what the device has shown before.
func (o *Oracle) judgeOrder(v *view, seq int64, who string) {
	switch {
	case v.lost[seq]:
		delete(v.lost, seq)
	case v.seen.has(seq):
		o.trouble(&o.counts.Doubled, "%s was shown seq %d of %s twice", who, seq, v.topic.name)
	case seq > v.last:
	case v.device.Kind == IDs:
		o.counts.Overtaken++
	default:
		o.trouble(&o.counts.Reordered, "%s was shown seq %d of %s after %d", who, seq, v.topic.name, v.last)
	}
	v.last = max(v.last, seq)
	if v.first == 0 || seq < v.first {
		v.first = seq
	}
}

// show notes that the device has a message, and tells the goals, which do not count the view of an
// account that is joining. mu is held.
func (o *Oracle) show(v *view, seq int64) {
	before := v.through
	v.seen.set(seq)
	v.advance()
	if v.through == before || v.topic.members[v.device.Account].joining {
		return
	}
	for _, g := range o.goals {
		g.moved(v, before)
	}
}

func (v *view) advance() {
	for v.seen.has(v.through + 1) {
		v.through++
	}
}

// forbids says why an account may not be shown message n at seq, or "".
func (s *span) forbids(seq int64, n int) string {
	switch {
	case s == nil:
		return "is no member"
	case seq <= s.after:
		return fmt.Sprintf("joined after seq %d", s.after)
	case s.left && n >= s.gone:
		return fmt.Sprintf("quit before message %d", s.gone)
	default:
		return ""
	}
}

// Joining notes that an account asks to join a topic: what is known by now is before its time.
func (o *Oracle) Joining(topic, account int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.topics[topic]
	t.members[account] = &span{after: int64(len(t.facts)), joining: true}
	for _, d := range o.devices {
		if d.Account == account {
			o.watch(d, t)
		}
	}
}

// Joined notes that it has joined, and reads what comes after this seq.
func (o *Oracle) Joined(topic, account int, after int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.topics[topic]
	s := t.members[account]
	if after < s.after {
		o.trouble(&o.counts.WrongReaders, "%s reads %s from seq %d on, but joined after seq %d", o.accounts[account], t.name, after+1, s.after)
	}
	s.after, s.joining = after, false
	for _, d := range o.devices {
		if v := d.views[t]; v != nil && d.Account == account {
			v.through = max(v.through, after)
			v.advance()
			t.views = append(t.views, v)
		}
	}
	o.recount()
}

// Leaving notes that an account asks to quit a topic: nothing more is expected of it there.
func (o *Oracle) Leaving(topic, account int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.topics[topic]
	t.members[account].leaving = true
	for _, d := range o.devices {
		if v := d.views[t]; v != nil && d.Account == account {
			delete(d.views, t)
			t.views = without(t.views, v)
		}
	}
	o.recount()
}

// Left notes that it has quit: what is sent from now on is not its to read.
func (o *Oracle) Left(topic, account int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.topics[topic].members[account]
	s.left, s.gone = true, len(o.sends)
}
