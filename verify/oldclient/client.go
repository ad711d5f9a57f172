package oldclient

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Client is one connection.
type Client struct {
	// Timeout bounds each call. Dial sets it to 10 s.
	Timeout time.Duration
	// ChannelID and Account are what Login was answered.
	ChannelID, Account string

	conn     *conn
	sequence uint32
	// features are those that were announced: their pushes are known.
	features []string
	// pushes are those that came while an answer was waited for.
	pushes []Push
}

// StatusError is the answer of a server that refuses.
type StatusError struct {
	Command string
	Status  int
	Message string
	// RetryAfter is an extension: how long to wait before the same request, or 0.
	RetryAfter time.Duration
}

// Error gives command, status and message.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.Command, e.Status, e.Message)
}

// statuses are those that a server may answer; an old client takes 106 and 302 for an error of one request.
var statuses = []int{0, 100, 101, 103, 105, 106, 300, 301, 302, 404}

// Message is what a push of a talk brings.
type Message struct {
	ID       int64
	Type     int32
	Body     string
	Extra    string
	Sender   string
	SendTime int64

	// Extensions, which an old client passes over: for who watches it.
	Seq          int64
	Conversation string
	ClientID     string
}

// Push is one push: exactly one of its pointers is set, or Hint.
type Push struct {
	Command string
	// Dest is the header's: the group of a group's message.
	Dest    string
	Message *Message
	// Kickout is the channel that was displaced.
	Kickout *string
	// GroupCreated, GroupJoined and GroupQuit tell of a group.
	GroupCreated           *GroupCreated
	GroupJoined, GroupQuit *GroupMember
	// Hint is sync.hint, to those that announced the feature sync.
	Hint bool
}

// GroupCreated is GroupCreateNotify.
type GroupCreated struct {
	GroupID string
	Members []string
}

// GroupMember is GroupJoinNotify and GroupQuitNotify.
type GroupMember struct{ GroupID, Account string }

// Sent is the answer to a talk; Seq and Conversation are extensions.
type Sent struct {
	MessageID, SendTime int64
	Seq                 int64
	Conversation        string
}

// Index is a line of the offline index.
type Index struct {
	MessageID int64
	Direction int32
	SendTime  int64
	AccountB  string
	Group     string

	// Extensions.
	Seq          int64
	Conversation string
}

// Content is the content of a message.
type Content struct {
	MessageID int64
	Type      int32
	Body      string
	Extra     string
}

// Group is GroupGetResp.
type Group struct {
	ID, Name, Avatar, Introduction, Owner string
	Members                               []Member
	CreatedAt                             int64
}

// Member is a member of a group.
type Member struct {
	Account, Alias, Avatar string
	JoinTime               int64
}

// Dial connects to ws:// or wss://host:port, or to tcp:// or tls://host:port.
func Dial(url string) (*Client, error) {
	const timeout = 10 * time.Second
	c, err := dial(url, timeout)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &Client{Timeout: timeout, conn: c}, nil
}

// Close closes the connection without signing out.
func (c *Client) Close() error { return c.conn.Close() }

// Login signs in. It must be the first call, and the answer the first frame.
func (c *Client) Login(token string) error { return c.LoginAs(token, Device{}) }

// LoginAs is Login with the extensions of a login.
func (c *Client) LoginAs(token string, d Device) error {
	var body message
	body.string(1, token)
	body.string(2, "isp")
	body.string(3, "zone")
	body.strings(4, []string{"tag"})
	d.append(&body)
	c.features = d.Features
	first := c.sequence == 0
	err := c.call("login.signin", "", body, schema{1: stringInto(&c.ChannelID), 2: stringInto(&c.Account)})
	switch {
	case err != nil:
		return err
	case !first || len(c.pushes) > 0:
		return against("login.signin: the answer was not the first frame")
	case c.ChannelID == "" || c.Account == "":
		return against("login.signin: answered with channel %q, account %q", c.ChannelID, c.Account)
	}
	return nil
}

