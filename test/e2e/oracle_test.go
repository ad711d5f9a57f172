package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

const (
	// pace is the least time between two messages of one speaker: a light conversation.
	pace = 10 * time.Millisecond
	// retry is the pause before something that failed is tried again.
	retry = 50 * time.Millisecond
	// answerWait is how long a request may take before it is made again.
	answerWait = 5 * time.Second
	// latePush is more than a node waits for the session store (logic.timeout) before it pushes, or gives up.
	latePush = 11 * time.Second
)

// oracle knows everything that was said with success, and compares what each party has heard.
//
// A party does what the protocol tells a client to do, and nothing more: it takes pushes as they come,
// and asks for what it lacks when it has connected, when it is told to (sync.hint), and never
// otherwise. So a push that is lost without a word leaves a hole that the oracle sees (I4); a
// client that looks for holes, as the SDK does, would fill it.
type oracle struct {
	parties []*party
	topics  []*topic
	silence func() // ends talking, with every message that was begun said

	mu     sync.Mutex
	said   map[place]*saying // guarded by mu
	faults []string          // guarded by mu
	news   chan struct{}     // closed, and made anew, when something is said or heard; guarded by mu
}

// place is where a message is.
type place struct {
	conversation string
	seq          int64
}

// saying is a message as its sender knows it.
type saying struct {
	id           int64
	body, sender string
	attempts     int // how often it was sent
}

// topic is a conversation of two or a group.
type topic struct {
	name    string
	cmd     wire.Command
	members []*party
	dest    func(from *party) string

	// Guarded by oracle.mu.
	conversation string
	last         int64 // seq of the last that was answered
	count        int   // of answers
}

// party is one device of an account that comes back whenever its connection ends.
type party struct {
	o       *oracle
	account string
	token   string
	urls    []string // tried in turn
	login   *pb.LoginReq

	// Guarded by o.mu.
	device    *device // while signed in
	heard     map[place]int64
	caught    map[string]int64 // conversation → all up to this seq is heard
	misplaced []misplaced
}

func newOracle() *oracle {
	return &oracle{said: map[place]*saying{}, news: make(chan struct{})}
}

func (o *oracle) party(account, token string, login *pb.LoginReq, urls ...string) *party {
	p := &party{
		o: o, account: account, token: token, urls: urls, login: login,
		heard: map[place]int64{}, caught: map[string]int64{},
	}
	o.parties = append(o.parties, p)
	return p
}

// pair is a conversation of two.
func (o *oracle) pair(a, b *party) *topic {
	t := &topic{name: a.account + " and " + b.account, cmd: wire.CmdUserTalk, members: []*party{a, b}}
	t.dest = func(from *party) string {
		if from == a {
			return b.account
		}
		return a.account
	}
	o.topics = append(o.topics, t)
	return t
}

// group is a conversation in a group that exists.
func (o *oracle) group(id string, members ...*party) *topic {
	t := &topic{name: "the group", cmd: wire.CmdGroupTalk, members: members, dest: func(*party) string { return id }}
	o.topics = append(o.topics, t)
	return t
}

// start keeps everybody on line and talking, in each topic its members in turn, one message at a
// time, until end or the test's end.
func (o *oracle) start(t *testing.T) {
	talking, silence := context.WithCancel(context.Background())
	listening, leave := context.WithCancel(context.Background())
	var speakers, listeners sync.WaitGroup
	for _, p := range o.parties {
		listeners.Go(func() { p.stayOnline(listening) })
	}
	for _, t := range o.topics {
		speakers.Go(func() { o.converse(talking, listening, t) })
	}
	o.silence = func() { silence(); speakers.Wait() }
	t.Cleanup(func() {
		silence()
		leave()
		speakers.Wait()
		listeners.Wait()
	})
}

// end lets everybody finish what they are saying, waits until it is heard, and checks everything.
func (o *oracle) end(t *testing.T) {
	t.Helper()
	o.silence()
	o.hearsAll(t, "the end")
	o.check(t)
}

