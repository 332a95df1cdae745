-- Puts what one instance says of a breaker in place of what it said before; answers what the others say of the same life.
--
-- KEYS[1]  what instances say, a hash: by instance, '<generation> <until> <what>'
-- ARGV[1]  who says it
-- ARGV[2]  the generation of the life that it is of
-- ARGV[3]  how long it is to be weighed, ms; 0: it is taken back
-- ARGV[4]  what
--
-- Answers the others in turn: who, what.

local now = now_ms()
if not is_or_none(KEYS[1], 'hash') then redis.call('DEL', KEYS[1]) end

local generation, lasts = tonumber(ARGV[2]), tonumber(ARGV[3])
local others, last = {}, 0
local said = redis.call('HGETALL', KEYS[1])
for i = 1, #said, 2 do
  local of, ends, what = string.match(said[i + 1], '^(%d+) (%d+) (.*)$')
  of, ends = whole(of), whole(ends)
  if not of or not ends or ends <= now or of < generation then
    -- Over, or of a life that is: whoever said it says something else once it hears of this one.
    redis.call('HDEL', KEYS[1], said[i])
  elseif said[i] ~= ARGV[1] then
    if of == generation then
      others[#others + 1] = said[i]
      others[#others + 1] = what
    end
    last = math.max(last, ends)
  end
end

if lasts > 0 then
  local ends = now + lasts
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. text_of(ends) .. ' ' .. ARGV[4])
  last = math.max(last, ends)
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
if last > 0 then redis.call('PEXPIREAT', KEYS[1], text_of(last)) end
return others
