package bench

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hermod-im/hermod/wire"
)

// Refusals count the requests of a run that were refused, by the status' String.
type Refusals map[string]int64

// tooMuch are the refusals of servers that are given more than they take. A client may try again.
var tooMuch = []string{wire.StatusSystemException.String(), wire.StatusRateLimited.String()}

func (r Refusals) all() (n int64) {
	for _, more := range r {
		n += more
	}
	return n
}

// most is the most frequent status; empty if there are none.
func (r Refusals) most() string {
	statuses := slices.Sorted(maps.Keys(r))
	if len(statuses) == 0 {
		return ""
	}
	return slices.MaxFunc(statuses, func(a, b string) int { return cmp.Compare(r[a], r[b]) })
}

// Advice is what to do about the most frequent.
func (r Refusals) Advice() string {
	switch r.most() {
	case wire.StatusRateLimited.String():
		return "start the servers with --set limits.enabled=false"
	case wire.StatusSystemException.String():
		return "the servers are not well, or take less than this load: see their logs"
	default:
		return "the servers' logs may say why"
	}
}

// err is why a run with these refusals, and so many messages measured, is not clean. An open loop may be above
// what the servers take, on purpose: then those are what it came for, unless nothing else came.
func (r Refusals) err(measured int64, open bool) error {
	if open && measured > 0 {
		r = maps.Clone(r)
		maps.DeleteFunc(r, func(status string, _ int64) bool { return slices.Contains(tooMuch, status) })
	}
	var refused error
	if len(r) > 0 {
		refused = fmt.Errorf("%d requests were refused, most with %s: %s", r.all(), r.most(), r.Advice())
	}
	switch {
	case measured > 0:
		return refused
	case refused == nil:
		return errors.New("no message was measured: give a longer --duration")
	default:
		return fmt.Errorf("no message was measured: %w", refused)
	}
}
