package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/go-redis/redis/v8"

	"github.com/hermod-im/hermod/storage"
)

// A member of a gateway's set of what it was not pushed is a channel after one of these letters, or
// missedAll. Its score is the number of its last note: the time in µs, or more, so that numbers grow
// even if the set was emptied in between.
const (
	missedChannel = "c"
	missedKick    = "k"
	missedAll     = "*"

	// missedTTL forgets what was noted for a gateway that does not ask: its lease has ended long ago,
	// and should it come back, it is told that it has lost everything.
	missedTTL = 10 * time.Minute
)

// noteScript adds ARGV[3], … to the set. Above ARGV[1] members missedAll takes their place.
var noteScript = redis.NewScript(`
local time = redis.call('TIME')
local note = time[1] * 1000000 + time[2]
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= note then note = tonumber(last) + 1 end
note = string.format('%.0f', note)
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], note, ARGV[i]) end
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  redis.call('ZADD', KEYS[1], note, '*')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// NoteMissed implements storage.Sessions.
func (s *Sessions) NoteMissed(ctx context.Context, gateway string, channels, kicked []string) error {
	ctx, err := detach(ctx)
	if err != nil {
		return err
	}
	args := []any{strconv.Itoa(storage.MaxMissed), missedTTL.Milliseconds()}
	for _, c := range channels {
		args = append(args, missedChannel+c)
	}
	for _, c := range kicked {
		args = append(args, missedKick+c)
	}
	if err := noteScript.Run(ctx, s.client, []string{missedPrefix + gateway}, args...).Err(); err != nil && err != redis.Nil {
		return fmt.Errorf("redis: note what was missed: %w", err)
	}
	return nil
}

// Missed implements storage.Sessions.
func (s *Sessions) Missed(ctx context.Context, gateway string, told int64) (m storage.Missed, err error) {
	if ctx, err = detach(ctx); err != nil {
		return m, err
	}
	key := missedPrefix + gateway
	if told > 0 {
		if err := s.client.ZRemRangeByScore(ctx, key, "-inf", strconv.FormatInt(told, 10)).Err(); err != nil {
			return m, fmt.Errorf("redis: forget what was missed: %w", err)
		}
	}
	members, err := s.client.ZRangeWithScores(ctx, key, 0, -1).Result()
	if err != nil {
		return m, fmt.Errorf("redis: what was missed: %w", err)
	}
	for _, z := range members {
		m.UpTo = max(m.UpTo, int64(z.Score))
		member, _ := z.Member.(string)
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
