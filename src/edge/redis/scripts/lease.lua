-- Grants a lease on a probe, or a later deadline of one that is held.
--
-- KEYS[1]  the breaker's hash
-- KEYS[2]  its leases, a sorted set: each with its deadline
-- KEYS[3]  who waits for one, a string
-- ARGV[1]  the generation of the half-open life that it is for
-- ARGV[2]  leases at once, at most
-- ARGV[3]  the lease
-- ARGV[4]  from now to its deadline, ms
-- ARGV[5]  who asks
-- ARGV[6]  '1' if somebody waits for it there
-- ARGV[7]  how long that is remembered, ms
--
-- Answers {'granted'}, {'full', ms to the first deadline, or ''}, or {'stale'}.

local now = now_ms()
-- What is of another type is nobody else's: the keys begin with our prefix.
if not is_or_none(KEYS[2], 'zset') then redis.call('DEL', KEYS[2]) end
if not is_or_none(KEYS[3], 'string') then redis.call('DEL', KEYS[3]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text_of(now))

if not is_or_none(KEYS[1], 'hash') then return { 'stale' } end
local breaker = redis.call('HMGET', KEYS[1], 'layout', 'generation', 'state')
if breaker[1] ~= LAYOUT or whole(breaker[2]) ~= tonumber(ARGV[1]) or breaker[3] ~= 'half_open' then
  return { 'stale' }
end

local waiting = redis.call('GET', KEYS[3])
local urgent = ARGV[6] == '1'
local yields = waiting and waiting ~= ARGV[5] and not urgent
local held = redis.call('ZSCORE', KEYS[2], ARGV[3])
if not yields and (held or redis.call('ZCARD', KEYS[2]) < tonumber(ARGV[2])) then
  redis.call('ZADD', KEYS[2], text_of(now + tonumber(ARGV[4])), ARGV[3])
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[2], text_of(tonumber(last[2])))
  if waiting == ARGV[5] then redis.call('DEL', KEYS[3]) end
  return { 'granted' }
end

if urgent and (not waiting or waiting == ARGV[5]) then redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[7]) end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return { 'full', first[2] and text_of(tonumber(first[2]) - now) or '' }
