-- Reads the last change of one breaker's settings.
--
-- KEYS[1]  the breaker's hash
--
-- Answers {'absent'} or {'found', change…}.

local revision, reply = read_settings(KEYS[1], now_ms())
if reply then
  return { 'found', unpack(reply) }
end
return { 'absent' }
