package oracle_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/hermod-im/hermod/verify/internal/oracle"
)

// scene is three accounts: two in a conversation, and a stranger.
type scene struct {
	o                  *oracle.Oracle
	topic              int
	phone, old, tablet *oracle.Device // of accounts 0, 1 and 2
	sent               []message
}

type message struct {
	n         int
	body, cid string
}

const conversation = "77"

func newScene() *scene {
	s := &scene{o: oracle.New("run", []string{"a", "b", "c"})}
	s.topic = s.o.Topic("a and b", "", 0, 1)
	s.phone = &oracle.Device{Account: 0, Name: "phone", Steady: true}
	s.old = &oracle.Device{Account: 1, Name: "old", Kind: oracle.IDs, Steady: true}
	s.tablet = &oracle.Device{Account: 2, Name: "tablet", Steady: true}
	for _, d := range []*oracle.Device{s.phone, s.old, s.tablet} {
		s.o.Open(d)
	}
	return s
}

// say sends the next message from account 0, without an answer.
func (s *scene) say() message {
	n, body, cid := s.o.Send(s.topic, 0, false)
	m := message{n, body, cid}
	s.sent = append(s.sent, m)
	return m
}

// said sends and answers the next message: seq and id follow.
func (s *scene) said() message {
	m := s.say()
	s.answered(m, len(s.sent))
	return m
}

// answered answers a message to its sender, with this seq.
func (s *scene) answered(m message, seq int, change ...func(*oracle.Answer)) {
	a := oracle.Answer{ID: id(seq), Seq: int64(seq), Conversation: conversation, By: s.phone, Shown: true, InOrder: true}
	for _, f := range change {
		f(&a)
	}
	s.o.Answered(m.n, a)
}

func id(seq int) int64 { return 1000 + int64(seq) }

func (s *scene) shown(d *oracle.Device, seq int, change ...func(*oracle.Delivery)) {
	m := s.sent[seq-1]
	x := oracle.Delivery{Conversation: conversation, Seq: int64(seq), ID: id(seq), Sender: "a", Body: m.body, ClientID: m.cid}
	for _, f := range change {
		f(&x)
	}
	s.o.Delivered(d, x)
}

func (s *scene) row(seq int) oracle.Row {
	m := s.sent[seq-1]
	return oracle.Row{Conversation: conversation, Seq: int64(seq), ID: id(seq), Sender: "a", Body: m.body, ClientID: m.cid}
}

// judge audits these seqs and ends the row.
func (s *scene) judge(stored ...int) (oracle.Counts, []string) {
	a := s.o.NewAudit(false)
	for _, seq := range stored {
		a.Stored(s.row(seq))
	}
	a.Done()
	g := s.o.NewGoal(false)
	defer g.Drop()
	return s.o.Judge(g)
}

