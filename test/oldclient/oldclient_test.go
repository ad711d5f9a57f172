package oldclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/verify/oldclient"
	"github.com/hermod-im/hermod/wire/token"
)

// The clients that exist must work unchanged: this one does all that they do, on both transports,
// against a whole system in this process.

const secret = "a secret of a test, 32 bytes long"

func standalone(t *testing.T) *boot.Standalone {
	t.Helper()
	c, err := boot.StandaloneConfig(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Secret = secret
	c.Gateway.WS, c.Gateway.TCP, c.Router.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", ""
	c.Limits.Enabled = false
	c.Limits.OfflinePage = 50
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := boot.NewStandalone(t.Context(), c, &boot.Env{Log: log, Metrics: prometheus.NewRegistry(), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- boot.ServeWith(ctx, s, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("standalone: %v", err)
		}
	})
	ready, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if err := boot.AwaitReady(ready, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func issue(t *testing.T, account string) string {
	t.Helper()
	s, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "test", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func login(t *testing.T, url, account string) *oldclient.Client {
	t.Helper()
	c, err := oldclient.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Login(issue(t, account)); err != nil {
		t.Fatal(err)
	}
	if c.Account != account {
		t.Errorf("logged in as %q", c.Account)
	}
	return c
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOldClient(t *testing.T) {
	s := standalone(t)
	for name, url := range map[string]string{"ws": s.Gateway.WS, "tcp": s.Gateway.TCP} {
		who := func(person string) string { return person + "-" + name }
		t.Run(name+"/talk", func(t *testing.T) { testTalk(t, url, who) })
		t.Run(name+"/offline", func(t *testing.T) { testOffline(t, url, who) })
		t.Run(name+"/groups", func(t *testing.T) { testGroups(t, url, who) })
		t.Run(name+"/kick", func(t *testing.T) { testKick(t, url, who) })
		t.Run(name+"/refusals", func(t *testing.T) { testRefusals(t, url, who) })
	}
}

func testTalk(t *testing.T, url string, who func(string) string) {
	alice, bob := login(t, url, who("alice")), login(t, url, who("bob"))
	check(t, alice.Ping())
	for i := range 20 {
		body := strings.Repeat("é", i*100)
		sent := must[oldclient.Sent](t)(alice.TalkAs(who("bob"), int32(i%5+1), body, "extra"))
		m := must[oldclient.Message](t)(bob.ReadMessage())
		want := oldclient.Message{
			ID: sent.MessageID, Type: int32(i%5 + 1), Body: body, Extra: "extra", Sender: who("alice"), SendTime: sent.SendTime,
			Seq: sent.Seq, Conversation: sent.Conversation,
		}
		if m != want {
			t.Fatalf("got %+v, want %+v", m, want)
		}
	}
	check(t, bob.Ping())
	check(t, bob.SignOut())
	check(t, alice.SignOut())
}

func testOffline(t *testing.T, url string, who func(string) string) {
	dave := login(t, url, who("dave"))
	var sent []int64
	for i := range 120 { // more than two pages
		sent = append(sent, must[oldclient.Sent](t)(dave.Talk(who("erin"), fmt.Sprint("message ", i))).MessageID)
	}
	erin := login(t, url, who("erin"))
	index := must[[]oldclient.Index](t)(erin.OfflineIndexAll())
	var ids []int64
	for _, i := range index {
		ids = append(ids, i.MessageID)
		if i.Direction != 0 || i.AccountB != who("dave") || i.Group != "" || i.SendTime == 0 {
			t.Fatalf("index %+v", i)
		}
	}
	if !slices.Equal(ids, sent) {
		t.Fatalf("the index has %d messages, not the %d sent", len(ids), len(sent))
	}
	for i, c := range must[[]oldclient.Content](t)(erin.Content(ids...)) {
		if c.MessageID != ids[i] || c.Body != fmt.Sprint("message ", i) || c.Type != 1 {
			t.Fatalf("content %d: %+v", i, c)
		}
	}
	check(t, erin.Ack(ids[99]))
	if rest := must[[]oldclient.Index](t)(erin.OfflineIndexAll()); len(rest) != 20 {
		t.Errorf("%d left after the ack", len(rest))
	}
	check(t, erin.Ack(ids[10])) // an ack never goes back
	if rest := must[[]oldclient.Index](t)(erin.OfflineIndexAll()); len(rest) != 20 {
		t.Errorf("%d left after an older ack", len(rest))
	}
	if mine := must[[]oldclient.Index](t)(dave.OfflineIndexAll()); len(mine) > 0 && mine[0].Direction != 1 {
		t.Errorf("the sender's index: %+v", mine[0])
	}
}

func testGroups(t *testing.T, url string, who func(string) string) {
	alice, bob, carol := login(t, url, who("alice")), login(t, url, who("bob")), login(t, url, who("carol"))
	id := must[string](t)(alice.CreateGroup("friends", who("alice"), who("bob")))
	created := must[oldclient.Push](t)(bob.ReadPush())
	if g := created.GroupCreated; g == nil || g.GroupID != id || !slices.Contains(g.Members, who("bob")) {
		t.Fatalf("bob heard %+v", created)
	}
	check(t, carol.Join(id))
	for _, c := range []*oldclient.Client{alice, bob} {
		if p := must[oldclient.Push](t)(c.ReadPush()); p.GroupJoined == nil || *p.GroupJoined != (oldclient.GroupMember{GroupID: id, Account: who("carol")}) {
			t.Fatalf("%s heard %+v", c.Account, p)
		}
	}
	sent := must[oldclient.Sent](t)(alice.GroupTalk(id, "hello all"))
	for _, c := range []*oldclient.Client{bob, carol} {
		p := must[oldclient.Push](t)(c.ReadPush())
		if p.Message == nil || p.Command != "chat.group.talk" || p.Dest != id || p.Message.ID != sent.MessageID || p.Message.Body != "hello all" {
			t.Fatalf("%s heard %+v", c.Account, p)
		}
	}
	g := must[oldclient.Group](t)(bob.Detail(id))
	if g.ID != id || g.Name != "friends" || g.Avatar != "avatar" || g.Introduction != "introduction" || g.Owner != who("alice") || g.CreatedAt == 0 {
		t.Errorf("detail %+v", g)
	}
	var members []string
	for _, m := range must[[]oldclient.Member](t)(carol.Members(id)) {
		members = append(members, m.Account)
	}
	if !slices.Equal(members, []string{who("alice"), who("bob"), who("carol")}) {
		t.Errorf("members %v", members)
	}
	check(t, bob.Quit(id))
	if p := must[oldclient.Push](t)(carol.ReadPush()); p.GroupQuit == nil || p.GroupQuit.Account != who("bob") {
		t.Errorf("carol heard %+v", p)
	}
	refused(t, 100, 399)(bob.GroupTalk(id, "am I still here?"))
	check(t, bob.Ping())
}

func testKick(t *testing.T, url string, who func(string) string) {
	first := login(t, url, who("frank"))
	second := login(t, url, who("frank"))
	p := must[oldclient.Push](t)(first.ReadPush())
	if p.Kickout == nil || *p.Kickout != first.ChannelID {
		t.Errorf("heard %+v", p)
	}
	var closed *oldclient.CloseError
	if _, err := first.ReadPush(); !errors.As(err, &closed) || closed.Code != 4002 {
		t.Errorf("after the kick: %v", err)
	}
	check(t, second.Ping())
	must[oldclient.Sent](t)(login(t, url, who("grace")).Talk(who("frank"), "which one?"))
	if m := must[oldclient.Message](t)(second.ReadMessage()); m.Body != "which one?" {
		t.Errorf("heard %+v", m)
	}
}

func testRefusals(t *testing.T, url string, who func(string) string) {
	c, err := oldclient.Dial(url)
	check(t, err)
	defer c.Close() //nolint:errcheck // closed by the server already
	refused(t, 105, 105)(0, c.Login("not.a.token"))
	var closed *oldclient.CloseError
	if _, err := c.ReadPush(); !errors.As(err, &closed) || closed.Code != 4001 {
		t.Errorf("after a refused login: %v", err)
	}

	alice := login(t, url, who("alice"))
	refused(t, 100, 100)(alice.Talk("", "to nobody"))
	refused(t, 101, 101)(alice.Request("chat.user.talk", who("bob"), []byte{0xff}))
	refused(t, 301, 301)(alice.Request("chat.unheard.of", "", nil))
	refused(t, 103, 103)(alice.Request("session.renew", "", nil))
	refused(t, 100, 399)(alice.GroupTalk("12345", "no such group"))
	refused(t, 100, 399)(0, alice.Ack(1))
	check(t, alice.Ping())

	check(t, alice.Send([]byte("no packet at all")))
	if _, err := alice.ReadPush(); !errors.As(err, &closed) || closed.Code != 1002 {
		t.Errorf("after bytes that are no packet: %v", err)
	}
}

// refused takes the result of a call that must be answered with a status in this range.
func refused(t *testing.T, low, high int) func(_ any, err error) {
	return func(_ any, err error) {
		t.Helper()
		var e *oldclient.StatusError
		if !errors.As(err, &e) || e.Status < low || e.Status > high {
			t.Errorf("got %v, want a status of %d to %d", err, low, high)
		}
	}
}

// The extensions that a client needs to keep a cursor for each conversation, and no more.
func TestExtensions(t *testing.T) {
	s := standalone(t)
	url := s.Gateway.WS
	alice := login(t, url, "alice")
	bob, err := oldclient.Dial(url)
	check(t, err)
	defer bob.Close() //nolint:errcheck // done with it
	check(t, bob.LoginAs(issue(t, "bob"), oldclient.Device{Name: "phone", Features: []string{oldclient.FeatureSync}, Instance: "one", Attempt: 1}))
	first := must[oldclient.Sent](t)(alice.TalkOnce("bob", "hello", "id-1"))
	if again := must[oldclient.Sent](t)(alice.TalkOnce("bob", "hello", "id-1")); again != first {
		t.Errorf("answered with %+v and %+v", first, again)
	}
	if m := must[oldclient.Message](t)(bob.ReadMessage()); m.Seq != 1 || m.ClientID != "id-1" || m.Conversation != first.Conversation {
		t.Errorf("got %+v", m)
	}
	must[oldclient.Sent](t)(alice.TalkOnce("bob", "are you there?", "id-2"))
	page := must[oldclient.SyncPage](t)(bob.Sync(map[string]int64{first.Conversation: 1}, 0))
	if len(page.Conversations) != 1 || page.More {
		t.Fatalf("got %+v", page)
	}
	if d := page.Conversations[0]; d.Conversation != first.Conversation || d.LastSeq != 2 || len(d.Messages) != 1 || d.Messages[0].Body != "are you there?" {
		t.Errorf("got %+v", d)
	}
	history := must[oldclient.HistoryPage](t)(bob.History(oldclient.HistoryOf{Peer: "alice"}, 0, 1))
	if history.LastSeq != 2 || len(history.Messages) != 1 || history.Messages[0].ClientID != "id-2" {
		t.Errorf("got %+v", history)
	}
	if p, ok, err := bob.Poll(10 * time.Second); err != nil || !ok || p.Message == nil {
		t.Errorf("polled %+v, %v, %v", p, ok, err)
	}
	if p, ok, err := alice.Poll(time.Millisecond); ok || err != nil {
		t.Errorf("polled %+v, %v", p, err)
	}
	check(t, alice.Ping())
}