func (o *oracle) converse(talking, listening context.Context, t *topic) {
	next := time.NewTicker(pace)
	defer next.Stop()
	for n := 0; talking.Err() == nil; n++ {
		o.say(listening, t, t.members[n%len(t.members)], n)
		select {
		case <-next.C:
		case <-talking.Done():
		}
	}
}

// say sends a message, under one client id, until it is stored.
func (o *oracle) say(ctx context.Context, t *topic, from *party, n int) {
	req := &pb.MessageReq{Type: 1, Body: fmt.Sprintf("%s, %d", t.name, n), ClientId: fmt.Sprintf("%s-%d", from.account, n)}
	for attempts := 1; ctx.Err() == nil; attempts++ {
		var resp pb.MessageResp
		err := from.call(ctx, t.cmd, t.dest(from), req, &resp)
		if err == nil {
			o.stored(t, from, req, &resp, attempts)
			return
		}
		var refused *wire.Error
		if errors.As(err, &refused) && !refused.Retryable() {
			o.fault("%s: %q was refused: %v", t.name, req.Body, err)
			return
		}
		pause(ctx, retry)
	}
}

// stored notes that a message was answered with success.
func (o *oracle) stored(t *topic, from *party, req *pb.MessageReq, resp *pb.MessageResp, attempts int) {
	at := place{resp.Conversation, resp.Seq}
	o.change(func() {
		if other := o.said[at]; other != nil {
			o.faults = append(o.faults, fmt.Sprintf("%s: %q and %q have the same seq %d", t.name, other.body, req.Body, at.seq))
		}
		o.said[at] = &saying{id: resp.MessageId, body: req.Body, sender: from.account, attempts: attempts}
		if resp.Seq != t.last+1 || t.conversation != "" && t.conversation != resp.Conversation {
			o.faults = append(o.faults, fmt.Sprintf("%s: %q has seq %d of conversation %s after %d of %s: said one after the other",
				t.name, req.Body, resp.Seq, resp.Conversation, t.last, t.conversation))
		}
		t.conversation, t.last = resp.Conversation, resp.Seq
		t.count++
		from.note(at, resp.MessageId)
	})
}

func (o *oracle) fault(format string, args ...any) {
	o.change(func() { o.faults = append(o.faults, fmt.Sprintf(format, args...)) })
}

func (o *oracle) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	close(o.news)
	o.news = make(chan struct{})
}

// await waits until ready, which is called with mu held, says so; false if it did not in time.
func (o *oracle) await(ready func() bool) bool {
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		o.mu.Lock()
		ok, news := ready(), o.news
		o.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-news:
		case <-late.C:
			return false
		}
	}
}

// goesOn waits until each topic has had n more messages, and then until everybody has heard all
// that was said until that moment.
func (o *oracle) goesOn(t *testing.T, n int, after string) {
	t.Helper()
	o.says(t, n)
	o.hearsAll(t, after)
}

// says waits until each topic has had n more messages, whoever hears them.
func (o *oracle) says(t *testing.T, n int) {
	t.Helper()
	o.mu.Lock()
	goals := map[*topic]int{}
	for _, t := range o.topics {
		goals[t] = t.count + n
	}
	o.mu.Unlock()
	if !o.await(func() bool {
		return !slices.ContainsFunc(o.topics, func(t *topic) bool { return t.count < goals[t] })
	}) {
		t.Fatal("nobody can say anything any more")
	}
}

// hearsAll waits until everybody has heard all that has been said by now.
func (o *oracle) hearsAll(t *testing.T, after string) {
	t.Helper()
	o.mu.Lock()
	last := map[*topic]int64{}
	for _, t := range o.topics {
		last[t] = t.last
	}
	o.mu.Unlock()
	var holes []string
	if !o.await(func() bool { holes = o.holes(last); return len(holes) == 0 }) {
		t.Fatalf("lost after %s: %v", after, holes)
	}
}

// settledFor is how many messages of each topic one node stores in succession when the gateways agree about the nodes.
const settledFor = 20

