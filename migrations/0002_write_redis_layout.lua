-- Writes down the version of the Redis keys' layout. Needed before the first run, where redis.url is set.
--
-- KEYS[1]  <prefix>:layout
-- ARGV[1]  'apply', or 'look', which changes nothing
--
-- Answers {what it found: 'absent', 'same' or 'other'; the version that this release writes; the version that was found, or ''}.
-- Only an absent version is written. Another one belongs to another release: its keys are left as they are.

local VERSION = '1'

local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'none' then
  if ARGV[1] == 'apply' then
    redis.call('SET', KEYS[1], VERSION)
  end
  return { 'absent', VERSION, '' }
elseif kind ~= 'string' then
  return { 'other', VERSION, 'a ' .. kind }
end
local found = redis.call('GET', KEYS[1])
if found == VERSION then
  return { 'same', VERSION, found }
end
return { 'other', VERSION, string.sub(found, 1, 32) }
