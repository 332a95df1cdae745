-- What all other scripts begin with: reading a breaker's hash. Whether a hash is sound is decided here and nowhere else, so that
-- what a load calls damaged is what a save may replace.

local LAYOUT = '1'

local LOCKS = { forced_open = true, forced_closed = true, metrics_only = true }
local STATES = { closed = true, open = true, half_open = true, forced_open = true, forced_closed = true, metrics_only = true }

-- Redis' own clock in unix ms: the only clock that every instance shares.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A whole number of at most 15 digits, which a double holds exactly. Lua would also read '0x10', '1e400' and 'nan'.
local function whole(text)
  if type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') then
    return tonumber(text)
  end
  return nil
end

local function text_of(number)
  return string.format('%.0f', number)
end

-- Whether a key is missing or of the type that is expected.
local function is_or_none(key, expected)
  local kind = redis.call('TYPE', key)['ok']
  return kind == expected or kind == 'none'
end

-- Adds a transition to a history of about `most`, a stream: `ago` ms before `now`, its fields the script's arguments from the one at `first` on.
-- What is of another type is nobody else's: the key begins with our prefix.
local function keep(key, most, now, ago, first)
  if not is_or_none(key, 'stream') then redis.call('DEL', key) end
  redis.call('XADD', key, 'MAXLEN', '~', most, '*', 'at', text_of(math.max(0, now - tonumber(ago))), unpack(ARGV, first))
end

-- The hash's state: generation, and the reply that carries it with every time relative to `now`. Or nil and why there is none;
-- nil alone when nothing is stored.
local function read_state(key, now)
  if not is_or_none(key, 'hash') then
    return nil, 'it is not a hash'
  end
  local names = { 'layout', 'generation', 'state', 'trips', 'since', 'retry_at', 'lock_expires_at', 'lock_actor', 'lock_reason', 'instance' }
  -- Settings may have been changed before there was a state.
  local values = redis.call('HMGET', key, unpack(names))
  local field, found = {}, false
  for i, name in ipairs(names) do
    if values[i] then
      field[name] = values[i]
      found = true
    end
  end
  if not found and (redis.call('EXISTS', key) == 0 or redis.call('HMGET', key, 'settings_revision')[1]) then
    return nil, nil
  end
  if field.layout ~= LAYOUT then
    return nil, 'its layout is not version ' .. LAYOUT
  end
  local generation, trips, since = whole(field.generation), whole(field.trips), whole(field.since)
  if not generation then return nil, 'its generation is not a number' end
  if not trips then return nil, 'its trips is not a number' end
  if not since then return nil, 'its since is not a time' end
  if not STATES[field.state or ''] then return nil, 'its state is none that is known' end

  local retry_in, expires_in, actor, reason = '', '', '', ''
  if field.state == 'open' then
    local retry_at = whole(field.retry_at)
    if not retry_at then return nil, 'it is open and its retry_at is not a time' end
    retry_in = text_of(retry_at - now)
  elseif LOCKS[field.state] then
    if not field.lock_actor or not field.lock_reason then return nil, 'it is locked without actor or reason' end
    actor, reason = field.lock_actor, field.lock_reason
    if field.lock_expires_at then
      local expires_at = whole(field.lock_expires_at)
      if not expires_at then return nil, 'its lock_expires_at is not a time' end
      expires_in = text_of(expires_at - now)
    end
  end
  return {
    generation = generation,
    reply = {
      field.instance or '', text_of(generation), field.state, text_of(trips), text_of(now - since),
      retry_in, expires_in, actor, reason,
    },
  }
end
