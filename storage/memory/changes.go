package memory

import (
	"context"
	"strconv"

	"github.com/hermod-im/hermod/storage"
)

// maxChanges is how many changes are remembered at least.
const maxChanges = 1000

// changes are the newest changes. Their positions are numbers from 1; the zero value has none.
type changes struct {
	list []storage.AccountKey
	last int64 // the number of the last of list
}

func (c *changes) add(key storage.AccountKey) {
	if len(c.list) >= 2*maxChanges {
		c.list = append(c.list[:0], c.list[maxChanges:]...)
	}
	c.list = append(c.list, key)
	c.last++
}

// addAll makes all positions so far useless.
func (c *changes) addAll() {
	c.list = c.list[:0]
	c.last++
}

// Changes implements storage.Sessions.
func (s *Sessions) Changes(ctx context.Context, since string) (storage.Changes, error) {
	if err := ctx.Err(); err != nil {
		return storage.Changes{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.changes
	out := storage.Changes{Position: strconv.FormatInt(c.last, 10)}
	first := c.last - int64(len(c.list))
	if n, err := strconv.ParseInt(since, 10, 64); err == nil && n >= first && n <= c.last {
		out.Accounts = append(out.Accounts, c.list[n-first:]...)
	} else {
		out.All = true
	}
	return out, nil
}
