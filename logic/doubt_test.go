package logic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/wire"
)

// brokenCommits stores every draft under its client id, and says that it has failed while broken.
type brokenCommits struct {
	storage.Messages
	broken bool
	stored map[string]bool
}

func (b *brokenCommits) Append(_ context.Context, drafts []*storage.Draft) error {
	for _, d := range drafts {
		d.Err, d.Duplicate, d.Members = nil, b.stored[d.ClientID], []string{d.Sender, d.Dest}
		b.stored[d.ClientID] = true
	}
	if b.broken {
		return errors.New("connection lost during the commit")
	}
	return nil
}

// recorder takes what is pushed to gateways, and answers.
type recorder struct{ packets []wire.LogicPkt }

func (r *recorder) take(packet []byte) error {
	var p wire.LogicPkt
	err := p.Unmarshal(packet)
	r.packets = append(r.packets, p)
	return err
}

func (r *recorder) Push(_ string, packet []byte) error { return r.take(packet) }
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
	d := newDispatcher(sessions, pushed, m, log.WithField("test", true), time.Second)
	s := newCommitter(Config{Shards: 1, Timeout: time.Second, Now: time.Now}, messages, d, m, log.WithField("test", true)).shards[0]
	say := func() {
		c := &Context{agent: asked, node: &Node{metrics: m}, log: d.log}
		c.Packet.Command, c.Packet.ChannelID = wire.CmdUserTalk, "alice's"
		batch := []*utterance{{c: c, draft: storage.Draft{App: "a", Sender: "alice", Dest: "bob", Kind: storage.KindUser, ClientID: "1"}}}
		s.commit(batch)
		d.messages(batch)
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

func TestDoubtsAreBounded(t *testing.T) {
	b, now := newDoubts(), time.Now()
	draft := func(i int) *storage.Draft { return &storage.Draft{ClientID: fmt.Sprint(i)} }
	require.True(t, b.note(&storage.Draft{}, now), "without a client id there is nothing to remember")
	require.False(t, b.any())
	for i := range maxDoubts {
		require.True(t, b.note(draft(i), now))
	}
	require.False(t, b.note(draft(maxDoubts), now.Add(doubtWait)))
	require.True(t, b.note(draft(maxDoubts), now.Add(doubtWait+time.Second)), "old ones make room")
	require.True(t, b.resolve(draft(maxDoubts)))
	require.False(t, b.resolve(draft(maxDoubts)))
	require.False(t, b.any())
}
