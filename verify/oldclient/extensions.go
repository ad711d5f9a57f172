package oldclient

// FeatureSync is announced by who keeps a cursor for each conversation.
const FeatureSync = "sync"

// Field numbers of client_id in MessageReq and MessagePush.
const (
	fieldClientID     = 16
	fieldPushClientID = 18
)

// Device is what the extensions add to a login. The zero value is an old client's.
type Device struct {
	Name, Platform string
	Features       []string
	// Instance is the same for all connections of one client, Attempt grows with each.
	Instance string
	Attempt  uint64
}

func (d Device) append(body *message) {
	body.string(16, d.Name)
	body.string(17, d.Platform)
	body.strings(18, d.Features)
	body.string(19, d.Instance)
	body.int(20, int64(d.Attempt))
}

// Stored is a message as chat.sync and chat.history tell it.
type Stored struct {
	ID, Seq  int64
	Sender   string
	SendTime int64
	Type     int32
	Body     string
	Extra    string
	ClientID string
}

// Delta is what a sync says of one conversation.
type Delta struct {
	Conversation, Peer, Group string
	LastSeq, JoinedSeq        int64
	Messages                  []Stored
}

// SyncPage is one page of a sync.
type SyncPage struct {
	Conversations []Delta
	More          bool
	// Gone are the cursors of conversations that are not the account's any more.
	Gone []string
}

// HistoryPage is a page of a conversation backwards, the newest message last.
type HistoryPage struct {
	Conversation       string
	Messages           []Stored
	LastSeq, JoinedSeq int64
}

// TalkOnce sends a text that is stored once, however often it is sent with this client id.
func (c *Client) TalkOnce(account, body, clientID string) (Sent, error) {
	return c.talkOnce("chat.user.talk", account, body, clientID)
}

// GroupTalkOnce is TalkOnce to a group.
func (c *Client) GroupTalkOnce(group, body, clientID string) (Sent, error) {
	return c.talkOnce("chat.group.talk", group, body, clientID)
}

func (c *Client) talkOnce(command, dest, body, clientID string) (Sent, error) {
	s, err := c.talk(command, dest, 1, body, "", clientID)
	if err == nil && (s.Seq <= 0 || s.Conversation == "") {
		err = against("%s: answered with %+v", command, s)
	}
	return s, err
}

// Sync asks for a page of what lies behind these cursors, by conversation. limit 0 is the server's.
func (c *Client) Sync(cursors map[string]int64, limit int) (page SyncPage, err error) {
	var m message
	for conversation, seq := range cursors {
		var cursor message
		cursor.string(1, conversation)
		cursor.int(2, seq)
		m.element(1, cursor)
	}
	m.int(2, int64(limit))
	more := 0
	err = c.call("chat.sync", "", m, schema{
		1: {bytes: func(b []byte) error {
			d, err := parseDelta(b)
			page.Conversations = append(page.Conversations, d)
			return err
		}},
		2: intInto(&more),
		3: {int: func(int64) {}, bytes: func([]byte) error { return against("stale buckets that nobody asked for") }},
		4: stringsInto(&page.Gone),
	})
	page.More = more != 0
	return page, err
}

func parseDelta(b []byte) (d Delta, err error) {
	ignore := field{int: func(int64) {}}
	err = schema{
		1: stringInto(&d.Conversation), 2: stringInto(&d.Peer), 3: stringInto(&d.Group), 4: intInto(&d.LastSeq), 5: intInto(&d.JoinedSeq),
		6: storedInto(&d.Messages), 7: ignore, 8: ignore,
	}.decode(b, false)
	return d, err
}

func storedInto(list *[]Stored) field {
	return field{bytes: func(b []byte) error {
		var m Stored
		err := schema{
			1: intInto(&m.ID), 2: intInto(&m.Seq), 3: stringInto(&m.Sender), 4: intInto(&m.SendTime), 5: intInto(&m.Type),
			6: stringInto(&m.Body), 7: stringInto(&m.Extra), 8: stringInto(&m.ClientID),
		}.decode(b, false)
		*list = append(*list, m)
		return err
	}}
}

// HistoryOf names a conversation, by one of its id, its peer and its group.
type HistoryOf struct{ Conversation, Peer, Group string }

// History asks for the messages of a conversation before a seq, 0 for the newest; limit 0 is 50, at most 200.
func (c *Client) History(of HistoryOf, before int64, limit int) (page HistoryPage, err error) {
	var m message
	m.string(1, of.Conversation)
	m.string(2, of.Peer)
	m.string(3, of.Group)
	m.int(4, before)
	m.int(5, int64(limit))
	err = c.call("chat.history", "", m, schema{
		1: stringInto(&page.Conversation), 2: storedInto(&page.Messages), 3: intInto(&page.LastSeq), 4: intInto(&page.JoinedSeq),
	})
	return page, err
}