// Everything that can go wrong must be seen, and nothing else.
func TestVerdicts(t *testing.T) {
	type counts = oracle.Counts
	for name, test := range map[string]struct {
		run  func(s *scene) (oracle.Counts, []string)
		want counts
	}{
		"all is well": {func(s *scene) (counts, []string) {
			s.said()
			s.said()
			s.shown(s.old, 1)
			s.shown(s.old, 2, func(m *oracle.Delivery) { m.Synced = true })
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 1, Synced: 1}},
		"lost": {func(s *scene) (counts, []string) {
			s.said()
			s.said()
			s.shown(s.old, 2)
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 1, Lost: 1}},
		"the last one lost": {func(s *scene) (counts, []string) {
			s.said()
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Lost: 1}},
		"lost, though only the database knows of it": {func(s *scene) (counts, []string) {
			m := s.say()
			s.o.Failed(m.n, errors.New("no answer"))
			return s.judge(1)
		}, counts{Sent: 1, Errors: 1, Unanswered: 1, Lost: 2}},
		"lost is counted once, and may come late": {func(s *scene) (counts, []string) {
			s.said()
			s.judge(1)
			s.shown(s.old, 1)
			return s.judge()
		}, counts{Live: 1}},
		"doubled": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, Doubled: 1}},
		"doubled to who had the answer": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.phone, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, Doubled: 1}},
		"swapped, for an old client": {func(s *scene) (counts, []string) {
			s.said()
			s.said()
			s.shown(s.old, 2)
			s.shown(s.old, 1)
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 2, Overtaken: 1}},
		"swapped": {func(s *scene) (counts, []string) {
			pad := &oracle.Device{Account: 1, Name: "pad"}
			s.o.Open(pad)
			s.said()
			s.said()
			for _, d := range []*oracle.Device{s.old, pad} {
				s.shown(d, 2-slices.Index([]*oracle.Device{pad, s.old}, d))
				s.shown(d, 1+slices.Index([]*oracle.Device{pad, s.old}, d))
			}
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 4, Reordered: 1}},
		"ids against seqs": {func(s *scene) (counts, []string) {
			a, b := s.say(), s.say()
			s.answered(a, 1, func(a *oracle.Answer) { a.ID = 9 })
			s.answered(b, 2, func(a *oracle.Answer) { a.ID = 8 })
			c, examples := s.o.Judge(s.o.NewGoal(true))
			return c, examples
		}, counts{Sent: 2, Acked: 2, Reordered: 1, Lost: 2}},
		"said in another order": {func(s *scene) (counts, []string) {
			a, b := s.say(), s.say()
			s.sent[0], s.sent[1] = b, a
			s.answered(a, 2)
			s.answered(b, 1)
			s.shown(s.old, 1)
			s.shown(s.old, 2)
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 2, Reordered: 1}},
		"said at the same time": {func(s *scene) (counts, []string) {
			a, b := s.say(), s.say()
			s.sent[0], s.sent[1] = b, a
			s.answered(a, 2, func(a *oracle.Answer) { a.InOrder = false })
			s.answered(b, 1, func(a *oracle.Answer) { a.InOrder = false })
			s.shown(s.old, 1)
			s.shown(s.old, 2)
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 2}},
		"to be shown like any other": {func(s *scene) (counts, []string) {
			s.answered(s.say(), 1, func(a *oracle.Answer) { a.Shown = false })
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 1, Lost: 1}},
		"a foreign reader": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.tablet, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, WrongReaders: 1}},
		"another sender": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.phone, 1, func(m *oracle.Delivery) { m.Sender = "c" })
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, WrongReaders: 1}},
		"a body that was changed": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1, func(m *oracle.Delivery) { m.Body += " " })
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, WrongReaders: 1}},
		"another run's": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.old, 1, func(m *oracle.Delivery) { m.Body = "other" + m.Body })
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, WrongReaders: 1}},
		"another client id": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.shown(s.phone, 1, func(m *oracle.Delivery) { m.ClientID = "run-1" })
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 2, WrongReaders: 1}},
		"two ids for one client id": {func(s *scene) (counts, []string) {
			m := s.said()
			s.answered(m, 2)
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 1, TwoIDs: 1}},
		"a repetition that is answered alike": {func(s *scene) (counts, []string) {
			m := s.said()
			s.answered(m, 1)
			s.o.Repeated()
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 1, Acked: 1, Live: 1, Repeated: 1}},
		"two messages at one seq": {func(s *scene) (counts, []string) {
			s.said()
			m := s.say()
			s.answered(m, 1, func(a *oracle.Answer) { a.ID = id(2) })
			s.shown(s.old, 1)
			return s.judge(1)
		}, counts{Sent: 2, Acked: 2, Live: 1, TwoIDs: 1}},
		"stored twice": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			a := s.o.NewAudit(false)
			a.Stored(s.row(1))
			again := s.row(1)
			again.Seq, again.ID = 2, id(2)
			a.Stored(again)
			a.Done()
			return s.o.Judge(s.o.NewGoal(true))
		}, counts{Sent: 1, Acked: 1, Live: 1, TwoIDs: 1}},
		"one conversation with two ids": {func(s *scene) (counts, []string) {
			s.said()
			m := s.say()
			s.answered(m, 2, func(a *oracle.Answer) { a.Conversation = "78" })
			s.shown(s.old, 1)
			s.shown(s.old, 2)
			return s.judge(1, 2)
		}, counts{Sent: 2, Acked: 2, Live: 2, TwoIDs: 1}},
		"a gap": {func(s *scene) (counts, []string) {
			s.sent = append(s.sent, message{})
			s.said()
			s.shown(s.old, 2, func(m *oracle.Delivery) { m.Body, m.ClientID = s.sent[1].body, s.sent[1].cid })
			return s.judge(2)
		}, counts{Sent: 1, Acked: 1, Live: 1, Gaps: 1}},
		"answered but not stored": {func(s *scene) (counts, []string) {
			s.said()
			s.said()
			s.shown(s.old, 1)
			s.shown(s.old, 2)
			return s.judge(1)
		}, counts{Sent: 2, Acked: 2, Live: 2, NotStored: 1}},
		"stored by somebody else": {func(s *scene) (counts, []string) {
			a := s.o.NewAudit(false)
			a.Stored(oracle.Row{Conversation: conversation, Seq: 1, ID: 1, Sender: "a", Body: "hello"})
			a.Done()
			return s.o.Judge(s.o.NewGoal(true))
		}, counts{WrongReaders: 1}},
		"stored but unanswered": {func(s *scene) (counts, []string) {
			m := s.say()
			s.o.Unknown(m.n)
			s.shown(s.old, 1)
			s.shown(s.phone, 1)
			return s.judge(1)
		}, counts{Sent: 1, Live: 2, Unknown: 1, Unanswered: 1}},
		"no outcome": {func(s *scene) (counts, []string) {
			s.say()
			return s.judge()
		}, counts{Sent: 1, Errors: 1}},
		"a late outcome": {func(s *scene) (counts, []string) {
			m := s.say()
			s.judge()
			s.answered(m, 1)
			s.shown(s.old, 1)
			<-s.o.Idle()
			return s.judge(1)
		}, counts{Acked: 1, Live: 1}},
		"what was vanished later": {func(s *scene) (counts, []string) {
			s.said()
			s.shown(s.old, 1)
			s.judge(1)
			s.o.NewAudit(true).Done()
			return s.judge()
		}, counts{NotStored: 1}},
		"a wild seq": {func(s *scene) (counts, []string) {
			m := s.say()
			s.answered(m, 1<<40)
			return s.judge()
		}, counts{Sent: 1, Acked: 1, TwoIDs: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, examples := test.run(newScene())
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v\n%v", got, test.want, examples)
			}
			troubles := got.Lost + got.Doubled + got.Reordered + got.Gaps + got.TwoIDs + got.NotStored + got.WrongReaders + got.Errors
			if int64(len(examples)) != troubles {
				t.Errorf("%d troubles, in words %q", troubles, examples)
			}
		})
	}
}

