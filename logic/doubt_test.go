package logic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// brokenCommits stores every draft under its client id, and says that it has failed while broken.
type brokenCommits struct {
	storage.Messages
	broken bool
	takes  time.Duration
	quit   bool // the senders have
	down   error
	stored map[string]bool
}

func (b *brokenCommits) Append(_ context.Context, drafts []*storage.Draft) error {
	time.Sleep(b.takes)
	for _, d := range drafts {
		d.Err, d.Duplicate, d.Members = nil, b.stored[d.ClientID], []string{d.Sender, d.Dest}
		if b.quit {
			d.Members = nil
		}
		b.stored[d.ClientID] = true
	}
	if b.broken {
		return fmt.Errorf("connection lost: %w", storage.ErrInDoubt)
	}
	return nil
}

func (b *brokenCommits) Ping(context.Context) error { return b.down }

// recorder takes what is pushed to gateways, and answers.
type recorder struct{ packets []wire.LogicPkt }

func (r *recorder) take(packet []byte) error {
	var p wire.LogicPkt
	err := p.Unmarshal(packet)
	r.packets = append(r.packets, p)
	return err
}

func (r *recorder) Push(_ string, packet []byte) error { return r.take(packet) }
func (r *recorder) Speaks(string, uint32) bool         { return true }
func (r *recorder) Broadcast(packet []byte)            { _ = r.take(packet) }

type agent struct{ recorder }

func (*agent) ID() string                   { return "gateway#1" }
func (a *agent) Push(packet []byte) error   { return a.take(packet) }
func (a *agent) last() (status wire.Status) { return a.packets[len(a.packets)-1].Status }

// A database that died during a commit had stored the message. The sender's second attempt found it
// and was answered, but no device without "sync" was ever pushed it: for those a duplicate is nothing new.
func TestMessageInDoubtIsPushedWhenItIsSentAgain(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := newMetrics(prometheus.NewRegistry())
	sessions := memory.NewSessions(memory.Options{})
	_, err := sessions.RenewLease(t.Context(), "g", time.Minute.Milliseconds(), 0)
	require.NoError(t, err)
	_, err = sessions.Login(t.Context(), storage.Session{App: "a", Account: "bob", Channel: "bob's", Gateway: "g"}, storage.DevicePolicy{})
	require.NoError(t, err)

	pushed, asked := new(recorder), new(agent)
	messages := &brokenCommits{broken: true, stored: map[string]bool{}}
	d := newDispatcher(Config{Timeout: time.Second}, sessions, pushed, apart{}, m, log.WithField("test", true))
	s := newCommitter(Config{Shards: 1, Timeout: time.Second, Now: time.Now}, messages, d, apart{}, m, log.WithField("test", true)).shards[0]
	say := func() {
		c := &Context{agent: asked, node: &Node{metrics: m}, log: d.log}
		c.Packet.Command, c.Packet.ChannelID = wire.CmdUserTalk, "alice's"
		batch := []*utterance{{c: c, draft: storage.Draft{App: "a", Sender: "alice", Dest: "bob", Kind: storage.KindUser, ClientID: "1"}}}
		s.commit(batch)
		if !s.tell(batch) {
			d.messages(batch)
		}
	}

	say()
	require.Equal(t, wire.StatusSystemException, asked.last())
	require.Empty(t, pushed.packets, "nothing is known to be stored")
	messages.broken = false
	say()
	require.Equal(t, wire.StatusSuccess, asked.last())
	require.Len(t, pushed.packets, 1)
	require.Equal(t, []string{"bob's"}, pushed.packets[0].Channels)
	say()
	require.Equal(t, wire.StatusSuccess, asked.last())
	require.Len(t, pushed.packets, 1, "an old client would show it twice")
}

// A commit that is given up after its timeout: its sender, who has heard of it only then, is waited for all the same.
func TestSenderIsWaitedForAfterTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics(prometheus.NewRegistry())
		cfg := Config{Shards: 1, Timeout: 10 * time.Second, Now: time.Now}
		d := newDispatcher(cfg, memory.NewSessions(memory.Options{}), new(recorder), apart{}, m, quiet())
		committer := newCommitter(cfg, &brokenCommits{broken: true, takes: cfg.Timeout, stored: map[string]bool{}}, d, apart{}, m, quiet())
		s := committer.shards[0]
		s.commit([]*utterance{{draft: storage.Draft{App: "a", Sender: "alice", Dest: "bob", Kind: storage.KindUser, ClientID: "1"}}})
		committer.hintDue(t.Context(), time.Now().Add(doubtWait-time.Millisecond))
		require.True(t, committer.inDoubt())
		committer.hintDue(t.Context(), time.Now().Add(doubtWait))
		require.False(t, committer.inDoubt())
	})
}

