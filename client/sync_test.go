package client

import (
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// groups makes conversations of alice and bob with n messages each.
func (f *fake) groupsOf(conversations, n int) {
	for i := range conversations {
		id := strconv.Itoa(i + 1)
		f.members[id] = []string{"alice", "bob"}
		for range n {
			f.post(id, "bob", "old")
		}
	}
}

// post stores a message without telling anybody.
func (f *fake) post(id, sender, body string) {
	seq := int64(len(f.logs[id]) + 1)
	f.logs[id] = append(f.logs[id], &pb.Message{MessageId: 1000 + seq, Seq: seq, Sender: sender, Body: body})
}

// syncs takes the requests for a sync since the last call.
func (f *fake) syncs() (list []*pb.SyncReq) {
	f.do(func() {
		for _, p := range f.got {
			if p.Command == wire.CmdSync {
				req := new(pb.SyncReq)
				f.decode(&p, req)
				list = append(list, req)
			}
		}
		f.got = nil
	})
	return list
}

// With many conversations a sync costs what has changed: one small request if nothing has.
func TestSyncOfMany(t *testing.T) {
	sizes := []int{101, 5000}
	if !testing.Short() {
		sizes = append(sizes, 40_000) // beyond what 61 buckets are good for
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) { bubble(t, func(t *testing.T, f *fake) { syncOfMany(t, f, n) }) })
	}
}

func syncOfMany(t *testing.T, f *fake, n int) {
	modern(f)
	f.groupsOf(n, 1)
	store := &MemoryStore{}
	heard := map[string]int{}
	opened, gone := 0, 0
	hear := func(o *Options) {
		o.Store = store
		o.OnMessage = func(m Message) { heard[m.Conversation]++ }
		o.OnConversation = func(_ Conversation, left bool) {
			if opened++; left {
				gone++
			}
		}
	}
	first := start(t, f, "alice", hear).online()
	if err := first.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if len(heard) != n || opened != n || len(store.Cursors()) != n || len(first.Conversations()) != n {
		t.Fatalf("heard of %d, opened %d, kept %d", len(heard), opened, len(store.Cursors()))
	}
	for id, times := range heard {
		if times != 1 {
			t.Fatalf("conversation %s: heard %d times", id, times)
		}
	}
	first.Close()
	if err := first.ended(); err != nil {
		t.Fatal(err)
	}

	f.syncs()
	alice := start(t, f, "alice", hear).online()
	synctest.Wait()
	if list := f.syncs(); len(list) != 1 || len(list[0].GetCursors()) != 0 || len(list[0].GetDigests()) != int(list[0].GetBuckets()) {
		t.Errorf("nothing new: %d requests", len(list))
	}

	clear(heard)
	opened = 0
	f.do(func() {
		f.post("7", "bob", "new")                        // 7 has a new message
		f.members[strconv.Itoa(n+1)] = []string{"alice"} // one is new, and nothing was said there
		f.members["8"] = []string{"bob"}                 // and one is gone
		f.joined["9alice"], f.read["9alice"] = 1, 1      // read elsewhere: this client does not care
	})
	if err := alice.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if len(heard) != 1 || heard["7"] != 1 || opened != 2 || gone != 1 {
		t.Errorf("heard %v, %d changes, %d gone", heard, opened, gone)
	}
	cursors := store.Cursors()
	if _, there := cursors["8"]; there || cursors["7"] != 2 || len(cursors) != n {
		t.Errorf("kept %d cursors, 7 is at %d", len(cursors), cursors["7"])
	}
	if list := f.syncs(); len(list) < 2 || len(list) > 4 {
		t.Errorf("%d requests for three changes", len(list))
	}
	if err := alice.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := f.syncs(); len(list) != 1 {
		t.Errorf("%d requests for nothing", len(list))
	}
}

// A gap in one of many conversations is closed by asking for its bucket alone.
func TestGapOfMany(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		f.groupsOf(3000, 1)
		alice, bob := start(t, f, "alice").online(), start(t, f, "bob").online()
		synctest.Wait()
		f.do(func() { f.post("2000", "bob", "lost") })
		f.syncs()
		if _, err := bob.TalkGroup(t.Context(), "2000", Text("seen")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(gapWait)
		if got := alice.bodies()[3000:]; fmt.Sprint(got) != "[lost seen]" {
			t.Errorf("heard %v", got)
		}
		list := f.syncs()
		if len(list) != 2 || fmt.Sprint(list[0].GetOnly()) != fmt.Sprintf("[%d]", 2000%61) || len(list[0].GetCursors()) > 3000/61+1 {
			t.Errorf("%d requests, want alice's and bob's", len(list))
		}
	})
}

// A server without digests gets cursors, in one request.
func TestSyncOfManyWithOldServer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.groupsOf(500, 1)
		alice := start(t, f, "alice").online()
		if got := alice.bodies(); len(got) != 500 {
			t.Errorf("heard %d", len(got))
		}
		for _, req := range f.syncs() {
			if req.GetBuckets() != 0 || len(req.GetDigests())+len(req.GetOnly()) > 0 {
				t.Errorf("asked %v", req)
			}
		}
		if err := alice.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if list := f.syncs(); len(list) != 1 || len(list[0].GetCursors()) != 500 || list[0].GetCursors()[0].ReadSeq != nil {
			t.Errorf("%d requests", len(list))
		}
	})
}