// Who joins reads from then on, and who has quit reads no more.
func TestMembership(t *testing.T) {
	for name, test := range map[string]struct {
		run  func(s *scene)
		want oracle.Counts
	}{
		"what was before": {func(s *scene) {
			s.said()
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 1)
			s.shown(s.tablet, 1)
		}, oracle.Counts{WrongReaders: 1}},
		"what was before, shown before that is known": {func(s *scene) {
			s.said()
			s.o.Joining(s.topic, 2)
			s.said()
			s.shown(s.tablet, 2)
			s.o.Joined(s.topic, 2, 2)
		}, oracle.Counts{WrongReaders: 1}},
		"while joining": {func(s *scene) {
			s.said()
			s.o.Joining(s.topic, 2)
			s.said()
			s.said()
			s.shown(s.tablet, 3)
			s.o.Joined(s.topic, 2, 2)
		}, oracle.Counts{}},
		"too early a beginning": {func(s *scene) {
			s.said()
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 0)
		}, oracle.Counts{WrongReaders: 1}},
		"lost after joining": {func(s *scene) {
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 0)
			s.said()
		}, oracle.Counts{Lost: 1}},
		"nothing is expected of who leaves": {func(s *scene) {
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 0)
			s.said()
			s.o.Leaving(s.topic, 2)
			s.said()
			s.shown(s.tablet, 2)
			s.o.Left(s.topic, 2)
		}, oracle.Counts{}},
		// Regression: the quit was made, its answer lost, and a new device was expected to have everything.
		"nothing is expected of a new device of who may have left": {func(s *scene) {
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 0)
			s.o.Leaving(s.topic, 2)
			s.said()
			s.o.Open(&oracle.Device{Account: 2, Name: "fresh"})
		}, oracle.Counts{}},
		"after leaving": {func(s *scene) {
			s.o.Joining(s.topic, 2)
			s.o.Joined(s.topic, 2, 0)
			s.o.Leaving(s.topic, 2)
			s.o.Left(s.topic, 2)
			s.said()
			s.shown(s.tablet, 1)
		}, oracle.Counts{WrongReaders: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.run(s)
			var stored []int
			for seq := range s.sent {
				s.shown(s.old, seq+1)
				stored = append(stored, seq+1)
			}
			got, examples := s.judge(stored...)
			got.Sent, got.Acked, got.Live = 0, 0, 0
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v\n%v", got, test.want, examples)
			}
		})
	}
}

