package logic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
)

// fakeStore is messages and groups in memory, as slow and as broken as a test wants.
type fakeStore struct {
	storage.Messages // nil: what is not overridden is not called
	storage.Groups

	mu       sync.Mutex
	gate     chan struct{} // not nil: Append waits for a token
	entered  chan int      // not nil: Append tells the size of its batch before
	err      error         // what everything returns
	refuse   map[string]error
	batches  [][]*storage.Draft
	seqs     map[string]int64
	ids      int64
	members  map[string][]string // of groups
	news     storage.News
	stale    []uint32
	position storage.Position
	moved    bool
	page     storage.Delta
	entries  []storage.IndexEntry
	content  []storage.Message
	acked    map[int64]int64
	asked    []string // calls, with their arguments
}

func newFakeStore() *fakeStore {
	return &fakeStore{seqs: map[string]int64{}, members: map[string][]string{}, refuse: map[string]error{}}
}

func (s *fakeStore) note(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
	return s.err
}

func (s *fakeStore) Append(ctx context.Context, drafts []*storage.Draft) error {
	s.mu.Lock()
	gate, entered := s.gate, s.entered
	s.mu.Unlock()
	if entered != nil {
		entered <- len(drafts)
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, drafts)
	if s.err != nil {
		return s.err
	}
	for _, d := range drafts {
		if d.Err = s.refuse[d.Dest]; d.Err != nil {
			continue
		}
		key := d.App + "/" + d.Dest
		d.Members = s.members[key]
		if d.Kind == storage.KindUser {
			key = d.App + "/" + min(d.Sender, d.Dest) + "/" + max(d.Sender, d.Dest)
			d.Members = slices.Compact([]string{min(d.Sender, d.Dest), max(d.Sender, d.Dest)})
		}
		s.seqs[key]++
		s.ids++
		d.Conversation, d.Seq, d.MessageID = 7, s.seqs[key], s.ids
	}
	return nil
}

// committed are the bodies that were stored, in order.
func (s *fakeStore) committed() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batches {
		for _, d := range b {
			out = append(out, d.Body)
		}
	}
	return out
}

func (s *fakeStore) Index(_ context.Context, app, account string, after int64, acknowledged bool, limit int) ([]storage.IndexEntry, error) {
	return s.entries, s.note("index %s %s %d %v %d", app, account, after, acknowledged, limit)
}

func (s *fakeStore) Content(_ context.Context, app, account string, ids []int64) ([]storage.Message, error) {
	return s.content, s.note("content %s %s %d", app, account, len(ids))
}

func (s *fakeStore) Ack(_ context.Context, app, account string, id int64, delivered []storage.Run) (map[int64]int64, error) {
	return s.acked, s.note("ack %s %s %d %v", app, account, id, delivered)
}

func (s *fakeStore) Sync(_ context.Context, app, account string, q storage.SyncQuery) (storage.News, error) {
	return s.news, s.note("sync %s %s %+v", app, account, q)
}

func (s *fakeStore) Stale(_ context.Context, app, account string, digests []storage.Digest) ([]uint32, error) {
	return s.stale, s.note("stale %s %s %+v", app, account, digests)
}

func (s *fakeStore) Read(_ context.Context, app, account string, conversation, seq int64) (storage.Position, bool, error) {
	return s.position, s.moved, s.note("read %s %s %d %d", app, account, conversation, seq)
}

func (s *fakeStore) History(_ context.Context, app, account string, r storage.Range) (storage.Delta, error) {
	return s.page, s.note("history %s %s %+v", app, account, r)
}

func (s *fakeStore) Ping(context.Context) error { return s.err }
func (s *fakeStore) Close() error               { return nil }

func (s *fakeStore) CreateGroup(_ context.Context, g storage.Group, limits storage.GroupLimits) (string, error) {
	if err := s.note("create %s %s %s %d %+v", g.App, g.Owner, g.Name, len(g.Members), limits); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := strconv.Itoa(100 + len(s.members))
	for _, m := range g.Members {
		s.members[g.App+"/"+id] = append(s.members[g.App+"/"+id], m.Account)
	}
	return id, nil
}

func (s *fakeStore) Join(_ context.Context, app, id, account string, limits storage.GroupLimits) ([]string, error) {
	if err := s.note("join %s %s %s %+v", app, id, account, limits); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	others, ok := s.members[app+"/"+id]
	switch {
	case !ok:
		return nil, storage.ErrNoConversation
	case slices.Contains(others, account):
		return nil, storage.ErrAlreadyMember
	}
	s.members[app+"/"+id] = append(slices.Clone(others), account)
	return others, nil
}

