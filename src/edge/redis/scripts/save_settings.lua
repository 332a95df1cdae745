-- Stores a change of one breaker's settings if the stored one is still the revision that it was laid over; tells the others.
--
-- KEYS[1]  the breaker's hash
-- ARGV[1]  the revision that it was laid over; 0: there is none
-- ARGV[2]  its own revision
-- ARGV[3]  the settings
-- ARGV[4]  who asked for it
-- ARGV[5]  why
-- ARGV[6]  the instance that was asked
-- ARGV[7]  how long ago, ms
-- ARGV[8]  the channel on which the others listen
-- ARGV[9]  what they are told
--
-- Answers {'superseded'} or {'superseded', change…}, or {'stored', why the others could not be told, or ''}.

local now = now_ms()
local revision, reply = read_settings(KEYS[1], now)
if revision ~= tonumber(ARGV[1]) then
  return { 'superseded', unpack(reply or {}) }
end

if not is_or_none(KEYS[1], 'hash') then redis.call('DEL', KEYS[1]) end
-- Beside a state of another layout the change would count as absent; that state counts as absent already.
local layout = redis.call('HMGET', KEYS[1], 'layout')[1]
if layout and layout ~= LAYOUT then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'settings_revision', ARGV[2], 'settings', ARGV[3], 'settings_actor', ARGV[4], 'settings_reason', ARGV[5],
  'settings_instance', ARGV[6], 'settings_at', text_of(math.max(0, now - tonumber(ARGV[7]))))

-- As with a state: a user who may not publish has stored it all the same.
local told = redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return { 'stored', type(told) == 'table' and told.err or '' }
