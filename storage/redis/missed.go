package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-redis/redis/v8"

	"github.com/hermod-im/hermod/storage"
)

// A gateway has two sets of what it was not pushed: of channels that must sync, and of those that were
// displaced, which the overflow of the first must not take along. A member is a channel after one of these
// letters, or missedAll. Its score is the number of its last note: the time in µs, or more, so that numbers
// grow even if the sets were emptied in between.
const (
	missedChannel = "c"
	missedKick    = "k"
	missedAll     = storage.AllChannels

	// missedTTL forgets what was noted for a gateway that does not ask: its lease has ended long ago,
	// and should it come back, it is told that it has lost everything.
	missedTTL = 10 * time.Minute
)

// noteScript adds ARGV[4], … to the sets KEYS[1], of channels, and KEYS[2], of kicks. Above ARGV[1]
// channels missedAll takes their place; above ARGV[2] kicks the last ones give way.
var noteScript = redis.NewScript(`
local time = redis.call('TIME')
local note = time[1] * 1000000 + time[2]
for i = 1, 2 do
  local last = redis.call('ZREVRANGE', KEYS[i], 0, 0, 'WITHSCORES')[2]
  if last and tonumber(last) >= note then note = tonumber(last) + 1 end
end
note = string.format('%.0f', note)
for i = 4, #ARGV do
  local key = KEYS[1]
  if ARGV[i]:sub(1, 1) == 'k' then key = KEYS[2] end
  redis.call('ZADD', key, note, ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], ARGV[2], -1)
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  redis.call('ZADD', KEYS[1], note, '*')
end
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end`)

// missedScript returns the members of the sets KEYS with their scores, without those up to ARGV[1]. In one step: Missed.UpTo must
// not be of a note of which only the one set was read. A transaction is that too, but go-redis does not send one again.
var missedScript = redis.NewScript(`
local members = {}
for _, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[1])
  for _, v in ipairs(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')) do members[#members + 1] = v end
end
return members`)

func missedKeys(gateway string) []string {
	return []string{missedPrefix + gateway, kickedPrefix + gateway}
}

// NoteMissed implements storage.Sessions.
func (s *Sessions) NoteMissed(ctx context.Context, gateway string, channels, kicked []string) error {
	ctx, err := detach(ctx)
	if err != nil {
		return err
	}
	args := []any{storage.MaxMissed, storage.MaxKicked, missedTTL.Milliseconds()}
	for _, c := range channels {
		if c != missedAll {
			c = missedChannel + c
		}
		args = append(args, c)
	}
	for _, c := range kicked {
		args = append(args, missedKick+c)
	}
	if err := noteScript.Run(ctx, s.client, missedKeys(gateway), args...).Err(); err != nil && err != redis.Nil {
		return fmt.Errorf("redis: note what was missed: %w", err)
	}
	return nil
}

// Missed implements storage.Sessions.
func (s *Sessions) Missed(ctx context.Context, gateway string, told int64) (m storage.Missed, err error) {
	if ctx, err = detach(ctx); err != nil {
		return m, err
	}
	members, err := missedScript.Run(ctx, s.client, missedKeys(gateway), told).StringSlice()
	if err != nil {
		return m, fmt.Errorf("redis: what was missed: %w", err)
	}
	for pair := range slices.Chunk(members, 2) {
		member := pair[0]
		note, err := strconv.ParseFloat(pair[1], 64)
		if err != nil {
			return m, fmt.Errorf("redis: what was missed: %w", err)
		}
		m.UpTo = max(m.UpTo, int64(note))
		switch {
		case member == missedAll:
			m.All = true
		case member == "":
		case member[:1] == missedKick:
			m.Kicked = append(m.Kicked, member[1:])
		default:
			m.Channels = append(m.Channels, member[1:])
		}
	}
	return m, nil
}