func (s *fakeStore) Quit(_ context.Context, app, id, account string) ([]string, error) {
	if err := s.note("quit %s %s %s", app, id, account); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.members[app+"/"+id], account) {
		return nil, storage.ErrNotMember
	}
	s.members[app+"/"+id] = without(s.members[app+"/"+id], account)
	return s.members[app+"/"+id], nil
}

func (s *fakeStore) Group(_ context.Context, app, id, account string) (storage.Group, error) {
	if err := s.note("group %s %s %s", app, id, account); err != nil {
		return storage.Group{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.members[app+"/"+id], account) {
		return storage.Group{}, storage.ErrNotMember
	}
	g := storage.Group{App: app, ID: id, Name: "the group", Owner: "alice"}
	for _, m := range s.members[app+"/"+id] {
		g.Members = append(g.Members, storage.Member{Account: m, JoinedAt: 1})
	}
	return g, nil
}

func (s *fakeStore) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *fakeStore) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// sessions is a session store in memory that can be down.
type sessions struct {
	*memory.Sessions
	mu   sync.Mutex
	down bool
}

var errStoreDown = errors.New("the session store is down")

func newSessions() *sessions { return &sessions{Sessions: memory.NewSessions(memory.Options{})} }

func (s *sessions) setDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
}

func (s *sessions) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return errStoreDown
	}
	return nil
}

func (s *sessions) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Sessions.Find(ctx, keys)
}

func (s *sessions) Login(ctx context.Context, x storage.Session, p storage.DevicePolicy) (storage.Admission, error) {
	if err := s.err(); err != nil {
		return storage.Admission{}, err
	}
	return s.Sessions.Login(ctx, x, p)
}

func (s *sessions) NoteMissed(ctx context.Context, gateway string, channels, kicked []string) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Sessions.NoteMissed(ctx, gateway, channels, kicked)
}

func (s *sessions) Ping(context.Context) error { return s.err() }

// fakeLinks are the ways to gateways, of which each may be full or not there.
type fakeLinks struct {
	mu        sync.Mutex
	old       bool // gateways that take one push a packet
	fails     map[string]error
	pushed    []pushed
	broadcast []wire.LogicPkt
	happened  await.Events
}

type pushed struct {
	gateway string
	wire.LogicPkt
}

func (l *fakeLinks) Push(gateway string, packet []byte) error {
	var p wire.LogicPkt
	if err := p.Unmarshal(bytes.Clone(packet)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.happened.Happened()
	if err := l.fails[gateway]; err != nil {
		return err
	}
	l.pushed = append(l.pushed, pushed{gateway, p})
	return nil
}

func (l *fakeLinks) Speaks(_ string, version uint32) bool {
	return !l.old || version < container.VersionPushes
}

func (l *fakeLinks) Broadcast(packet []byte) {
	var p wire.LogicPkt
	if err := p.Unmarshal(bytes.Clone(packet)); err != nil {
		panic(err)
	}
	l.mu.Lock()
	l.broadcast = append(l.broadcast, p)
	l.mu.Unlock()
	l.happened.Happened()
}

func (l *fakeLinks) pushes() []pushed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pushed)
}

func (l *fakeLinks) broadcasts() []wire.LogicPkt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.broadcast)
}

// fakeAgent is the link that a request came on: it keeps the answers.
type fakeAgent struct {
	im.Agent
	mu       sync.Mutex
	answers  []wire.LogicPkt
	happened await.Events
}

func (a *fakeAgent) Push(payload []byte) error {
	var p wire.LogicPkt
	if err := p.Unmarshal(bytes.Clone(payload)); err != nil {
		panic(err)
	}
	a.mu.Lock()
	a.answers = append(a.answers, p)
	a.mu.Unlock()
	a.happened.Happened()
	return nil
}

func (a *fakeAgent) got() []wire.LogicPkt {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.answers)
}

// fakeServer is the server of a node whose links the test stands in for.
type fakeServer struct{ im.Server }

func (fakeServer) SetAcceptor(im.Acceptor)               {}
func (fakeServer) SetMessageListener(im.MessageListener) {}
func (fakeServer) SetStateListener(im.StateListener)     {}
