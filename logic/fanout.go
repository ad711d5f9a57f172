package logic

import (
	"context"
	"slices"
	"strconv"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

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
	// large has a draft of each large group's audience, rosters the sessions of those of its members who are on line.
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
		if len(t.Members) > largeGroup && !t.Duplicate { // whose members may be a list of its own, made for it alone
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
	if len(r.begins) == 0 || d.look(r.accounts(), func(ctx context.Context) error { return r.find(ctx, d.locations) }) != nil {
		return
	}
	d.writes.Begin()
	defer d.writes.End()
	d.pushEach(batch, r)
}

// accounts is how many they are.
func (r *receivers) accounts() int {
	n := len(r.keys)
	for _, t := range r.large {
		n += len(t.Members)
	}
	return n
}

// find looks all of them up.
func (r *receivers) find(ctx context.Context, l *locations) (err error) {
	if len(r.keys) > 0 {
		if r.found, err = l.find(ctx, r.keys); err != nil {
			return err
		}
	}
	for _, t := range r.large {
		if r.rosters == nil {
			r.rosters = make(map[audience][][]storage.Session)
		}
		if r.rosters[audienceOf(t.Members)], err = l.online(ctx, rosterKey{t.App, t.Conversation}, t.Members); err != nil {
			return err
		}
	}
	return nil
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

// Bounds of what is pushed in one packet, so that it stays far below the limit of a link.
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
