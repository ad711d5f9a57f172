package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

const (
	// indexPage and contentPage are the most that an old client gets, or may ask for, at once.
	indexPage   = 2000
	contentPage = 200
	// window is how many requests a sender of many messages has open.
	window = 200
)

// flood sends messages, as many at once as the window allows, and returns their ids in the order of sending.
func (u *user) flood(cmd wire.Command, dest string, bodies []string) []int64 {
	u.t.Helper()
	ctx := within(u.t)
	ids := make([]int64, len(bodies))
	errs := make(chan error, len(bodies))
	open := make(chan struct{}, window)
	var wg sync.WaitGroup
	for i, body := range bodies {
		open <- struct{}{}
		// Written here and not by the goroutine: in order.
		answer, err := u.start(cmd, dest, &pb.MessageReq{Type: 1, Body: body, Extra: "x" + body})
		require.NoError(u.t, err)
		wg.Go(func() {
			defer func() { <-open }()
			var resp pb.MessageResp
			select {
			case p, ok := <-answer:
				if !ok || p.Status != wire.StatusSuccess {
					errs <- fmt.Errorf("message %q: %+v", body, p)
				} else if err := proto.Unmarshal(p.Body, &resp); err != nil {
					errs <- err
				}
			case <-ctx.Done():
				errs <- fmt.Errorf("message %q: %w", body, ctx.Err())
			}
			ids[i] = resp.MessageId
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		require.NoError(u.t, err)
	default:
	}
	return ids
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + strconv.Itoa(i)
	}
	return out
}

// offlineCase is an account to which 5,000 messages were sent while it was off line: by two
// accounts and in a group.
type offlineCase struct {
	account string
	group   string
	// bodies by sender, in the order of sending; group is the group's sender.
	bodies map[string][]string
	ids    map[string][]int64
}

func sendOffline(t *testing.T, c *site, name string) *offlineCase {
	o := &offlineCase{account: name, ids: map[string][]int64{}, bodies: map[string][]string{
		name + "-bob":   numbered("bob says ", 2300),
		name + "-carol": numbered("carol says ", 2200),
		name + "-dave":  numbered("dave tells all ", 500),
	}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, sender := range slices.Sorted(keys(o.bodies)) {
		u := c.user(t, c.GatewayURLs[i%2], sender, legacy())
		cmd, dest := wire.CmdUserTalk, o.account
		if i == 2 {
			var group pb.GroupCreateResp
			u.must(wire.CmdGroupCreate, "", &pb.GroupCreateReq{Name: "all", Members: []string{o.account}}, &group)
			o.group = group.GroupId
			cmd, dest = wire.CmdGroupTalk, o.group
		}
		wg.Go(func() {
			ids := u.flood(cmd, dest, o.bodies[sender])
			mu.Lock()
			defer mu.Unlock()
			o.ids[sender] = ids
		})
	}
	wg.Wait()
	return o
}

func keys(m map[string][]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// check compares what was received of each sender, in order, with what was sent.
func (o *offlineCase) check(t *testing.T, ids map[string][]int64, bodies map[string][]string) {
	t.Helper()
	for sender, want := range o.bodies {
		require.Equal(t, o.ids[sender], ids[sender], "ids of %s", sender)
		require.Equal(t, want, bodies[sender], "bodies of %s", sender)
	}
}

// An old client reads the index page by page until a page is empty, then the contents, then acks.
func testOffline(t *testing.T, c *site) {
	o := sendOffline(t, c, "offline")
	u := c.user(t, c.GatewayTCPURLs[1], o.account, legacy())

	var all []*pb.MessageIndex
	var pages []int
	for last := int64(0); ; last = all[len(all)-1].MessageId {
		var page pb.MessageIndexResp
		u.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{MessageId: last}, &page)
		pages = append(pages, len(page.Indexes))
		require.LessOrEqual(t, len(page.Indexes), indexPage)
		if len(page.Indexes) == 0 {
			break
		}
		all = append(all, page.Indexes...)
	}
	require.Equal(t, []int{2000, 2000, 1000, 0}, pages, "full pages, and an empty one right after the last")

	ids, bodies := map[string][]int64{}, map[string][]string{}
	for i, m := range all {
		if i > 0 {
			require.Greater(t, m.MessageId, all[i-1].MessageId, "in delivery order")
		}
		require.Zero(t, m.Direction, "all were sent by others")
		require.Equal(t, m.AccountB == o.account+"-dave", m.Group == o.group)
		ids[m.AccountB] = append(ids[m.AccountB], m.MessageId)
	}
	for part := range slices.Chunk(all, contentPage) {
		var req pb.MessageContentReq
		for _, m := range part {
			req.MessageIds = append(req.MessageIds, m.MessageId)
		}
		var resp pb.MessageContentResp
		u.must(wire.CmdOfflineContent, "", &req, &resp)
		require.Len(t, resp.Contents, len(part))
		for i, m := range resp.Contents {
			require.Equal(t, part[i].MessageId, m.MessageId, "in the order asked for")
			require.Equal(t, "x"+m.Body, m.Extra)
			bodies[part[i].AccountB] = append(bodies[part[i].AccountB], m.Body)
		}
	}
	o.check(t, ids, bodies)

	// An ack in the middle leaves the rest; an older one after it takes nothing back.
	u.must(wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: all[2999].MessageId}, nil)
	u.must(wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: all[10].MessageId}, nil)
	var rest pb.MessageIndexResp
	u.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{}, &rest)
	require.Len(t, rest.Indexes, 2000)
	require.Equal(t, all[3000].MessageId, rest.Indexes[0].MessageId)

	u.must(wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: all[len(all)-1].MessageId}, nil)
	again := c.user(t, c.GatewayURLs[0], o.account, legacy())
	var none pb.MessageIndexResp
	again.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{}, &none)
	require.Empty(t, none.Indexes, "nothing is left after the ack")
}

