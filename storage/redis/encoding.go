package redis

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-redis/redis/v8"

	"github.com/hermod-im/hermod/storage"
)

// loginDigits is the width of LoginAt: fixed, so that scripts, whose numbers have 53 bits, compare
// it as a string.
const loginDigits = 19

// encode is a session as the value of its device:
//
//	LoginAt in 19 digits, then Gateway, Channel, Platform and Features, each as length:bytes
//
// App, Account and Device are in the key and the field. Scripts read the first three.
func encode(s storage.Session) string {
	var b strings.Builder
	b.Grow(loginDigits + len(s.Gateway) + len(s.Channel) + len(s.Platform) + 24)
	fmt.Fprintf(&b, "%0*d", loginDigits, max(s.LoginAt, 0))
	for _, field := range []string{s.Gateway, s.Channel, s.Platform, strconv.FormatUint(uint64(s.Features), 10)} {
		b.WriteString(strconv.Itoa(len(field)))
		b.WriteByte(':')
		b.WriteString(field)
	}
	return b.String()
}

// decode reads what encode wrote. Fields after the known ones are another release's: ignored.
func decode(app, account, device, value string) (s storage.Session, err error) {
	s = storage.Session{App: app, Account: account, Device: device}
	if len(value) < loginDigits {
		return s, fmt.Errorf("session of %q is cut short", account)
	}
	s.LoginAt, err = strconv.ParseInt(value[:loginDigits], 10, 64)
	rest := value[loginDigits:]
	var features string
	for _, field := range []*string{&s.Gateway, &s.Channel, &s.Platform, &features} {
		if err != nil {
			break
		}
		*field, rest, err = cutField(rest)
	}
	if err == nil {
		var bits uint64
		bits, err = strconv.ParseUint(features, 10, 32)
		s.Features = storage.Feature(bits)
	}
	if err != nil {
		return s, fmt.Errorf("session of %q: %w", account, err)
	}
	return s, nil
}

func cutField(s string) (field, rest string, err error) {
	length, rest, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(length, 10, 31)
	if err == nil && n > uint64(len(rest)) {
		err = strconv.ErrRange
	}
	if err != nil {
		return "", "", err
	}
	return rest[:n], rest[n:], nil
}

// scriptFields reads what encode wrote. Lua's < compares digits alike in every locale.
const scriptFields = `
local function fields(v)
  local at = 20
  local function next()
    local colon = string.find(v, ':', at, true)
    local from = colon + 1
    at = from + tonumber(string.sub(v, at, colon - 1))
    return string.sub(v, from, at - 1)
  end
  return string.sub(v, 1, 19), next(), next() -- LoginAt, Gateway, Channel
end
local function live(prefix, gateway) return redis.call('EXISTS', prefix .. gateway) == 1 end
`

var (
	// loginScript stores ARGV[1]'s session ARGV[2] for ARGV[3] ms and returns the one it displaced.
	// It also forgets the sessions of ended leases where an account has gathered many. The lease keys
	// are not in KEYS: this is for one Redis, not for a cluster of them.
	loginScript = redis.NewScript(scriptFields + `
local key, device, value, prefix = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local old = redis.call('HGET', key, device)
redis.call('HSET', key, device, value)
redis.call('PEXPIRE', key, ARGV[3])
if redis.call('HLEN', key) > 8 then
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local _, gateway = fields(all[i + 1])
    if all[i] ~= device and not live(prefix, gateway) then redis.call('HDEL', key, all[i]) end
  end
end
if not old then return false end
local _, gateway, channel = fields(old)
local _, _, mine = fields(value)
if channel == mine or not live(prefix, gateway) then return false end
return old`)

	// logoutScript removes ARGV[1]'s session if its channel is ARGV[2].
	logoutScript = redis.NewScript(scriptFields + `
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
local _, _, channel = fields(old)
if channel ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])`)

	// restoreScript stores for each key the session of its device, except under newer live ones, and
	// returns the places, from 1, of those it did not store.
	restoreScript = redis.NewScript(scriptFields + `
local lost = {}
for i, key in ipairs(KEYS) do
  local device, value = ARGV[1 + 2 * i], ARGV[2 + 2 * i]
  local at, _, channel = fields(value)
  local old, keep = redis.call('HGET', key, device), false
  if old then
    local oldAt, gateway, oldChannel = fields(old)
    keep = oldChannel ~= channel and at < oldAt and live(ARGV[2], gateway)
  end
  if keep then
    lost[#lost + 1] = i
  else
    redis.call('HSET', key, device, value)
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
return lost`)

	// renewScript makes the lease last for ARGV[1] ms and says whether it was there.
	renewScript = redis.NewScript(`
local existed = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return existed`)
)
