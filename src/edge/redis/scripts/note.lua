-- Keeps a transition that is one instance's alone: the breaker that is stored does not change.
--
-- KEYS[1]  the history, a stream
-- ARGV[1]  how many transitions are kept, about
-- ARGV[2]  how long ago the transition was, ms
-- ARGV     the rest are its fields, names and values in turn

if not is_or_none(KEYS[1], 'stream') then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'at', text_of(math.max(0, now_ms() - tonumber(ARGV[2]))), unpack(ARGV, 3))
return 1
