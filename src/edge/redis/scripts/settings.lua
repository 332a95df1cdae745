-- What the scripts about changed settings go on with: reading the last change in a breaker's hash.

-- The last change's revision, and the reply that carries it: revision, settings, actor, reason, instance, how long ago. Revision 0 and nil
-- where nobody has changed them, or what is written cannot be read as a change.
local function read_settings(key, now)
  if not is_or_none(key, 'hash') then
    return 0, nil
  end
  local field = redis.call('HMGET', key, 'settings_revision', 'settings', 'settings_actor', 'settings_reason', 'settings_instance', 'settings_at', 'layout')
  local revision, at = whole(field[1]), whole(field[6])
  if not revision or not at or (field[7] and field[7] ~= LAYOUT) then
    return 0, nil
  end
  return revision, { text_of(revision), field[2] or '', field[3] or '', field[4] or '', field[5] or '', text_of(now - at) }
end