// unreads are the conversations with their unread messages, as the device counts them.
func (u *user) unreads() (list []string) {
	synctest.Wait()
	for _, k := range u.Conversations() {
		if n, ok := u.Unread(k.ID); !ok || n != k.Unread {
			u.t.Errorf("%s: %d unread, %v; %+v", k.ID, n, ok, k)
		}
		list = append(list, fmt.Sprintf("%s:%d@%d", k.ID, k.Unread, k.ReadSeq))
	}
	return list
}

// Reading on one device shows on the others, on line or off, and after a restart.
func TestReads(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		f.groupsOf(2, 3)
		var told []string
		reads := func(o *Options) {
			o.OnRead = func(k Conversation) { told = append(told, fmt.Sprintf("%s:%d@%d", k.ID, k.Unread, k.ReadSeq)) }
		}
		store := &MemoryStore{}
		phone := start(t, f, "alice", func(o *Options) { o.Device, o.OnRead = "phone", func(Conversation) {} }).online()
		web := start(t, f, "alice", reads, func(o *Options) { o.Device, o.Store = "web", store }).online()
		bob := start(t, f, "bob").online()
		equal(t, "at first", web.unreads(), []string{"1:3@0", "2:3@0"})
		equal(t, "told", told, nil) // that is news to nobody

		if err := phone.MarkRead(t.Context(), "1", 2); err != nil {
			t.Fatal(err)
		}
		equal(t, "phone", phone.unreads(), []string{"1:1@2", "2:3@0"})
		equal(t, "web", web.unreads(), []string{"1:1@2", "2:3@0"})
		equal(t, "told", told, []string{"1:1@2"})

		if _, err := bob.TalkGroup(t.Context(), "1", Text("new")); err != nil {
			t.Fatal(err)
		}
		if _, err := phone.TalkGroup(t.Context(), "1", Text("mine")); err != nil {
			t.Fatal(err)
		}
		equal(t, "phone", phone.unreads(), []string{"1:2@2", "2:3@0"})
		equal(t, "web", web.unreads(), []string{"1:2@2", "2:3@0"})

		web.Close()
		if err := web.ended(); err != nil {
			t.Fatal(err)
		}
		if err := phone.MarkRead(t.Context(), "2", 99); err != nil { // beyond the end: to the end
			t.Fatal(err)
		}
		if err := phone.MarkRead(t.Context(), "1", 1); err != nil { // not back
			t.Fatal(err)
		}
		told = nil
		web = start(t, f, "alice", reads, func(o *Options) { o.Device, o.Store = "web", store }).online()
		equal(t, "after a restart", web.unreads(), []string{"1:2@2", "2:0@3"})
		if len(told) != 2 {
			t.Errorf("told %v", told)
		}
		equal(t, "phone", phone.unreads(), []string{"1:2@2", "2:0@3"})

		// Off line while another device reads.
		told = nil
		f.each("alice", func(l *fakeLink) {
			if l.device == "web" {
				l.close(1011)
			}
		})
		f.do(func() { f.noDial = func(string) error { return fmt.Errorf("off line") } })
		if err := phone.MarkRead(t.Context(), "1", 5); err != nil {
			t.Fatal(err)
		}
		f.do(func() { f.noDial = nil })
		synctest.Wait()
		web.online()
		equal(t, "web", web.unreads(), []string{"1:0@5", "2:0@3"})
		equal(t, "told", told, []string{"1:0@5"})

		if n, ok := web.Unread("404"); n != 0 || ok {
			t.Errorf("unread in no conversation: %d, %v", n, ok)
		}
	})
}

// With many conversations the read positions travel too.
func TestReadsOfMany(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		modern(f)
		f.groupsOf(3000, 2)
		store := &MemoryStore{}
		keep := func(o *Options) { o.Store, o.OnRead = store, func(Conversation) {} }
		first := start(t, f, "alice", keep).online()
		if err := first.MarkRead(t.Context(), "1", 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		first.Close()
		if err := first.ended(); err != nil {
			t.Fatal(err)
		}
		f.do(func() { f.read["2alice"] = 2 })
		alice := start(t, f, "alice", keep).online()
		want := map[string]int64{"1": 1, "2": 0, "3": 2, "3000": 2}
		check := func() {
			t.Helper()
			synctest.Wait()
			for id, n := range want {
				if got, ok := alice.Unread(id); got != n || !ok {
					t.Errorf("%s: %d unread, %v, want %d", id, got, ok, n)
				}
			}
		}
		check()
		f.syncs()
		f.do(func() { f.read["3alice"] = 1 })
		want["3"] = 1
		if err := alice.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		check()
		if list := f.syncs(); len(list) != 2 || len(list[1].GetOnly()) != 1 {
			t.Errorf("%d requests for one position", len(list))
		}
	})
}

// A server that knows no read positions: nothing is counted, and nothing else suffers.
func TestReadsWithOldServer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.groupsOf(1, 2)
		alice := start(t, f, "alice", func(o *Options) { o.OnRead = func(Conversation) { t.Error("told") } }).online()
		equal(t, "alice", alice.bodies(), []string{"old", "old"})
		if k := alice.Conversations(); len(k) != 1 || k[0].Seq != 2 {
			t.Errorf("conversations %+v", k)
		}
	})
}