// A client that keeps cursors gets the same by chat.sync, and nothing twice.
func testSync(t *testing.T, c *site) {
	o := sendOffline(t, c, "sync")
	u := c.user(t, c.GatewayURLs[1], o.account, modern("d"))
	cursors := map[string]int64{}
	ids, bodies := map[string][]int64{}, map[string][]string{}
	rounds := 0
	for more := true; more; rounds++ {
		resp := u.sync(cursors, 0)
		total := 0
		for _, conversation := range resp.Conversations {
			for _, m := range conversation.Messages {
				total++
				require.Equal(t, cursors[conversation.Conversation]+1, m.Seq, "gapless")
				cursors[conversation.Conversation] = m.Seq
				if conversation.Group == "" {
					require.Equal(t, m.Sender, conversation.Peer)
				} else {
					require.Equal(t, o.group, conversation.Group)
				}
				ids[m.Sender] = append(ids[m.Sender], m.MessageId)
				bodies[m.Sender] = append(bodies[m.Sender], m.Body)
			}
		}
		require.LessOrEqual(t, total, 500)
		more = resp.More
	}
	require.GreaterOrEqual(t, rounds, 10)
	o.check(t, ids, bodies)
	require.Empty(t, u.sync(cursors, 0).Conversations, "nothing is new")

	bob := c.user(t, c.GatewayURLs[0], o.account+"-bob", legacy())
	sent := bob.say(o.account, "one more")
	u.hears(wire.CmdUserTalk, o.account, bob.account, "one more")
	resp := u.sync(cursors, 0)
	require.Len(t, resp.Conversations, 1)
	require.Len(t, resp.Conversations[0].Messages, 1)
	require.Equal(t, sent.MessageId, resp.Conversations[0].Messages[0].MessageId)
	require.False(t, resp.More)
}

func (u *user) sync(cursors map[string]int64, limit int32) *pb.SyncResp {
	u.t.Helper()
	req := &pb.SyncReq{Limit: limit}
	for id, seq := range cursors {
		req.Cursors = append(req.Cursors, &pb.Cursor{Conversation: id, Seq: seq})
	}
	var resp pb.SyncResp
	u.must(wire.CmdSync, "", req, &resp)
	return &resp
}

// chat.history pages backwards, by peer, by group and by conversation, from either side.
func testHistory(t *testing.T, c *site) {
	const total = 430
	alice := c.user(t, c.GatewayURLs[0], "history-alice", modern("d"))
	bob := c.user(t, c.GatewayURLs[1], "history-bob", modern("d"))
	want := numbered("line ", total)
	alice.flood(wire.CmdUserTalk, bob.account, want)

	var empty pb.HistoryResp
	alice.must(wire.CmdHistory, "", &pb.HistoryReq{Peer: "history-nobody"}, &empty)
	require.Empty(t, empty.Messages)

	for _, u := range []*user{alice, bob} {
		peer := bob.account
		if u == bob {
			peer = alice.account
		}
		var got []string
		var first pb.HistoryResp
		u.must(wire.CmdHistory, "", &pb.HistoryReq{Peer: peer}, &first)
		require.Len(t, first.Messages, 50, "the default page")
		require.EqualValues(t, total, first.LastSeq)
		for before := int64(0); ; {
			var page pb.HistoryResp
			u.must(wire.CmdHistory, "", &pb.HistoryReq{Conversation: first.Conversation, BeforeSeq: before, Limit: 1000}, &page)
			if len(page.Messages) == 0 {
				break
			}
			require.LessOrEqual(t, len(page.Messages), 200)
			var bodies []string
			for _, m := range page.Messages {
				bodies = append(bodies, m.Body)
			}
			got = append(bodies, got...)
			before = page.Messages[0].Seq
		}
		require.Equal(t, want, got)
	}
}

