-- Keeps a transition that is one instance's alone: the breaker that is stored does not change. They have a stream of their own, so that no number of
-- them makes the history lose a change of that breaker.
--
-- KEYS[1]  the notes, a stream
-- ARGV[1]  how many are kept
-- ARGV[2]  how long ago the transition was, ms
-- ARGV     the rest are its fields, names and values in turn; the first is 'note', which tells it from all others
--
-- Answers 1, or 0: it is there. Whoever has not heard the answer asks again.

if is_or_none(KEYS[1], 'stream') then
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-')) do
    -- Behind 'at' and its value.
    if entry[2][3] == 'note' and entry[2][4] == ARGV[4] then return 0 end
  end
end
keep(KEYS[1], '=', ARGV[1], now_ms(), ARGV[2], 3)
return 1
