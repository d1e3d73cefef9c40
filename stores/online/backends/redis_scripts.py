"""What Redis runs in one step for the packed records."""

# KEYS are records; ARGV is, for each, what it was ('' where it was not there) and what it is to be.
# Answers which were not as expected.
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
# KEYS are the project's hash and the view's lock; ARGV: schema, version, until, and for a run that
# is alone its place and whose the lock has to be. Within a version a mark never goes back. Answers
# whether it is the first, -1 where the run's records are not there any more.
MOVE_MARK = """
local place = redis.call('HGET', KEYS[1], ARGV[1] .. ':place')
if not place or ARGV[4] and (place ~= ARGV[4] or redis.call('GET', KEYS[2]) ~= ARGV[5]) then return -1 end
local version, until_ = string.match(redis.call('HGET', KEYS[1], ARGV[1] .. ':mark') or '', '^(%d+) (-?%d+)$')
if version ~= ARGV[2] or tonumber(until_) < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[1] .. ':mark', ARGV[2] .. ' ' .. ARGV[3])
end
return version and 0 or 1
"""
# KEYS[1] is a lock, ARGV[1] whose it has to be, ARGV[2] how long it is kept from now on
# (milliseconds); 0 gives it back.
KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# KEYS are the project's hash and a view's lock; ARGV: schema, whose the lock has to be, name,
# place, mark. A place that is not beside the view any more was removed with it.
SWAP = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1] .. ':beside') ~= ARGV[4] then return -1 end
redis.call('HSET', KEYS[1], ARGV[1] .. ':name', ARGV[3], ARGV[1] .. ':place', ARGV[4], ARGV[1] .. ':mark', ARGV[5])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':beside')
return 1
"""
