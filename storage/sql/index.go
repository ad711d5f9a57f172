package sql

import (
	"container/heap"
	"context"
	stdsql "database/sql"
	"fmt"
	"math"
	"slices"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// Index implements storage.Messages: the unread spans of the account's conversations, merged by
// message id.
func (s *Store) Index(ctx context.Context, app, account string, after int64, acknowledged bool, limit int) ([]storage.IndexEntry, error) {
	db := s.reader.WithContext(ctx)
	ack, news := "m.ack_seq", "c.last_seq > m.ack_seq AND c.last_message_id > ?"
	if acknowledged {
		ack, news = "0", "c.last_message_id > ?"
	}
	list, err := s.memberships(db, app, account, ack, news, after)
	starts := make([]int64, len(list))
	for i, m := range list {
		starts[i] = max(m.ackSeq, m.joinedSeq)
	}
	if err == nil && after > 0 {
		starts, err = s.seqsUpTo(db, list, starts, after)
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	entries, err := s.merge(db, account, list, starts, limit)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return entries, nil
}

// search looks for the last seq of a conversation whose message id is not above some id. It gallops from the newest message back,
// and then halves.
type search struct {
	low  int64 // its id is not above, or it is the floor
	high int64 // its id is above, or it is behind the last
	step int64 // of the next probe, below high
}

// probe is the seq whose id is asked for next; false: low is what was looked for.
func (r *search) probe() (seq int64, ok bool) {
	if r.high-r.low <= 1 {
		return 0, false
	}
	seq = max(r.high-r.step, r.low+(r.high-r.low)/2)
	r.step = min(4*r.step, math.MaxUint32)
	return seq, true
}

// seqsUpTo returns for each conversation the highest seq whose message id is not above id, at
// least its floor: a search in all of them at once.
func (s *Store) seqsUpTo(db *gorm.DB, list []membership, floors []int64, id int64) ([]int64, error) {
	searches := make([]search, len(list))
	place := make(map[int64]int, len(list))
	for i, m := range list {
		searches[i] = search{low: floors[i], high: m.lastSeq + 1, step: 1}
		place[m.conversation] = i
	}
	for {
		var probes []span
		for i := range searches {
			if seq, ok := searches[i].probe(); ok {
				probes = append(probes, span{list[i].conversation, seq - 1, seq})
			}
		}
		if len(probes) == 0 {
			break
		}
		err := s.entries(db, probes, func(e storage.IndexEntry) {
			r := &searches[place[e.Conversation]]
			if e.ID <= id {
				r.low = e.Seq
			} else {
				r.high = e.Seq
			}
		})
		if err != nil {
			return nil, err
		}
	}
	found := make([]int64, len(list))
	for i, r := range searches {
		found[i] = r.low
	}
	return found, nil
}

// entries calls f with the index entries of the spans, in seq order within a conversation; Kind and Peer are not set.
func (s *Store) entries(db *gorm.DB, spans []span, f func(storage.IndexEntry)) error {
	for part := range chunks(&s.dialect, spans, s.dialect.keys) {
		where, args := whereSpans(part)
		err := s.query(db, func(rows *stdsql.Rows) error {
			var e storage.IndexEntry
			err := rows.Scan(&e.Conversation, &e.Seq, &e.ID, (*octets)(&e.Sender), &e.SendTime)
			if err == nil {
				f(e)
			}
			return err
		}, "SELECT conversation_id, seq, message_id, sender, send_time FROM messages"+s.dialect.index("PRIMARY")+
			" WHERE "+where+" ORDER BY conversation_id, seq", args...)
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
	}
	return nil
}

// run is the part of one conversation that merge has read and not yet given out.
type run struct {
	membership
	entries []storage.IndexEntry
	next    int64 // seq before the first that is not read
	size    int64 // of the last read
}

// runs is a heap by the id of the first entry.
type runs []*run

func (r runs) Len() int           { return len(r) }
func (r runs) Less(i, j int) bool { return r[i].entries[0].ID < r[j].entries[0].ID }
func (r runs) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *runs) Push(x any)        { *r = append(*r, x.(*run)) }
func (r *runs) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// merge returns the limit oldest entries above the starts. It reads a little of each conversation
// and more of those that turn out to need it, so that what it reads is in proportion to what it returns.
func (s *Store) merge(db *gorm.DB, account string, list []membership, starts []int64, limit int) ([]storage.IndexEntry, error) {
	if len(list) == 0 || limit <= 0 {
		return nil, nil
	}
	first := int64(max(8, 2*limit/len(list)))
	all := make([]*run, len(list))
	for i, m := range list {
		all[i] = &run{membership: m, next: starts[i], size: first / 2}
	}
	if err := s.fill(db, all); err != nil {
		return nil, err
	}
	queue := runs(slices.DeleteFunc(all, func(r *run) bool { return len(r.entries) == 0 }))
	heap.Init(&queue)
	out := make([]storage.IndexEntry, 0, min(limit, 1024))
	for len(queue) > 0 && len(out) < limit {
		r := queue[0]
		e := r.entries[0]
		e.Kind, e.Peer = r.kind, r.peer(account)
		out = append(out, e)
		if r.entries = r.entries[1:]; len(r.entries) == 0 {
			if err := s.fill(db, []*run{r}); err != nil {
				return nil, err
			}
		}
		if len(r.entries) == 0 {
			heap.Pop(&queue)
		} else {
			heap.Fix(&queue, 0)
		}
	}
	return out, nil
}

// fill reads the next entries of the runs, twice as many as the last time.
func (s *Store) fill(db *gorm.DB, all []*run) error {
	var spans []span
	byID := make(map[int64]*run, len(all))
	for _, r := range all {
		r.size *= 2
		to := min(r.next+r.size, r.lastSeq)
		if to > r.next {
			spans = append(spans, span{r.conversation, r.next, to})
			byID[r.conversation] = r
			r.next = to
		}
	}
	return s.entries(db, spans, func(e storage.IndexEntry) {
		r := byID[e.Conversation]
		r.entries = append(r.entries, e)
	})
}
