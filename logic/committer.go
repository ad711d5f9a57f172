package logic

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/sirupsen/logrus"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire/pb"
)

// utterance is a message on its way from a talk handler to its receivers.
type utterance struct {
	c     *Context
	draft storage.Draft
}

func (u *utterance) size() int { return len(u.draft.Body) + len(u.draft.Extra) }

// committer stores messages in groups: each shard commits what has gathered while its last commit
// ran, and under load begins no commit sooner than Config.CommitInterval after the last one began,
// so that more share a transaction. A conversation always goes to the same shard, so that it has one
// writer and its messages keep the order in which they came.
//
//	handler → add → shard.waiting → commit (one transaction) → answer, and push
//
// Answers and pushes leave in one write for each gateway, if it is known where all receivers are. If not, the batch goes
// through shard.stored to a goroutine that asks, so that the next commit need not wait for the session store.
type committer struct {
	shards []*shard
}

type shard struct {
	messages storage.Messages
	dispatch *dispatcher
	metrics  *metrics
	log      *logrus.Entry
	batchMax int
	queueMax int
	interval time.Duration
	timeout  time.Duration
	now      func() time.Time // of the times of sending
	writes   Batch

	wake   chan struct{}     // capacity 1
	full   chan struct{}     // capacity 1: a whole batch waits
	stored chan []*utterance // committed and answered, to be dispatched in order
	behind atomic.Int32      // batches given to stored and not yet dispatched
	doubts *doubts

	mu      sync.Mutex
	waiting []*utterance // guarded by mu
	bytes   int          // of the waiting ones' bodies and extras; guarded by mu
}

// maxWaiting bounds the bodies and extras that wait for one shard, in bytes, when they are large: a few seconds of what a
// database stores. What waits already counts, so that one message of any size gets through.
const maxWaiting = 64 << 20

// storedBatches bounds the batches between commit and dispatch of a shard: a slow session store
// slows the commits down, and the shard's queue fills.
const storedBatches = 8

func newCommitter(cfg Config, messages storage.Messages, d *dispatcher, w Batch, m *metrics, log *logrus.Entry) *committer {
	t := &committer{shards: make([]*shard, cfg.Shards)}
	for i := range t.shards {
		t.shards[i] = &shard{
			messages: messages,
			dispatch: d,
			metrics:  m,
			log:      log,
			batchMax: cfg.BatchMax,
			queueMax: cfg.QueueMax,
			interval: cfg.CommitInterval,
			timeout:  cfg.Timeout,
			now:      cfg.Now,
			writes:   w,
			wake:     make(chan struct{}, 1),
			full:     make(chan struct{}, 1),
			stored:   make(chan []*utterance, storedBatches),
			doubts:   newDoubts(),
		}
	}
	return t
}

// add queues a message to its conversation's shard, or refuses it at once when the queue is full.
func (t *committer) add(u *utterance) error {
	s := t.shards[shardOf(&u.draft)%uint64(len(t.shards))]
	s.mu.Lock()
	if len(s.waiting) >= s.queueMax || s.bytes >= maxWaiting {
		s.mu.Unlock()
		return errBusy
	}
	s.waiting = append(s.waiting, u)
	s.bytes += u.size()
	n := len(s.waiting)
	s.mu.Unlock()
	switch n {
	case 1:
		signal(s.wake)
	case s.batchMax:
		signal(s.full)
	}
	return errDeferred
}

// signal wakes who waits for c, now or later.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// shardOf hashes a draft's conversation, the same from both sides of a conversation of two.
func shardOf(d *storage.Draft) uint64 {
	h := xxhash.Sum64String(d.Dest)
	if d.Kind == storage.KindUser {
		h += xxhash.Sum64String(d.Sender)
	}
	return h ^ xxhash.Sum64String(d.App)
}

// run works all shards until ctx ends.
func (t *committer) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range t.shards {
		wg.Go(func() { s.commitLoop(ctx) })
		wg.Go(func() { s.dispatchLoop(ctx) })
	}
	wg.Go(func() { t.settleDoubts(ctx) })
	wg.Wait()
}