// Flaw 8: a message that was stored by a commit without an answer, and that its sender does not send
// again, or cannot in a way that tells, was told to nobody until somebody said something else there.
func TestMembersAreHintedOfWhatStaysInDoubt(t *testing.T) {
	f := build(t, nil)
	messages := &brokenCommits{broken: true, stored: map[string]bool{}, down: errors.New("down")}
	for _, s := range f.committer.shards {
		s.messages = messages
	}
	old1, new1 := f.online("gateway-1", "alice", old, "")[0], f.online("gateway-1", "bob", syncs, "phone")[0]
	old2 := f.online("gateway-2", "carol", old, "")[0]
	f.online("gateway-2", "dave", old, "")
	s := f.committer.shards[0]
	say := func(dest, clientID string) {
		h := talkTo("alice", dest)
		u := &utterance{c: &Context{Packet: wire.LogicPkt{Header: h}, node: f.Node, agent: f.agent, log: quiet()}}
		u.draft = storage.Draft{App: "demo", Sender: "alice", Dest: dest, Kind: storage.KindUser, ClientID: clientID}
		s.commit([]*utterance{u})
	}
	start := time.Now()
	say("bob", "")
	say("carol", "1")
	hinted := func(after time.Duration) []string {
		before := len(f.links.pushes())
		f.committer.hintDue(t.Context(), start.Add(after))
		var out []string
		for _, p := range f.links.pushes()[before:] {
			require.Equal(t, wire.CmdSyncHint, p.Command)
			require.Empty(t, p.Body)
			out = append(out, p.Channels...)
		}
		slices.Sort(out)
		return out
	}
	require.Empty(t, hinted(time.Hour), "the database does not answer: they would find nothing")
	messages.down = nil
	require.Empty(t, hinted(0), "nothing is due")
	require.Equal(t, []string{old1, new1}, hinted(2*doubtPause), "nobody can ask again for a message without a client id")
	require.Empty(t, hinted(2*doubtPause))
	require.True(t, f.committer.inDoubt())
	require.Equal(t, []string{old1, old2}, hinted(2*doubtWait))
	require.False(t, f.committer.inDoubt())

	messages.broken = false
	say("carol", "2")
	messages.broken = true
	say("carol", "2")
	messages.broken = false
	say("carol", "2")
	require.Empty(t, hinted(time.Hour), "the sender has asked again")
}

// The sender of a message in doubt that quits the group and asks again gets its answer, and nothing is pushed
// for it: the others are hinted.
func TestWhoHasQuitSettlesNoDoubt(t *testing.T) {
	f := build(t, nil)
	messages := &brokenCommits{broken: true, stored: map[string]bool{}}
	s := f.committer.shards[0]
	s.messages = messages
	f.online("gateway-1", "carol", old, "")
	for range 3 {
		u := &utterance{c: &Context{Packet: wire.LogicPkt{Header: talkTo("alice", "carol")}, node: f.Node, agent: f.agent, log: quiet()}}
		u.draft = storage.Draft{App: "demo", Sender: "alice", Dest: "carol", Kind: storage.KindUser, ClientID: "1"}
		s.commit([]*utterance{u})
		messages.quit, messages.broken = true, !messages.quit // in doubt, in doubt again, answered
	}
	before := len(f.links.pushes())
	f.committer.hintDue(t.Context(), time.Now().Add(time.Hour))
	require.Len(t, f.links.pushes(), before+1)
}

// An error that leaves no doubt owes nobody anything.
func TestFailedCommitsAreNoDoubts(t *testing.T) {
	f := start(t, nil)
	f.store.set(func() { f.store.err = errors.New("no connection") })
	f.fails(talkTo("alice", "bob"), &pb.MessageReq{Body: "x", ClientId: "1"}, wire.StatusSystemException)
	require.False(t, f.committer.inDoubt())
}

func TestDoubtsAreBounded(t *testing.T) {
	b, now := newDoubts(), time.Now()
	draft := func(i int) *storage.Draft { return &storage.Draft{ClientID: fmt.Sprint(i), Members: []string{"bob"}} }
	for i := range maxDoubts {
		require.True(t, b.note(draft(i), now))
	}
	require.False(t, b.note(draft(maxDoubts), now))
	require.True(t, b.resolve(draft(1)))
	require.False(t, b.resolve(draft(1)))
	members := map[storage.AccountKey]struct{}{}
	b.due(now.Add(doubtWait), members)
	require.Len(t, members, 1)
	require.False(t, b.any())
}
