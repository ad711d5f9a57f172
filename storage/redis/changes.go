package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-redis/redis/v8"

	"github.com/hermod-im/hermod/storage"
)

// Whoever stores a session adds its account's key to a stream, in the same step. A position is the id of an entry and
// what it says. It is looked up again with what follows it: a Redis that has lost it, or another one that never had it,
// cannot say what has changed. Entries that come after the position are all new to who has read up to it, even
// in a Redis that went back to a state in which it was the last.

const (
	changesKey = "hermod:l"
	// changesField is that of an entry's key, or allChanged.
	changesField = "a"
	allChanged   = "*"
)

// scriptChanged is for scripts that store sessions. The stream is about 1 MB; a node that asks again after more than
// that counts everything as changed.
const scriptChanged = `
local function changed(key) redis.call('XADD', '` + changesKey + `', 'MAXLEN', '~', '10000', '*', '` + changesField + `', key) end
`

// Changes implements storage.Sessions.
func (s *Sessions) Changes(ctx context.Context, since string) (storage.Changes, error) {
	ctx, err := detach(ctx)
	if err != nil {
		return storage.Changes{}, err
	}
	if id, _, ok := strings.Cut(since, " "); ok {
		entries, err := s.client.XRange(ctx, changesKey, id, "+").Result()
		if err != nil {
			return storage.Changes{}, fmt.Errorf("redis: changes: %w", err)
		}
		if len(entries) > 0 && position(entries[0]) == since {
			return changesOf(entries), nil
		}
	}
	last, err := s.client.XRevRangeN(ctx, changesKey, "+", "-", 1).Result()
	if err != nil {
		return storage.Changes{}, fmt.Errorf("redis: changes: %w", err)
	}
	all := storage.Changes{All: true}
	if len(last) > 0 {
		all.Position = position(last[0])
	}
	return all, nil
}

// changesOf are what follows the first of the entries.
func changesOf(entries []redis.XMessage) (c storage.Changes) {
	for _, e := range entries[1:] {
		if key, ok := parseAccountKey(changedKey(e)); ok {
			c.Accounts = append(c.Accounts, key)
		} else {
			c.All = true
		}
	}
	c.Position = position(entries[len(entries)-1])
	return c
}

func changedKey(e redis.XMessage) string {
	key, _ := e.Values[changesField].(string)
	return key
}

func position(e redis.XMessage) string { return e.ID + " " + changedKey(e) }

// parseAccountKey is the inverse of accountKey.
func parseAccountKey(key string) (k storage.AccountKey, ok bool) {
	rest, ok := strings.CutPrefix(key, sessionPrefix)
	if !ok {
		return k, false
	}
	size, rest, ok := strings.Cut(rest, ":")
	n, err := strconv.Atoi(size)
	if !ok || err != nil || n < 0 || n >= len(rest) || rest[n] != ':' {
		return k, false
	}
	return storage.AccountKey{App: rest[:n], Account: rest[n+1:]}, true
}