// hasOneWriter waits until each topic is written by one node, whichever gateways its members are on.
func (o *oracle) hasOneWriter(t *testing.T) {
	t.Helper()
	o.says(t, settledFor) // what was said before may be of anybody
	var split []string
	if !o.await(func() bool { split = o.split(); return len(split) == 0 }) {
		t.Fatalf("written by several nodes, and nothing is wrong with any: %v", split)
	}
}

// split names the topics whose last messages several nodes have stored. o.mu is held.
func (o *oracle) split() (names []string) {
	for _, t := range o.topics {
		nodes := map[int64]bool{}
		for seq := max(1, t.last-settledFor+1); seq <= t.last; seq++ {
			if s := o.said[place{t.conversation, seq}]; s != nil { // else check tells of it
				nodes[snowflake.Node(s.id)] = true
			}
		}
		if len(nodes) > 1 {
			names = append(names, t.name)
		}
	}
	return names
}

// holes names what somebody has not heard. o.mu is held.
func (o *oracle) holes(last map[*topic]int64) (holes []string) {
	for t, until := range last {
		for _, p := range t.members {
			if from := p.caught[t.conversation]; from < until {
				holes = append(holes, fmt.Sprintf("%s lacks seq %d of %s, the last is %d", p.account, from+1, t.name, until))
			}
		}
	}
	return holes
}

// check compares everything that was heard with everything that was said.
func (o *oracle) check(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	total, again := 0, 0
	for _, s := range o.said {
		total++
		again += min(s.attempts-1, 1)
	}
	t.Logf("%d messages were said, %d of them after more than one attempt", total, again)
	require.Empty(t, o.faults)
	late, latest := 0, time.Duration(0)
	for _, p := range o.parties {
		for at, id := range p.heard {
			s := o.said[at]
			require.NotNil(t, s, "%s heard seq %d of %s, which nobody said", p.account, at.seq, at.conversation)
			require.Equal(t, s.id, id, "%s heard another message at seq %d of %s", p.account, at.seq, at.conversation)
		}
		// A message that was sent again is pushed again: its first push may have been lost with
		// the node that stored it.
		for _, m := range p.misplaced {
			if m.how == "" {
				require.Less(t, m.by, latePush, "%s was pushed seq %d of %s after another node's later one", p.account, m.seq, m.conversation)
				late, latest = late+1, max(latest, m.by)
				continue
			}
			repeated := o.said[m.place].attempts > 1
			if later := o.said[m.overtaken]; later != nil && later.attempts > 1 {
				repeated = true // by the node that answered, which is not always that of the id
			}
			require.True(t, repeated, "%s was pushed seq %d of %s %s, %v later, at %s",
				p.account, m.seq, m.conversation, m.how, m.by, m.when.UTC().Format(time.RFC3339Nano))
		}
	}
	t.Logf("%d pushes came after another node's later one, by %v at most", late, latest)
	// Ids grow with seq (I2).
	for _, conversation := range slices.Collect(maps.Keys(o.lastIDs())) {
		var last int64
		for seq := int64(1); o.said[place{conversation, seq}] != nil; seq++ {
			id := o.said[place{conversation, seq}].id
			require.Greater(t, id, last, "id of seq %d of %s", seq, conversation)
			last = id
		}
	}
}

func (o *oracle) lastIDs() map[string]int64 {
	out := map[string]int64{}
	for at, s := range o.said {
		out[at.conversation] = max(out[at.conversation], s.id)
	}
	return out
}

