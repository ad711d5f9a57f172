package verify

import (
	"errors"
	"time"

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

// seqInbox keeps a cursor for each conversation: the least that the extensions ask of a client. It
// drops what it has, and holds back what came early until a sync or a push has brought what is before it.
type seqInbox struct {
	device  *oracle.Device
	oracle  *oracle.Oracle
	cursors map[string]int64
	early   map[string]map[int64]*oracle.Delivery // nil: an own message, which is known
}

func newSeqInbox(d *oracle.Device, o *oracle.Oracle) *seqInbox {
	return &seqInbox{device: d, oracle: o, cursors: map[string]int64{}, early: map[string]map[int64]*oracle.Delivery{}}
}

func (b *seqInbox) catchUp(c *oldclient.Client) error {
	for {
		page, err := c.Sync(b.cursors, 0)
		if err != nil {
			return err
		}
		before := b.sum()
		for i := range page.Conversations {
			b.delta(&page.Conversations[i])
		}
		for _, conversation := range page.Gone {
			delete(b.cursors, conversation)
			delete(b.early, conversation)
		}
		if !page.More {
			return nil
		}
		if b.sum() == before {
			return errors.New("chat.sync has more but brings nothing")
		}
	}
}

// sum grows with every cursor that moves on or is new.
func (b *seqInbox) sum() (n int64) {
	for _, seq := range b.cursors {
		n += seq + 1
	}
	return n
}

func (b *seqInbox) delta(d *oldclient.Delta) {
	b.skip(d.Conversation, d.JoinedSeq)
	for _, m := range d.Messages {
		b.put(d.Conversation, m.Seq, &oracle.Delivery{
			Conversation: d.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID, Synced: true,
		})
	}
}

// skip moves a cursor on past what the account may not read.
func (b *seqInbox) skip(conversation string, seq int64) {
	if cursor, ok := b.cursors[conversation]; !ok || seq > cursor {
		b.cursors[conversation] = seq
		for early := range b.early[conversation] {
			if early <= seq {
				delete(b.early[conversation], early)
			}
		}
		b.drain(conversation)
	}
}

// pushed asks for a sync if it is the first that this device hears of a conversation, and not its
// beginning: nobody told it from where on the account may read.
func (b *seqInbox) pushed(m *oldclient.Message) (sync bool) {
	_, known := b.cursors[m.Conversation]
	b.put(m.Conversation, m.Seq, delivery(m))
	return !known && m.Seq > 1
}

func (b *seqInbox) answered(sent oldclient.Sent) { b.put(sent.Conversation, sent.Seq, nil) }

func (b *seqInbox) due(*oldclient.Client) error { return nil }

func (b *seqInbox) put(conversation string, seq int64, m *oracle.Delivery) {
	early := b.early[conversation]
	if early == nil {
		early = map[int64]*oracle.Delivery{}
		b.early[conversation] = early
	}
	_, held := early[seq]
	if held || seq <= b.cursors[conversation] {
		if m != nil {
			b.oracle.Repeated()
		} else if held {
			early[seq] = nil // the answer was first with the application
		}
		return
	}
	early[seq] = m
	b.drain(conversation)
}

// drain shows what has its turn.
func (b *seqInbox) drain(conversation string) {
	early := b.early[conversation]
	for {
		next := b.cursors[conversation] + 1
		m, ok := early[next]
		if !ok {
			return
		}
		delete(early, next)
		b.cursors[conversation] = next
		if m != nil {
			b.oracle.Delivered(b.device, *m)
		}
	}
}

func delivery(m *oldclient.Message) *oracle.Delivery {
	return &oracle.Delivery{Conversation: m.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID}
}

// idInbox is what a client of the fixed protocol does: after a login it reads the offline index since
// its last ack and the contents, it shows each message id once, and it acknowledges what it has shown.
type idInbox struct {
	device *oracle.Device
	oracle *oracle.Oracle
	shown  map[int64]struct{}
	// newest is the largest id that was shown, acked the last that was acknowledged.
	newest, acked int64
	ackAt         time.Time
}

const (
	// ackPause is how often an old client acknowledges.
	ackPause = 3 * time.Second
	// contentPage is how many contents it asks for at once.
	contentPage = 200
)

func newIDInbox(d *oracle.Device, o *oracle.Oracle) *idInbox {
	return &idInbox{device: d, oracle: o, shown: map[int64]struct{}{}}
}

func (b *idInbox) catchUp(c *oldclient.Client) error {
	list, err := c.OfflineIndexAll()
	if err != nil {
		return err
	}
	var ids []int64
	lines := map[int64]oldclient.Index{}
	for _, line := range list {
		if _, ok := b.shown[line.MessageID]; ok {
			continue
		}
		ids = append(ids, line.MessageID)
		lines[line.MessageID] = line
	}
	for len(ids) > 0 {
		n := min(len(ids), contentPage)
		contents, err := c.Content(ids[:n]...)
		if err != nil {
			return err
		}
		for _, x := range contents {
			b.show(x.MessageID, b.offline(lines[x.MessageID], x))
		}
		ids = ids[n:]
	}
	return nil
}

// offline puts a line of the index and its content together.
func (b *idInbox) offline(line oldclient.Index, x oldclient.Content) *oracle.Delivery {
	m := &oracle.Delivery{Conversation: line.Conversation, Seq: line.Seq, ID: x.MessageID, Body: x.Body, Sender: line.AccountB, Synced: true}
	if line.Direction == 1 {
		m.Sender = "" // its own account
	}
	return m
}

func (b *idInbox) pushed(m *oldclient.Message) (sync bool) {
	b.show(m.ID, delivery(m))
	return false
}

func (b *idInbox) show(id int64, m *oracle.Delivery) {
	b.newest = max(b.newest, id)
	if _, ok := b.shown[id]; ok {
		b.oracle.Repeated()
		return
	}
	b.shown[id] = struct{}{}
	if m.Sender == "" {
		return // what the account itself has sent: the oracle expects nothing of it
	}
	b.oracle.Delivered(b.device, *m)
}

func (b *idInbox) answered(sent oldclient.Sent) { b.shown[sent.MessageID] = struct{}{} }

func (b *idInbox) due(c *oldclient.Client) error {
	if b.newest == b.acked || time.Since(b.ackAt) < ackPause {
		return nil
	}
	b.ackAt = time.Now()
	if err := c.Ack(b.newest); err != nil {
		return err
	}
	b.acked = b.newest
	return nil
}
