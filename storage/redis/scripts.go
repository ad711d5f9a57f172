package redis

import "github.com/go-redis/redis/v8"

// The scripts change everything that belongs together in one step; the policy is that of
// storage/memory/policy.go. Lease keys are read that are not in KEYS: this is for one Redis, not for
// a cluster of them.

// scriptDecode reads what encode wrote.
const scriptDecode = `
-- decode is a session; one of the release before has no instance and no attempt.
local function decode(device, value)
  local at = 20
  local function next()
    local colon = string.find(value, ':', at, true)
    if not colon then return '' end
    local from = colon + 1
    at = from + tonumber(string.sub(value, at, colon - 1))
    return string.sub(value, from, at - 1)
  end
  local s = {device = device, value = value, at = string.sub(value, 1, 19)}
  s.gateway, s.channel, s.platform = next(), next(), next()
  next() -- features
  s.instance, s.attempt = next(), next()
  return s
end
`

// scriptHead finds out who is there. Lua's < compares digits alike in every locale.
const scriptHead = scriptDecode + scriptChanged + `
local prefix, ttl, perPlatform = ARGV[1], ARGV[2], ARGV[3] == '1'

local leases = {}
local function live(gateway)
  if leases[gateway] == nil then leases[gateway] = redis.call('EXISTS', prefix .. gateway) == 1 end
  return leases[gateway]
end

-- sessions are the account's whose leases run, and the others.
local function sessions(key)
  local all, living, dead = redis.call('HGETALL', key), {}, {}
  for i = 1, #all, 2 do
    local s = decode(all[i], all[i + 1])
    local list = live(s.gateway) and living or dead
    list[#list + 1] = s
  end
  return living, dead
end

-- stamp counts one more storing under the lease; '0' if there is none, or the release before wrote it.
local function stamp(lease)
  local have = redis.call('GET', lease)
  if not have or have == '' then return '0' end
  return string.format('%.0f', redis.call('INCR', lease))
end

local function sameClient(a, b)
  return a.device == b.device and a.instance ~= '' and a.instance == b.instance
end

-- What gave way to a session is kept for a moment: its channel comes again if the answer was lost, and must not find that nobody
-- had to. It is device, value and reason of each.
local function keptKey(key, channel) return '` + keptPrefix + `' .. #channel .. ':' .. channel .. ':' .. key end
local function keep(key, channel, list)
  if #list > 0 then redis.call('SET', keptKey(key, channel), cmsgpack.pack(list), 'PX', '` + keptMillis + `') end
end
local function kept(key, channel)
  local list = redis.call('GET', keptKey(key, channel))
  return list and cmsgpack.unpack(list) or {}
end

-- reason is why a gives way to b, which conflicts with it.
local function reason(a, b)
  if sameClient(a, b) then return 'reconnected' end
  if a.device == b.device then return 'device' end
  return 'platform'
end
`

