-- Reads one breaker's state.
--
-- KEYS[1]  the breaker's hash
--
-- Answers {'absent'}, {'damaged', why} or {'found', state…}.

local state, why = read_state(KEYS[1], now_ms())
if state then
  return { 'found', unpack(state.reply) }
elseif why then
  return { 'damaged', why }
end
return { 'absent' }