func (s *shard) commitLoop(ctx context.Context) {
	for {
		batch := s.take()
		if len(batch) == 0 {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		start := time.Now()
		s.commit(batch)
		if !s.tell(batch) {
			s.behind.Add(1)
			select {
			case s.stored <- batch:
			case <-ctx.Done():
				return
			}
		}
		if len(batch) >= busyBatch {
			s.pause(ctx, s.interval-time.Since(start))
		}
	}
}

// busyBatch is the size of a commit after which the next one is not begun before Config.CommitInterval:
// a few messages need not wait for others.
const busyBatch = 8

// pause lets messages gather for a while, at most a batch of them.
func (s *shard) pause(ctx context.Context, d time.Duration) {
	if d <= 0 || s.isFull() {
		return
	}
	late := time.NewTimer(d)
	defer late.Stop()
	for {
		select {
		case <-late.C:
			return
		case <-ctx.Done():
			return
		case <-s.full: // perhaps of before the last commit
			if s.isFull() {
				return
			}
		}
	}
}

func (s *shard) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) >= s.batchMax
}

// take removes the next batch from the queue.
func (s *shard) take() []*utterance {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), s.batchMax)
	batch := s.waiting[:n:n]
	for _, u := range batch {
		s.bytes -= u.size()
	}
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
	return batch
}

// commit stores a batch in one transaction.
func (s *shard) commit(batch []*utterance) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	start, sent := time.Now(), s.now().UnixNano()
	drafts := make([]*storage.Draft, len(batch))
	for i, u := range batch {
		u.draft.SendTime = sent
		drafts[i] = &u.draft
	}
	err := s.messages.Append(ctx, drafts)
	s.metrics.committed(len(batch), time.Since(start), err)
	if err != nil {
		s.log.WithError(err).WithField("messages", len(batch)).Error("commit failed")
	}
	for _, u := range batch {
		reaches := len(u.draft.Members) > 0 // else it settles no doubt: the sender has quit, and the others are hinted
		if err != nil {
			if errors.Is(err, storage.ErrInDoubt) && u.draft.Err == nil && reaches {
				s.doubt(&u.draft, time.Now())
			}
			u.draft.Err = errBusy
		} else if reaches && s.doubts.resolve(&u.draft) {
			u.draft.Duplicate = false // of what nobody was told
		}
	}
}

// tell answers the senders of a batch that was committed: success means durable (I1). It pushes, too, and reports that it
// has, if it need not wait for that.
func (s *shard) tell(batch []*utterance) (pushed bool) {
	s.writes.Begin()
	defer s.writes.End()
	for _, u := range batch {
		u.answer()
	}
	if s.behind.Load() > 0 || !s.dispatch.messagesNow(batch) {
		return false
	}
	finish(batch)
	return true
}

func finish(batch []*utterance) {
	for _, u := range batch {
		u.c.finish()
	}
}

// doubt notes that nobody knows whether a draft is stored.
func (s *shard) doubt(d *storage.Draft, now time.Time) {
	if !s.doubts.note(d, now) {
		s.dispatch.missed()
	}
}

// inDoubt reports whether some message may be stored of which nobody was told.
func (t *committer) inDoubt() bool {
	return slices.ContainsFunc(t.shards, func(s *shard) bool { return s.doubts.any() })
}

// answer tells the sender what became of its message.
func (u *utterance) answer() {
	d := &u.draft
	if d.Err != nil {
		u.c.fail(d.Err)
		return
	}
	u.c.Respond(&pb.MessageResp{
		MessageId:    d.MessageID,
		SendTime:     d.SendTime,
		Seq:          d.Seq,
		Conversation: conversationID(d.Conversation),
	})
}

func (s *shard) dispatchLoop(ctx context.Context) {
	for {
		select {
		case batch := <-s.stored:
			s.dispatch.messages(batch)
			finish(batch)
			s.behind.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}
