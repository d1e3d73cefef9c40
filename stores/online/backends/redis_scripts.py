"""The Lua scripts that Redis runs atomically for packed records."""

# Compare and set. KEYS: records. ARGV: per record its expected ('' if absent) and its new value.
# Returns the positions of the records that have neither value.
PUT = """
local failed = {}
for i, key in ipairs(KEYS) do
    local now = redis.call('GET', key)
    if (now or '') == ARGV[2 * i - 1] or now == ARGV[2 * i] then
        if now ~= ARGV[2 * i] then redis.call('SET', key, ARGV[2 * i]) end
    else
        failed[#failed + 1] = i - 1
    end
end
return failed
"""
# Move a watermark, which within a version never moves back. KEYS: the project's hash, the view's
# lock. ARGV: schema, version, until, and within `exclusive` the generation and the lock token.
# Returns 1 for the view's first watermark, 0 for a later one, -1 if the generation was replaced.
MOVE_WATERMARK = """
local place = redis.call('HGET', KEYS[1], ARGV[1] .. ':place')
if not place then return -1 end
if ARGV[4] and (place ~= ARGV[4] or redis.call('GET', KEYS[2]) ~= ARGV[5]) then return -1 end
local mark = redis.call('HGET', KEYS[1], ARGV[1] .. ':mark') or ''
local version, until_ = string.match(mark, '^(%d+) (-?%d+)$')
if version ~= ARGV[2] or tonumber(until_) < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[1] .. ':mark', ARGV[2] .. ' ' .. ARGV[3])
end
return version and 0 or 1
"""
# Renew or release a lock. KEYS: the lock. ARGV: its token, milliseconds from now; 0 releases it.
RENEW_OR_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# Make the generation that a rebuild filled the current one. KEYS: the project's hash, the view's
# lock. ARGV: schema, lock token, view name, generation, watermark. Returns 1; 0 if the lock is
# lost; -1 if the view was removed meanwhile, and with it the generation.
SWAP = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1] .. ':beside') ~= ARGV[4] then return -1 end
redis.call(
    'HSET', KEYS[1],
    ARGV[1] .. ':name', ARGV[3], ARGV[1] .. ':place', ARGV[4], ARGV[1] .. ':mark', ARGV[5]
)
redis.call('HDEL', KEYS[1], ARGV[1] .. ':beside')
return 1
"""