// Nobody reads what is not theirs (I9): not by id, not by conversation, not by acking.
func testStrangers(t *testing.T, c *site) {
	alice := c.user(t, c.GatewayURLs[0], "strangers-alice", legacy())
	bob := c.user(t, c.GatewayURLs[1], "strangers-bob", legacy())
	eve := c.user(t, c.GatewayURLs[0], "strangers-eve", modern("d"))
	secret := alice.say(bob.account, "for Bob only")
	own := alice.say(eve.account, "for Eve")

	var content pb.MessageContentResp
	eve.must(wire.CmdOfflineContent, "", &pb.MessageContentReq{MessageIds: []int64{secret.MessageId, own.MessageId}}, &content)
	require.Len(t, content.Contents, 1, "what is not hers is left out")
	require.Equal(t, own.MessageId, content.Contents[0].MessageId)
	eve.refused(wire.StatusNoDestination, wire.CmdOfflineContent, "", &pb.MessageContentReq{MessageIds: []int64{secret.MessageId}})
	eve.refused(wire.StatusUnauthorized, wire.CmdHistory, "", &pb.HistoryReq{Conversation: secret.Conversation})
	eve.refused(wire.StatusNoDestination, wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: secret.MessageId})
	// A conversation of two has a number, and is no group for that.
	eve.refusedNoGroup(secret.Conversation)

	resp := eve.sync(map[string]int64{secret.Conversation: 0}, 0)
	require.Len(t, resp.Conversations, 1)
	require.Equal(t, own.Conversation, resp.Conversations[0].Conversation)
}

// refusedNoGroup tries to join and to talk into what is no group.
func (u *user) refusedNoGroup(id string) {
	u.t.Helper()
	u.refused(wire.StatusNoDestination, wire.CmdGroupJoin, "", &pb.GroupJoinReq{GroupId: id})
	u.refused(wire.StatusNoDestination, wire.CmdGroupTalk, id, &pb.MessageReq{Type: 1, Body: "let me in"})
	u.refused(wire.StatusNoDestination, wire.CmdGroupDetail, "", &pb.GroupGetReq{GroupId: id})
}

// Two tenants with the same names see nothing of each other (I11).
func testTenants(t *testing.T, c *site) {
	in := func(app, url, account string) *user {
		return newUser(t, url, issue(t, c.Secret, app, account), modern("d"))
	}
	aliceA, bobA := in("tenant-a", c.GatewayURLs[0], "alice"), in("tenant-a", c.GatewayURLs[1], "bob")
	// The same account and device: nobody is displaced.
	aliceB, bobB := in("tenant-b", c.GatewayURLs[0], "alice"), in("tenant-b", c.GatewayURLs[1], "bob")

	ofA, ofB := aliceA.say("bob", "of a"), aliceB.say("bob", "of b")
	require.NotEqual(t, ofA.Conversation, ofB.Conversation)
	require.EqualValues(t, []int64{1, 1}, []int64{ofA.Seq, ofB.Seq})
	bobA.hears(wire.CmdUserTalk, "bob", "alice", "of a")
	bobB.hears(wire.CmdUserTalk, "bob", "alice", "of b")

	var groupA, groupB pb.GroupCreateResp
	members := []string{"bob"}
	aliceA.must(wire.CmdGroupCreate, "", &pb.GroupCreateReq{Name: "friends", Members: members}, &groupA)
	aliceB.must(wire.CmdGroupCreate, "", &pb.GroupCreateReq{Name: "friends", Members: members}, &groupB)
	bobA.pushed(wire.CmdGroupCreate, &pb.GroupCreateNotify{})
	bobB.pushed(wire.CmdGroupCreate, &pb.GroupCreateNotify{})
	aliceA.sayIn(groupA.GroupId, "group of a")
	bobA.hears(wire.CmdGroupTalk, groupA.GroupId, "alice", "group of a")

	for _, u := range []*user{aliceB, bobB} {
		u.refusedNoGroup(groupA.GroupId)
		u.refused(wire.StatusNoDestination, wire.CmdGroupQuit, "", &pb.GroupQuitReq{GroupId: groupA.GroupId})
		u.refused(wire.StatusNoDestination, wire.CmdHistory, "", &pb.HistoryReq{Conversation: ofA.Conversation})
		u.refused(wire.StatusNoDestination, wire.CmdOfflineContent, "", &pb.MessageContentReq{MessageIds: []int64{ofA.MessageId}})
		u.refused(wire.StatusNoDestination, wire.CmdTalkAck, "", &pb.MessageAckReq{MessageId: ofA.MessageId})
		var index pb.MessageIndexResp
		u.must(wire.CmdOfflineIndex, "", &pb.MessageIndexReq{}, &index)
		for _, m := range index.Indexes {
			require.Equal(t, ofB.MessageId, m.MessageId)
		}
		for _, conversation := range u.sync(nil, 0).Conversations {
			require.Contains(t, []string{ofB.Conversation, groupB.GroupId}, conversation.Conversation)
		}
	}
	// The last word of tenant a reaches bob of a, and bob of b gets that of tenant b next.
	aliceA.say("bob", "last of a")
	aliceB.say("bob", "last of b")
	bobA.hears(wire.CmdUserTalk, "bob", "alice", "last of a")
	bobB.hears(wire.CmdUserTalk, "bob", "alice", "last of b")
}
