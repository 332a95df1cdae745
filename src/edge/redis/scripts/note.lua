-- Keeps a transition that is one instance's alone: the breaker that is stored does not change.
--
-- KEYS[1]  the history, a stream
-- ARGV[1]  how many transitions are kept, about
-- ARGV[2]  how long ago the transition was, ms
-- ARGV     the rest are its fields, names and values in turn

keep(KEYS[1], ARGV[1], now_ms(), ARGV[2], 3)
return 1