// call makes a request on the connection that there is, or will be.
func (p *party) call(ctx context.Context, cmd wire.Command, dest string, req, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	for {
		p.o.mu.Lock()
		d, news := p.device, p.o.news
		p.o.mu.Unlock()
		if d != nil {
			return d.call(ctx, cmd, dest, req, resp)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stayOnline connects, to one gateway after the other, until ctx ends.
func (p *party) stayOnline(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		signing, cancel := context.WithTimeout(ctx, answerWait)
		d, err := signIn(signing, p.urls[i%len(p.urls)], p.token, p.login)
		cancel()
		if err != nil {
			pause(ctx, retry)
			continue
		}
		p.serve(ctx, d)
		d.hangUp()
	}
}

// serve takes what comes until the connection ends.
func (p *party) serve(ctx context.Context, d *device) {
	p.o.change(func() { p.device = d })
	defer p.o.change(func() { p.device = nil })
	var pushed pushes
	if !p.catchUp(ctx, d) {
		return
	}
	for {
		push, err := d.next(ctx)
		if err != nil {
			return
		}
		switch push.Command {
		case wire.CmdSyncHint:
			if !p.catchUp(ctx, d) {
				return
			}
		case wire.CmdUserTalk, wire.CmdGroupTalk:
			var m pb.MessagePush
			if err := proto.Unmarshal(push.Body, &m); err != nil {
				p.o.fault("%s: %v", p.account, err)
				return
			}
			at := place{m.Conversation, m.Seq}
			p.o.change(func() {
				p.note(at, m.MessageId)
				if wrong := pushed.add(at, m.MessageId, time.Now()); wrong != nil {
					p.misplaced = append(p.misplaced, *wrong)
				}
			})
		default:
			p.o.fault("%s was pushed %s", p.account, push.Command)
		}
	}
}

// pushes are those that came on one connection. Each comes once, and those of one writer come in order of
// their seqs. Two nodes may write a conversation for a moment, when one takes over or the gateways do not see the same
// nodes yet. Then a push may come after later ones of the other, above all if it had to wait for the session store.
type pushes struct {
	came map[place]time.Time
	last map[writing]int64 // highest seq
	top  map[string]int64  // highest seq of a conversation
}

// writing is a conversation and the number of the node that stored messages of it.
type writing struct {
	conversation string
	node         int64
}

// misplaced is a push that came twice, or after a later one.
type misplaced struct {
	place
	when time.Time
	how  string        // empty: after one that another node stored
	by   time.Duration // how long after
	// overtaken is the later one, if the same node stored it.
	overtaken place
}

// add notes a push, and says what is wrong with it; nil: nothing.
func (p *pushes) add(at place, id int64, now time.Time) *misplaced {
	if p.came == nil {
		p.came, p.last, p.top = map[place]time.Time{}, map[writing]int64{}, map[string]int64{}
	}
	w := writing{at.conversation, snowflake.Node(id)}
	own, top := place{at.conversation, p.last[w]}, place{at.conversation, p.top[at.conversation]}
	first, twice := p.came[at]
	p.came[at] = now
	p.last[w], p.top[at.conversation] = max(own.seq, at.seq), max(top.seq, at.seq)
	switch {
	case twice:
		return &misplaced{place: at, when: now, how: "twice", by: now.Sub(first)}
	case at.seq < own.seq:
		how := fmt.Sprintf("after seq %d of the same node %d", own.seq, w.node)
		return &misplaced{place: at, when: now, how: how, by: now.Sub(p.came[own]), overtaken: own}
	case at.seq < top.seq:
		return &misplaced{place: at, when: now, by: now.Sub(p.came[top])}
	}
	return nil
}

// note keeps a message that was heard, or said by oneself. o.mu is held.
func (p *party) note(at place, id int64) {
	if other, ok := p.heard[at]; ok && other != id {
		p.o.faults = append(p.o.faults, fmt.Sprintf("%s heard %d and %d at seq %d of %s", p.account, other, id, at.seq, at.conversation))
	}
	p.heard[at] = id
	for {
		next := place{at.conversation, p.caught[at.conversation] + 1}
		if _, ok := p.heard[next]; !ok {
			return
		}
		p.caught[at.conversation]++
	}
}

// catchUp asks for what the party lacks, until it has it; false if the connection ended before.
func (p *party) catchUp(ctx context.Context, d *device) bool {
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, answerWait)
		var err error
		if len(d.granted) > 0 {
			err = p.sync(asking, d)
		} else {
			err = p.readIndex(asking, d)
		}
		cancel()
		var refused *wire.Error
		switch {
		case err == nil:
			return true
		case errors.As(err, &refused) && refused.Retryable():
			pause(ctx, retry)
		default:
			return false
		}
	}
	return false
}