// SignOut signs out; the server closes the connection.
func (c *Client) SignOut() error {
	if err := c.call("login.signout", "", nil, schema{}); err != nil {
		return err
	}
	for {
		_, err := c.ReadPush()
		var closed *CloseError
		if errors.As(err, &closed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Talk sends a text to an account.
func (c *Client) Talk(account, body string) (Sent, error) {
	return c.talk("chat.user.talk", account, 1, body, "", "")
}

// GroupTalk sends a text to a group.
func (c *Client) GroupTalk(group, body string) (Sent, error) {
	return c.talk("chat.group.talk", group, 1, body, "", "")
}

// TalkAs sends a message of any type, with an extra, to an account.
func (c *Client) TalkAs(account string, typ int32, body, extra string) (Sent, error) {
	return c.talk("chat.user.talk", account, typ, body, extra, "")
}

func (c *Client) talk(command, dest string, typ int32, body, extra, clientID string) (s Sent, err error) {
	var m message
	m.int(1, int64(typ))
	m.string(2, body)
	m.string(3, extra)
	m.string(fieldClientID, clientID)
	err = c.call(command, dest, m, schema{1: intInto(&s.MessageID), 2: intInto(&s.SendTime), 16: intInto(&s.Seq), 17: stringInto(&s.Conversation)})
	if err == nil && (s.MessageID == 0 || s.SendTime == 0) {
		err = against("%s: answered with %+v", command, s)
	}
	return s, err
}

// ReadPush returns the next push, waiting for it. An answer or a pong that nobody asked for is an
// error, and so is a close frame: a *CloseError.
func (c *Client) ReadPush() (Push, error) {
	if len(c.pushes) > 0 {
		p := c.pushes[0]
		c.pushes = c.pushes[1:]
		return p, nil
	}
	payload, err := c.read()
	if err != nil {
		return Push{}, err
	}
	p, err := parsePacket(payload)
	if err != nil {
		return Push{}, err
	}
	if p.flag != flagPush {
		return Push{}, against("out of turn: %s with flag %d and sequence %d", p.command, p.flag, p.sequence)
	}
	return c.parsePush(p)
}

// Poll returns the next push, or false if none begins to come within this time.
func (c *Client) Poll(wait time.Duration) (p Push, ok bool, err error) {
	if len(c.pushes) == 0 {
		if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return Push{}, false, err
		}
		// Peek takes nothing: a frame that begins later is still whole.
		if _, err := c.conn.in.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			return Push{}, false, nil
		}
	}
	p, err = c.ReadPush()
	return p, err == nil, err
}

// Pending returns the pushes that came while answers were waited for, and forgets them. They are
// there even after the connection has ended.
func (c *Client) Pending() []Push {
	list := c.pushes
	c.pushes = nil
	return list
}

// ReadMessage is ReadPush where nothing but a message may come.
func (c *Client) ReadMessage() (Message, error) {
	p, err := c.ReadPush()
	if err != nil {
		return Message{}, err
	}
	if p.Message == nil {
		return Message{}, against("a push of %s where a message was due", p.Command)
	}
	return *p.Message, nil
}

// Ack acknowledges everything up to this message.
func (c *Client) Ack(messageID int64) error {
	var m message
	m.int(1, messageID)
	return c.call("chat.talk.ack", "", m, schema{})
}

// OfflineIndex returns one page of the offline index; after 0 means since the last ack.
func (c *Client) OfflineIndex(after int64) ([]Index, error) {
	var m message
	m.int(1, after)
	var page []Index
	err := c.call("chat.offline.index", "", m, schema{1: {bytes: func(b []byte) error {
		var i Index
		defer func() { page = append(page, i) }()
		return schema{
			1: intInto(&i.MessageID), 2: intInto(&i.Direction), 3: intInto(&i.SendTime),
			4: stringInto(&i.AccountB), 5: stringInto(&i.Group), 16: intInto(&i.Seq), 17: stringInto(&i.Conversation),
		}.decode(b, false)
	}}})
	return page, err
}

// OfflineIndexAll pages through the offline index, with the last message id of each page, until a
// page is empty. Ids must grow, and a page may have 2,000 lines.
func (c *Client) OfflineIndexAll() ([]Index, error) {
	var all []Index
	last := int64(0)
	for {
		page, err := c.OfflineIndex(last)
		if err != nil || len(page) == 0 {
			return all, err
		}
		if len(page) > 2000 {
			return nil, against("chat.offline.index: a page of %d", len(page))
		}
		for _, i := range page {
			if i.MessageID <= last {
				return nil, against("chat.offline.index: message %d after %d", i.MessageID, last)
			}
			last = i.MessageID
		}
		all = append(all, page...)
	}
}

// Content returns the contents of up to 200 messages. They must come in the order asked for.
func (c *Client) Content(ids ...int64) ([]Content, error) {
	var m message
	m.ints(1, ids)
	var list []Content
	err := c.call("chat.offline.content", "", m, schema{1: {bytes: func(b []byte) error {
		var x Content
		defer func() { list = append(list, x) }()
		return schema{1: intInto(&x.MessageID), 2: intInto(&x.Type), 3: stringInto(&x.Body), 4: stringInto(&x.Extra)}.decode(b, false)
	}}})
	if err != nil {
		return nil, err
	}
	at := 0
	for _, x := range list {
		i := slices.Index(ids[at:], x.MessageID)
		if i < 0 {
			return nil, against("chat.offline.content: message %d was not asked for, or not there", x.MessageID)
		}
		at += i + 1
	}
	return list, nil
}

// CreateGroup creates a group and returns its id.
func (c *Client) CreateGroup(name string, members ...string) (id string, err error) {
	var m message
	m.string(1, name)
	m.string(2, "avatar")
	m.string(3, "introduction")
	m.string(4, c.Account)
	m.strings(5, members)
	err = c.call("chat.group.create", "", m, schema{1: stringInto(&id)})
	if err == nil && id == "" {
		err = against("chat.group.create: no group id")
	}
	return id, err
}

// Join joins a group.
func (c *Client) Join(group string) error { return c.membership("chat.group.join", group) }

// Quit quits a group.
func (c *Client) Quit(group string) error { return c.membership("chat.group.quit", group) }

func (c *Client) membership(command, group string) error {
	var m message
	m.string(1, c.Account)
	m.string(2, group)
	return c.call(command, "", m, schema{})
}

// Detail returns a group.
func (c *Client) Detail(group string) (Group, error) { return c.group("chat.group.detail", group) }

// Members returns the members of a group.
func (c *Client) Members(group string) ([]Member, error) {
	g, err := c.group("chat.group.members", group)
	return g.Members, err
}

func (c *Client) group(command, id string) (g Group, err error) {
	var m message
	m.string(1, id)
	err = c.call(command, "", m, schema{
		1: stringInto(&g.ID), 2: stringInto(&g.Name), 3: stringInto(&g.Avatar), 4: stringInto(&g.Introduction), 5: stringInto(&g.Owner),
		6: {bytes: func(b []byte) error {
			var m Member
			defer func() { g.Members = append(g.Members, m) }()
			return schema{1: stringInto(&m.Account), 2: stringInto(&m.Alias), 3: stringInto(&m.Avatar), 4: intInto(&m.JoinTime)}.decode(b, false)
		}},
		7: intInto(&g.CreatedAt),
	})
	return g, err
}

// Ping sends a ping and waits for its pong.
func (c *Client) Ping() error {
	if err := c.write(ping()); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	for {
		payload, err := c.read()
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		if isBasic(payload) {
			return parsePong(payload)
		}
		if err := c.keepPush(payload); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
	}
}

// Send writes any payload as a frame: for what a client should not send.
func (c *Client) Send(payload []byte) error { return c.write(payload) }

// Request sends any command with any body and waits for its answer, whose body it returns.
func (c *Client) Request(command, dest string, body []byte) ([]byte, error) {
	return c.roundTrip(command, dest, body)
}

// call makes a request and decodes its answer.
func (c *Client) call(command, dest string, body []byte, answer schema) error {
	b, err := c.roundTrip(command, dest, body)
	if err != nil {
		return err
	}
	if err := answer.decode(b, false); err != nil {
		return fmt.Errorf("%s: answer: %w", command, err)
	}
	return nil
}

func (c *Client) roundTrip(command, dest string, body []byte) ([]byte, error) {
	c.sequence++
	request := packet{command: command, sequence: c.sequence, flag: flagRequest, dest: dest, body: body}
	if err := c.write(request.marshal()); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	for {
		payload, err := c.read()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		p, err := parsePacket(payload)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		if p.flag == flagResponse {
			return response(p, &request)
		}
		if err := c.keepPush(payload); err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
	}
}

// response checks that p answers the request, and returns its body.
func response(p, request *packet) ([]byte, error) {
	if p.command != request.command || p.sequence != request.sequence {
		return nil, against("out of turn: %s %d was answered to %s %d", p.command, p.sequence, request.command, request.sequence)
	}
	if !slices.Contains(statuses, p.status) {
		return nil, against("%s: unknown status %d", p.command, p.status)
	}
	if p.status == 0 {
		return p.body, nil
	}
	refused := &StatusError{Command: p.command, Status: p.status}
	var millis int64
	if err := (schema{1: stringInto(&refused.Message), 16: intInto(&millis)}).decode(p.body, false); err != nil {
		return nil, against("%s: ErrorResp: %w", p.command, err)
	}
	if refused.Message == "" {
		return nil, against("%s: status %d without a message", p.command, p.status)
	}
	refused.RetryAfter = time.Duration(millis) * time.Millisecond
	return nil, refused
}

func (c *Client) keepPush(payload []byte) error {
	p, err := parsePacket(payload)
	if err != nil {
		return err
	}
	if p.flag != flagPush {
		return against("out of turn: %s with flag %d", p.command, p.flag)
	}
	push, err := c.parsePush(p)
	if err == nil {
		c.pushes = append(c.pushes, push)
	}
	return err
}

// parsePush knows the pushes of the fixed protocol and of what was announced, and no others.
func (c *Client) parsePush(p *packet) (Push, error) {
	push := Push{Command: p.command, Dest: p.dest}
	var fields schema
	switch p.command {
	case "login.signin":
		push.Kickout = new(string)
		fields = schema{1: stringInto(push.Kickout)}
	case "chat.user.talk", "chat.group.talk":
		m := &Message{}
		push.Message = m
		fields = schema{
			1: intInto(&m.ID), 2: intInto(&m.Type), 3: stringInto(&m.Body), 4: stringInto(&m.Extra), 5: stringInto(&m.Sender), 6: intInto(&m.SendTime),
			16: intInto(&m.Seq), 17: stringInto(&m.Conversation), fieldPushClientID: stringInto(&m.ClientID),
		}
	case "chat.group.create":
		push.GroupCreated = &GroupCreated{}
		fields = schema{1: stringInto(&push.GroupCreated.GroupID), 2: stringsInto(&push.GroupCreated.Members)}
	case "chat.group.join":
		push.GroupJoined = &GroupMember{}
		fields = schema{1: stringInto(&push.GroupJoined.GroupID), 2: stringInto(&push.GroupJoined.Account)}
	case "chat.group.quit":
		push.GroupQuit = &GroupMember{}
		fields = schema{1: stringInto(&push.GroupQuit.GroupID), 2: stringInto(&push.GroupQuit.Account)}
	case "sync.hint":
		if !slices.Contains(c.features, FeatureSync) {
			return Push{}, against("push of sync.hint, which was not announced")
		}
		push.Hint = true
	default:
		return Push{}, against("push of unknown command %q", p.command)
	}
	if p.status != 0 {
		return Push{}, against("push of %s with status %d", p.command, p.status)
	}
	if p.command == "chat.group.talk" && p.dest == "" {
		return Push{}, against("push of chat.group.talk without its group in the header")
	}
	if err := fields.decode(p.body, false); err != nil {
		return Push{}, against("push of %s: %w", p.command, err)
	}
	return push, nil
}

func (c *Client) write(payload []byte) error {
	if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	return c.conn.write(opBinary, payload)
}

func (c *Client) read() ([]byte, error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return nil, err
	}
	return c.conn.read()
}