func reached(g *oracle.Goal) bool {
	select {
	case <-g.Done():
		return true
	default:
		return false
	}
}

func TestGoal(t *testing.T) {
	s := newScene()
	flapping := &oracle.Device{Account: 1, Name: "flapping"}
	s.o.Open(flapping)
	s.said()
	steady, all := s.o.NewGoal(true), s.o.NewGoal(false)
	expect := func(when string, want, wantAll bool) {
		t.Helper()
		if reached(steady) != want || reached(all) != wantAll {
			t.Errorf("%s: steady %v, all %v", when, reached(steady), reached(all))
		}
	}
	expect("at first", false, false)
	s.shown(s.old, 1)
	expect("the steady ones have all", true, false)
	s.said() // behind the goals
	s.shown(flapping, 1)
	expect("all have all", true, true)
	steady.Raise(conversation, 2)
	expect("raised", false, true)
	s.shown(s.old, 2)
	expect("reached again", true, true)

	if n, lacks := all.Behind(1); n != 0 {
		t.Errorf("%d are behind: %q", n, lacks)
	}

	late := &oracle.Device{Account: 0, Name: "late", Steady: true}
	s.o.Open(late)
	g := s.o.NewGoal(true)
	if reached(g) {
		t.Error("a new device has everything")
	}
	if n, lacks := g.Behind(1); n != 1 || len(lacks) != 1 || lacks[0] != "a/late lacks seq 1 to 2 of a and b" {
		t.Errorf("%d are behind: %q", n, lacks)
	}
	s.o.Close(late)
	if !reached(g) {
		t.Error("a closed device is waited for")
	}
}

// Regression: what a guest was shown before its join was answered closed the goal, and who was still
// behind was taken for one that had lost it.
func TestGoalDoesNotCountWhoIsJoining(t *testing.T) {
	for name, steady := range map[string]bool{"steady": true, "all": false} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			s.o.Joining(s.topic, 2)
			s.said()
			g := s.o.NewGoal(steady)
			s.shown(s.tablet, 1)
			if reached(g) {
				t.Error("reached, though b/old lacks the message")
			}
			s.shown(s.old, 1)
			if !reached(g) {
				t.Error("not reached, though all members have all")
			}
			s.said()
			g.Raise(conversation, 2)
			s.o.Joined(s.topic, 2, 0)
			s.shown(s.old, 2)
			if reached(g) {
				t.Error("reached, though c/tablet, which has joined, lacks the second message")
			}
			s.shown(s.tablet, 2)
			if !reached(g) {
				t.Error("not reached, though all have all")
			}
		})
	}
}

func TestBodiesDiffer(t *testing.T) {
	s := newScene()
	seen := map[string]bool{}
	for i := range 300 {
		m := s.say()
		for _, x := range []string{m.body, m.cid} {
			if seen[x] {
				t.Fatalf("message %d: %q again", i, x)
			}
			seen[x] = true
		}
	}
	if len(s.sent[1].body) == len(s.sent[2].body) {
		t.Error("bodies of one length")
	}
}