var (
	// loginScript is Sessions.Login: ARGV are prefix, ttl, policy (per platform, refuse, max, refuse
	// beyond it), device and value; KEYS[1] is the account's.
	loginScript = redis.NewScript(scriptHead + `
local key, refuse, max, refuseMax = KEYS[1], ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6] == '1'
local new = decode(ARGV[7], ARGV[8])

-- follow puts the login behind s: one more, in two halves, as numbers have 53 bits.
local function follow(s)
  if s.at < new.at then return end
  local high, low = tonumber(string.sub(s.at, 1, 10)), tonumber(string.sub(s.at, 11)) + 1
  if low == 1000000000 then high, low = high + 1, 0 end
  new.at = string.format('%010.0f%09.0f', high, low)
end

local living, dead = sessions(key)
local own, conflicting, others = nil, {}, {}
for _, s in ipairs(living) do
  follow(s)
  if s.device == new.device then
    own = s
  elseif perPlatform and s.platform == new.platform then
    conflicting[#conflicting + 1] = s
  else
    others[#others + 1] = s
  end
end

local function refused(list)
  local answer = {'conflict'}
  for _, s in ipairs(list) do
    answer[#answer + 1] = s.device
    answer[#answer + 1] = s.value
  end
  return answer
end

local displaced = {}
local function displace(s, why)
  displaced[#displaced + 1] = s.device
  displaced[#displaced + 1] = s.value
  displaced[#displaced + 1] = why
end

if own and own.channel == new.channel then
  displaced = kept(key, new.channel)
elseif own then
  local late = false
  if sameClient(own, new) then
    late = new.attempt < own.attempt
  elseif new.gateway == own.gateway then
    late = #new.channel < #own.channel or #new.channel == #own.channel and new.channel < own.channel
  end
  if late then return {'late'} end
  displace(own, reason(own, new))
end
if refuse and #conflicting > 0 then
  if not own or own.platform ~= new.platform then return refused(conflicting) end
  for _, s in ipairs(conflicting) do others[#others + 1] = s end
  conflicting = {}
end
local beyond = 0
if max > 0 then beyond = #others + 1 - max end
if beyond > 0 and refuseMax then
  if not own then return refused(others) end
  beyond = 0
end
for _, s in ipairs(conflicting) do
  displace(s, 'platform')
  redis.call('HDEL', key, s.device)
end
table.sort(others, function(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.device < b.device
end)
for i = 1, math.min(beyond, #others) do
  displace(others[i], 'limit')
  redis.call('HDEL', key, others[i].device)
end

for _, s in ipairs(dead) do
  follow(s)
  redis.call('HDEL', key, s.device)
end
redis.call('HSET', key, new.device, new.at .. string.sub(new.value, 20))
redis.call('PEXPIRE', key, ttl)
keep(key, new.channel, displaced)
changed(key)
local answer = {'stored', new.at, stamp(prefix .. new.gateway)}
for _, v in ipairs(displaced) do answer[#answer + 1] = v end
return answer`)

	// logoutScript removes ARGV[1]'s session if its channel is ARGV[2].
	logoutScript = redis.NewScript(scriptDecode + `
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old or decode(ARGV[1], old).channel ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])`)

	// restoreScript is Sessions.Restore: ARGV are prefix, ttl, per platform, and device and value for each
	// of the accounts' KEYS[2], …; KEYS[1] is the lease. It answers with the stamp and, for each session
	// that gave way, its place from 1, device, value, reason, and the device and platform of the newer.
	restoreScript = redis.NewScript(scriptHead + `
local function newer(a, b)
  if sameClient(a, b) and a.attempt ~= b.attempt then return a.attempt > b.attempt end
  return a.at > b.at
end

local displaced = {}
local function displace(place, device, value, why, by)
  for _, v in ipairs({tostring(place), device, value, why, by.device, by.platform}) do
    displaced[#displaced + 1] = v
  end
end

local function restore(place, key, mine)
  local older, by, stored = {}, nil, false
  for _, s in ipairs((sessions(key))) do
    if s.channel == mine.channel then
      stored = true
    elseif s.device == mine.device or perPlatform and s.platform == mine.platform then
      if newer(s, mine) then by = s else older[#older + 1] = s end
    end
  end
  if by then
    displace(place, mine.device, mine.value, reason(mine, by), by)
    if stored then redis.call('HDEL', key, mine.device) end
    return
  end
  local gone = stored and kept(key, mine.channel) or {}
  for _, s in ipairs(older) do
    for _, v in ipairs({s.device, s.value, reason(s, mine)}) do gone[#gone + 1] = v end
    redis.call('HDEL', key, s.device)
  end
  for i = 1, #gone, 3 do displace(place, gone[i], gone[i + 1], gone[i + 2], mine) end
  keep(key, mine.channel, gone)
  redis.call('HSET', key, mine.device, mine.value)
  redis.call('PEXPIRE', key, ttl)
  changed(key)
end

for i = 2, #KEYS do restore(i - 1, KEYS[i], decode(ARGV[2 * i], ARGV[2 * i + 1])) end
table.insert(displaced, 1, stamp(KEYS[1]))
return displaced`)

	// renewScript makes the lease last for ARGV[1] ms and says whether something was lost that a gateway
	// has stored, which has seen the stamp ARGV[2]. What the release before wrote, '', says nothing of
	// that: it is taken for what the gateway has seen.
	renewScript = redis.NewScript(scriptChanged + `
local have = redis.call('GET', KEYS[1])
local seen = tonumber(ARGV[2])
local stamp = have and (tonumber(have) or seen) or 0
redis.call('SET', KEYS[1], string.format('%.0f', stamp), 'PX', ARGV[1])
if not have then changed('*') end
if not have or stamp < seen then return 1 end
return 0`)
)
