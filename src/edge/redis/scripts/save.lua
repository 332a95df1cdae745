-- Stores one breaker's state unless what is stored is of the same generation or a newer one; keeps the transition; tells the others.
--
-- KEYS[1]  the breaker's hash
-- KEYS[2]  its history, a stream
-- ARGV[1]  the generation
-- ARGV[2]  how long ago the state began, ms
-- ARGV[3]  in how long an open circuit lets probes go, ms; '' where it is not open
-- ARGV[4]  in how long a lock ends, ms; '' where none ends
-- ARGV[5]  the channel on which the others listen
-- ARGV[6]  what they are told
-- ARGV[7]  how many transitions are kept, about
-- ARGV[8]  how long ago the transition was, ms; '' where there is none to keep
-- ARGV[9]  how many of the next arguments are the hash's other fields, names and values in turn; the rest are the transition's
--
-- Answers {'superseded', state…}, or {'stored', why the others could not be told, or ''}.

local now = now_ms()
local state = read_state(KEYS[1], now)
if state and state.generation >= tonumber(ARGV[1]) then
  return { 'superseded', unpack(state.reply) }
end

-- What is of another type would make a write below fail with half of it done. It is nobody else's: the key begins with our prefix.
if not is_or_none(KEYS[1], 'hash') then redis.call('DEL', KEYS[1]) end

local last_field = 9 + tonumber(ARGV[9])
if ARGV[8] ~= '' then keep(KEYS[2], ARGV[7], now, ARGV[8], last_field + 1) end

-- Only the fields that a state may lack are taken away, so that a field which another script keeps beside them stays.
redis.call('HDEL', KEYS[1], 'retry_at', 'lock_expires_at', 'lock_actor', 'lock_reason')
redis.call('HSET', KEYS[1], 'layout', LAYOUT, 'generation', ARGV[1], 'since', text_of(math.max(0, now - tonumber(ARGV[2]))), unpack(ARGV, 10, last_field))
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'retry_at', text_of(now + tonumber(ARGV[3]))) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'lock_expires_at', text_of(now + tonumber(ARGV[4]))) end

-- A user who may write but not publish has stored the state all the same; the others find it by polling.
local told = redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return { 'stored', type(told) == 'table' and told.err or '' }