// sync is what a client with cursors does.
func (p *party) sync(ctx context.Context, d *device) error {
	for more := true; more; {
		p.o.mu.Lock()
		req := &pb.SyncReq{}
		for conversation, seq := range p.caught {
			req.Cursors = append(req.Cursors, &pb.Cursor{Conversation: conversation, Seq: seq})
		}
		p.o.mu.Unlock()
		var resp pb.SyncResp
		if err := d.call(ctx, wire.CmdSync, "", req, &resp); err != nil {
			return err
		}
		more = resp.More
		p.o.change(func() {
			for _, delta := range resp.Conversations {
				for _, m := range delta.Messages {
					p.note(place{delta.Conversation, m.Seq}, m.MessageId)
				}
			}
		})
	}
	return nil
}

// readIndex is what an old client does: the index since the last ack, page by page, and an ack of its
// end. Messages with smaller ids that were committed meanwhile, and whose pushes are lost, as pushes
// are in this test, are in the next one.
func (p *party) readIndex(ctx context.Context, d *device) error {
	for last := int64(0); ; {
		var page pb.MessageIndexResp
		if err := d.call(ctx, wire.CmdOfflineIndex, "", &pb.MessageIndexReq{MessageId: last}, &page); err != nil {
			return err
		}
		if len(page.Indexes) == 0 {
			if last == 0 {
				return nil
			}
			return d.call(ctx, wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: last}, nil)
		}
		p.o.change(func() {
			for _, m := range page.Indexes {
				p.note(place{m.Conversation, m.Seq}, m.MessageId)
			}
		})
		last = page.Indexes[len(page.Indexes)-1].MessageId
	}
}

// pause keeps a retry from being a tight loop.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// TestPushes: what the oracle says of pushes on one connection.
func TestPushes(t *testing.T) {
	const a, b = 7 << 12, 8 << 12 // ids of two nodes
	type push struct {
		seq, id int64
	}
	at := func(seq int64) place { return place{"c", seq} }
	begin := time.Now()
	second := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Second) }
	for name, test := range map[string]struct {
		pushes []push // one a second
		want   *misplaced
	}{
		"in order":           {[]push{{1, a}, {2, a}, {3, b}, {5, a}}, nil},
		"behind another's":   {[]push{{1, a}, {3, b}, {4, b}, {2, a}}, &misplaced{at(2), second(3), "", time.Second, place{}}},
		"behind its own":     {[]push{{3, a}, {1, b}, {2, a}}, &misplaced{at(2), second(2), "after seq 3 of the same node 7", 2 * time.Second, at(3)}},
		"behind both":        {[]push{{3, a}, {4, b}, {2, a}}, &misplaced{at(2), second(2), "after seq 3 of the same node 7", 2 * time.Second, at(3)}},
		"twice":              {[]push{{1, a}, {1, a}}, &misplaced{at(1), second(1), "twice", time.Second, place{}}},
		"twice, and by both": {[]push{{1, a}, {2, b}, {1, b}}, &misplaced{at(1), second(2), "twice", 2 * time.Second, place{}}},
	} {
		t.Run(name, func(t *testing.T) {
			var pushed pushes
			var last *misplaced
			for i, p := range test.pushes {
				last = pushed.add(at(p.seq), p.id, second(i))
			}
			require.Equal(t, test.want, last)
		})
	}
}

func TestSplit(t *testing.T) {
	o := newOracle()
	topic := &topic{name: "both", conversation: "c"}
	o.topics = append(o.topics, topic)
	say := func(node int64) {
		topic.last++
		o.said[place{"c", topic.last}] = &saying{id: node << 12}
	}
	require.Empty(t, o.split())
	say(7)
	require.Empty(t, o.split())
	for range settledFor - 1 {
		say(8)
		require.Equal(t, []string{"both"}, o.split())
	}
	say(8)
	require.Empty(t, o.split(), "of before")
}
