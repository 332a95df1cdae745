-- Reads what is stored of breakers.
--
-- KEYS     the breakers' hashes
--
-- Answers for each of them {} where nothing is stored, or {state, change}: {'absent'}, {'damaged', why} or {'found', state…}; and
-- {'absent'} or {'found', change…}.

local now = now_ms()
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = {}
  -- Most breakers have never changed.
  if not is_or_none(key, 'none') then
    local state, why = read_state(key, now)
    local _, change = read_settings(key, now)
    answers[i][1] = state and { 'found', unpack(state.reply) } or why and { 'damaged', why } or { 'absent' }
    answers[i][2] = change and { 'found', unpack(change) } or { 'absent' }
  end
end
return answers
