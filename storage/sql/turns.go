package sql

import (
	"cmp"
	"math"
	"slices"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// firstRead is how many messages are read before their size is known: 64 of 64 KiB fill an answer.
const firstRead = 64

// read puts the messages of the lacks into the deltas beside them, a few of each in turn, until they
// have that many bytes together; the first message is read whatever its size. It shortens what is
// taken of the lacks for which that was not enough, and reports whether there are such.
func (s *Store) read(db *gorm.DB, lacks []lack, deltas []storage.Delta, bytes int) (cut bool, err error) {
	left := int64(bytes)
	if bytes <= 0 {
		left = math.MaxInt32 * 64 // more than Limit messages can have
	}
	place := make(map[int64]int, len(lacks))
	for i := range lacks {
		place[lacks[i].conversation] = i
	}
	turns, count, used, full := inTurns(lacks), int64(0), int64(0), false
	for n := int64(firstRead); len(turns) > 0 && !full; n = expected(left, count, used) {
		var next []span
		next, turns = first(turns, n)
		err := s.spans(db, next, func(m storage.Message) {
			size := int64(len(m.Body) + len(m.Extra))
			if full = full || count > 0 && size > left; full {
				return
			}
			left -= size
			used += size
			count++
			d := &deltas[place[m.Conversation]]
			d.Messages = append(d.Messages, m)
		})
		if err != nil {
			return false, err
		}
	}
	for i := range lacks {
		if has := int64(len(deltas[i].Messages)); has < lacks[i].span().size() {
			lacks[i].take, cut = has, true
		}
	}
	return cut, nil
}

// expected is how many more messages are likely to have that many bytes, going by those before; at least one.
func expected(bytes, count, used int64) int64 {
	return max(1, bytes/max(1, used/max(1, count)))
}

// inTurns divides what the lacks take: one message of each, beginning with those that lack least, then
// the next two of each, four and so on.
func inTurns(lacks []lack) (turns []span) {
	spans := make([]span, 0, len(lacks))
	for i := range lacks {
		spans = append(spans, lacks[i].span())
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.size(), b.size()) })
	for turn := int64(1); len(spans) > 0; turn *= 2 {
		for i := range spans {
			sp := &spans[i]
			if next := min(sp.from+turn, sp.to); next > sp.from {
				turns = append(turns, span{sp.conversation, sp.from, next})
				sp.from = next
			}
		}
		spans = slices.DeleteFunc(spans, func(sp span) bool { return sp.from == sp.to })
	}
	return turns
}

// first returns the first turns, with n messages if there are that many, those of a conversation
// joined, and the others.
func first(turns []span, n int64) (joined, rest []span) {
	end := 0
	for ; end < len(turns) && n > 0; end++ {
		n -= turns[end].size()
	}
	some := slices.Clone(turns[:end])
	slices.SortFunc(some, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.conversation, b.conversation), cmp.Compare(a.from, b.from))
	})
	for _, sp := range some {
		if last := len(joined) - 1; last >= 0 && joined[last].conversation == sp.conversation {
			joined[last].to = sp.to
		} else {
			joined = append(joined, sp)
		}
	}
	return joined, turns[end:]
}
