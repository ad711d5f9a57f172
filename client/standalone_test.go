package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hermod-im/hermod/client"
)

// device is a running client of a test against the real thing.
type device struct {
	*client.Client
	t    *testing.T
	end  func() // ends it, and returns when it has
	news chan struct{}

	mu       sync.Mutex
	heard    []client.Message
	opened   map[string]bool // false: gone
	outcomes []client.Outcome
}

func (s *server) device(t *testing.T, account, name string, change ...func(*client.Options)) *device {
	t.Helper()
	d := &device{t: t, news: make(chan struct{}, 1), opened: map[string]bool{}}
	o := client.Options{
		URL: s.url, Token: s.token(account), Device: name,
		OnMessage:      func(m client.Message) { d.note(func() { d.heard = append(d.heard, m) }) },
		OnConversation: func(k client.Conversation, gone bool) { d.note(func() { d.opened[k.ID] = !gone }) },
		OnRead:         func(client.Conversation) { d.note(func() {}) },
		OnOutcome:      func(k client.Outcome) { d.note(func() { d.outcomes = append(d.outcomes, k) }) },
	}
	for _, f := range change {
		f(&o)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	d.Client = c
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	d.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && t.Context().Err() == nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	t.Cleanup(d.end)
	return d
}

func (d *device) note(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// await waits until ok, which is called with mu held.
func (d *device) await(what string, ok func() bool) {
	d.t.Helper()
	late := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		reached := ok()
		d.mu.Unlock()
		if reached {
			return
		}
		select {
		case <-d.news:
		case <-late:
			d.t.Fatalf("waited for: %s", what)
		}
	}
}

func (d *device) unread(conversation string) int64 {
	d.t.Helper()
	n, ok := d.Unread(conversation)
	if !ok {
		d.t.Errorf("what is unread in %s is not known", conversation)
	}
	return n
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Many conversations, two devices and a restart against a whole system: what has changed comes once,
// what is unread is exact.
func TestStandaloneSync(t *testing.T) {
	s := startServer()
	t.Cleanup(s.stop)
	const groups = 250
	alice := s.device(t, "alice", "a")
	do(t, alice.Online(t.Context()))
	var ids []string
	for i := range groups {
		id := ""
		for id == "" {
			var err error
			id, err = alice.CreateGroup(t.Context(), client.NewGroup{Name: fmt.Sprint(i), Members: []string{"bob"}})
			if err != nil && !client.Retryable(err) {
				t.Fatal(err)
			}
		}
		ids = append(ids, id)
	}
	say := func(group string, n int) {
		t.Helper()
		for range n {
			_, err := alice.TalkGroup(t.Context(), group, client.Text("x"))
			do(t, err)
		}
	}
	say(ids[0], 5)
	say(ids[1], 2)

	store := &client.MemoryStore{}
	keep := func(o *client.Options) { o.Store = store }
	phone := s.device(t, "bob", "phone", keep)
	do(t, phone.Sync(t.Context()))
	phone.await("all conversations and messages", func() bool { return len(phone.opened) == groups && len(phone.heard) == 7 })
	if a, b, c := phone.unread(ids[0]), phone.unread(ids[1]), phone.unread(ids[2]); a != 5 || b != 2 || c != 0 {
		t.Errorf("unread: %d, %d, %d", a, b, c)
	}
	web := s.device(t, "bob", "web")
	do(t, web.Sync(t.Context()))
	do(t, web.MarkRead(t.Context(), ids[0], 3))
	phone.await("the other device's reading", func() bool { return phone.unread(ids[0]) == 2 })
	phone.end()

	say(ids[0], 1)
	say(ids[3], 4)
	do(t, web.QuitGroup(t.Context(), ids[4]))
	do(t, web.MarkRead(t.Context(), ids[1], 99))
	_, err := web.TalkGroup(t.Context(), ids[0], client.Text("mine"))
	do(t, err)
	phone = s.device(t, "bob", "phone", keep)
	do(t, phone.Sync(t.Context()))
	phone.await("what is new", func() bool {
		_, told := phone.opened[ids[4]]
		return len(phone.heard) == 6 && told
	})
	for _, d := range []*device{phone, web} {
		do(t, d.Sync(t.Context()))
		for i, want := range []int64{3, 0, 0, 4} {
			if n := d.unread(ids[i]); n != want {
				t.Errorf("%d: %d unread, want %d", i, n, want)
			}
		}
	}
	if list := phone.Conversations(); len(list) != groups-1 || slices.ContainsFunc(list, func(k client.Conversation) bool {
		return !k.Counted || k.Group != k.ID || k.ID == ids[4]
	}) {
		t.Errorf("%d conversations, the first %+v", len(list), list[0])
	}
	if cursors := store.Cursors(); len(cursors) != groups-1 || cursors[ids[0]] != 7 || cursors[ids[3]] != 4 {
		t.Errorf("%d cursors", len(cursors))
	}
}

// What is sent off line, by a run that ends, is stored once and in order, and each has its outcome.
func TestStandaloneOutbox(t *testing.T) {
	s := startServer()
	t.Cleanup(s.stop)
	outbox, store := &client.MemoryOutbox{}, &client.MemoryStore{}
	keep := func(o *client.Options) { o.Outbox, o.Store = outbox, store }
	nowhere := func(o *client.Options) {
		o.Token = func(context.Context) (string, error) { return "", errors.New("no network") }
	}
	var want []string
	first := s.device(t, "alice", "a", keep, nowhere)
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		_, err := first.Send(t.Context(), "bob", client.Text(want[i]))
		do(t, err)
	}
	first.end()
	second := s.device(t, "alice", "a", keep)
	for i := range 20 {
		want = append(want, fmt.Sprint(20+i))
		_, err := second.Send(t.Context(), "bob", client.Text(want[20+i]))
		do(t, err)
	}
	second.await("all outcomes", func() bool { return len(second.outcomes) == 40 })
	bob := s.device(t, "bob", "b")
	bob.await("all messages", func() bool { return len(bob.heard) >= 40 })
	for i, o := range second.outcomes {
		if m := bob.heard[i]; o.Err != nil || o.Draft.Body != want[i] || o.Sent.Seq != int64(i+1) || m.Body != want[i] || m.ClientID != o.Draft.ClientID {
			t.Errorf("%d: outcome %+v, heard %+v", i, o, m)
		}
	}
	if len(first.outcomes) != 0 || len(bob.heard) != 40 {
		t.Errorf("%d outcomes in the first run, %d messages", len(first.outcomes), len(bob.heard))
	}
}
