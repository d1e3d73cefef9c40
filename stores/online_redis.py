"""Packed records on Redis: one server, or a cluster of them, for any number of machines.

A record is a string; its key is `{bucket}view.schema.place:` and the entity's key. The bucket in braces, one of 256, is
what a cluster distributes keys by, so that compare-and-set runs on the server for many keys at once. One hash per
project says where each view is, and how far.
"""

from __future__ import annotations

import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry

from stores.packed import Found, Group, Mark, OnlineStoreUnavailable, OnlineView, not_online

# KEYS are records; ARGV is, for each, what it was ('' where it was not there) and what it is to be. Answers which were not as expected.
_PUT = """
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
# KEYS[1] is the project's hash; ARGV: schema, version, until. Within a version a mark never goes back.
_MOVE_MARK = """
local version, until_ = string.match(redis.call('HGET', KEYS[1], ARGV[1] .. ':mark') or '', '^(%d+) (-?%d+)$')
if version ~= ARGV[2] or tonumber(until_) < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[1] .. ':mark', ARGV[2] .. ' ' .. ARGV[3])
end
"""
# KEYS[1] is a lock, ARGV[1] whose it has to be, ARGV[2] how long it is kept from now on (milliseconds); 0 gives it back.
_KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# KEYS are the project's hash and a view's lock, ARGV[1] whose the lock has to be, then fields and values of the hash.
_SWAP = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
_BATCH = 1000
_LEASE_SECONDS = 30.0
_T = TypeVar("_T")


class RedisRecords:
    """See the module. Threads share its connections."""

    def __init__(self, address: str, project: str, *, cluster: bool = False, timeout: float = 2.0) -> None:
        self.project = project
        self.cluster = cluster
        # Once again where a connection turns out to be dead, as after a restart of the server; not until it is back.
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 1),
        }
        self.client: Any
        if cluster:
            self.client = RedisCluster.from_url(address, **options, cluster_error_retry_attempts=1)
            self.where = f"Redis cluster at {self.client.get_default_node().name}"
        else:
            self.client = redis.Redis.from_url(address, **options)
            there = self.client.connection_pool.connection_kwargs
            self.where = f"Redis at {there['path'] if 'path' in there else '{host}:{port}'.format(**there)}"
        # In one slot of a cluster with the locks.
        self._hash = _hash_of(project)
        self._mine: dict[str, str] = {}
        self._put = self.client.register_script(_PUT)
        self._keep = self.client.register_script(_KEEP)
        self._swap = self.client.register_script(_SWAP)
        self._move = self.client.register_script(_MOVE_MARK)
        self._places: dict[str, str] = {}

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise OnlineStoreUnavailable(f"{self.where} does not answer as it should: {type(error).__name__}: {error}.") from error

    # Reading.

    def look(self, groups: Sequence[Group]) -> list[Found]:
        """See `Records`; one way to the server and back, in which it also says whether the views are still where they were."""
        schemas = list(dict.fromkeys(view.schema for _, views in groups for view in views))
        for _ in range(3):
            known = self._places
            if any(schema not in known for schema in schemas):
                known = self._look_up_places(groups)
            wanted = [_name(known[view.schema], key) for keys, views in groups for key in keys if key is not None for view in views]
            with self._asking():
                places, records = self._get(wanted, [f"{schema}:place" for schema in schemas])
            if [place and place.decode() for place in places] == [known[schema] for schema in schemas]:
                return _arranged(groups, records)
            self._places = {}
        raise OnlineStoreUnavailable(f"views in {self.where} are swapped faster than they can be read.")

    def _look_up_places(self, groups: Sequence[Group]) -> dict[str, str]:
        with self._asking():
            fields = self.client.hgetall(self._hash)
        self._places = {name.decode().removesuffix(":place"): value.decode() for name, value in fields.items() if name.endswith(b":place")}
        for _, views in groups:
            for view in views:
                if view.schema not in self._places:
                    raise not_online(view)
        return self._places

    def _get(self, names: Sequence[bytes], fields: Sequence[str]) -> tuple[list[bytes | None], list[bytes | None]]:
        """Fields of the project's hash, and records, in one exchange (in a cluster, one per node)."""
        pipeline = self.client.pipeline(transaction=False)
        if fields:
            pipeline.hmget(self._hash, fields)
        if self.cluster:
            for bucket in (places := _by_bucket(names)).values():
                pipeline.mget([names[number] for number in bucket])
        elif names:
            pipeline.mget(names)
        answers = pipeline.execute()
        found = answers.pop(0) if fields else []
        if not self.cluster:
            return found, answers[0] if answers else []
        records: list[bytes | None] = [None] * len(names)
        for numbers, values in zip(places.values(), answers, strict=True):
            for number, value in zip(numbers, values, strict=True):
                records[number] = value
        return found, records

    def get(self, place: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Records`."""
        with self._asking():
            return self._get([_name(place, key) for key in keys], [])[1]

    # Writing.

    def put(self, place: str, keys: Sequence[bytes], before: Sequence[bytes | None] | None, after: Sequence[bytes]) -> list[int]:
        """See `Records`; compared and set on the server."""
        names = [_name(place, key) for key in keys]
        failed: list[int] = []
        with self._asking():
            pipeline = self.client.pipeline(transaction=False)
            groups = [part for numbers in self._together(names) for part in _parts(numbers, _BATCH)]
            for numbers in groups:
                old = [b""] * len(numbers) if before is None else [before[number] or b"" for number in numbers]
                pairs = [value for number, was in zip(numbers, old, strict=True) for value in (was, after[number])]
                self._put(keys=[names[number] for number in numbers], args=pairs, client=pipeline)
            for numbers, missed in zip(groups, pipeline.execute(), strict=True):
                failed += [numbers[number] for number in missed]
        return sorted(failed)

    def _together(self, names: Sequence[bytes]) -> Iterable[Sequence[int]]:
        """The numbers of names that one command may hold."""
        return _by_bucket(names).values() if self.cluster else [range(len(names))]

    def place(self, view: OnlineView, *, make: bool = False) -> str | None:
        """See `Records`."""
        with self._asking():
            if make:
                pipeline = self.client.pipeline(transaction=False)
                pipeline.hset(self._hash, f"{view.schema}:name", view.name)
                pipeline.hsetnx(self._hash, f"{view.schema}:place", _new_place(view))
                pipeline.execute()
            found = self.client.hget(self._hash, f"{view.schema}:place")
        return found.decode() if found else None

    def beside(self, view: OnlineView) -> str:
        """See `Records`; what a rebuild that was killed left beside goes first."""
        self._remove(view.schema, keep=self.place(view))
        return _new_place(view)

    def swap(self, view: OnlineView, place: str, mark: Mark) -> None:
        """See `Records`; readers see the one or the other, whole. Only who is `alone` may."""
        fields = {"name": view.name, "place": place, "mark": f"{mark.version} {mark.until}"}
        values = [text for field, value in fields.items() for text in (f"{view.schema}:{field}", value)]
        with self._asking():
            done = self._swap(keys=[self._hash, self._lock(view)], args=[self._mine.get(view.schema, ""), *values])
        if not done:
            raise OnlineStoreUnavailable(
                f"this run was silent for over {_LEASE_SECONDS:.0f} s, and another has begun to fill view '{view.name}' in {self.where}."
            )
        self._remove(view.schema, keep=place)
        for schema in self.views(self.project).get(view.name, []):
            if schema != view.schema:
                self.drop(schema)

    def mark(self, view: OnlineView) -> Mark | None:
        """See `Records`."""
        with self._asking():
            found = self.client.hget(self._hash, f"{view.schema}:mark")
        return Mark(*map(int, found.split())) if found else None

    def move_mark(self, view: OnlineView, mark: Mark) -> None:
        """See `Records`."""
        with self._asking():
            self._move(keys=[self._hash], args=[view.schema, mark.version, mark.until])

    def _lock(self, view: OnlineView) -> str:
        return f"{self._hash}:{view.schema}:lock"

    @contextmanager
    def alone(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; who dies lets go after half a minute, who lives says so from a thread of its own."""
        lock, mine = self._lock(view), uuid.uuid4().hex
        with self._asking():
            while not self.client.set(lock, mine, nx=True, px=int(_LEASE_SECONDS * 1000)):
                time.sleep(0.1)
        self._mine[view.schema] = mine
        done = threading.Event()

        def keep() -> None:
            while not done.wait(_LEASE_SECONDS / 3):
                try:
                    self._keep(keys=[lock], args=[mine, int(_LEASE_SECONDS * 1000)])
                except RedisError:
                    continue  # the work itself meets the same and says so

        keeper = threading.Thread(target=keep, name="materializing", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            # If this fails it ends by itself.
            with suppress(RedisError):
                self._keep(keys=[lock], args=[mine, 0])

    # What is there, and its end.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        with self._asking():
            fields = self.client.hgetall(_hash_of(project))
        for name, value in fields.items():
            if name.endswith(b":name"):
                found.setdefault(value.decode(), []).append(name.decode().removesuffix(":name"))
        return found

    def drop(self, schema: str) -> None:
        """See `Records`."""
        with self._asking():
            self.client.hdel(self._hash, *(f"{schema}:{field}" for field in ("name", "place", "mark")))
        self._remove(schema)

    def _names(self, pattern: str) -> Iterator[bytes]:
        yield from self.client.scan_iter(match=pattern, count=_BATCH, **({"target_nodes": RedisCluster.PRIMARIES} if self.cluster else {}))

    def _remove(self, schema: str, keep: str | None = None) -> None:
        """Remove the records of a schema, but for one place."""
        kept = f".{keep}:".encode() if keep else None
        with self._asking():
            batch: list[bytes] = []
            for name in self._names(f"{{??}}*.{schema}.*:*"):
                if kept is None or not name[4:].startswith(kept[1:]):
                    batch.append(name)
                if len(batch) >= _BATCH:
                    self._unlink(batch)
                    batch = []
            self._unlink(batch)

    def _unlink(self, names: Sequence[bytes]) -> int:
        removed = 0
        pipeline = self.client.pipeline(transaction=False)
        for numbers in self._together(names):
            if numbers:
                pipeline.unlink(*(names[number] for number in numbers))
        for count in pipeline.execute():
            removed += count
        return removed

    def count(self, view: OnlineView) -> int:
        """See `Records`; it goes through all keys of the server."""
        place = self.place(view)
        with self._asking():
            return sum(1 for _ in self._names(f"{{??}}{place}:*")) if place else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`."""
        place = self.place(view)
        with self._asking():
            return self._unlink([_name(place, key) for key in keys]) if place else 0

    def scrub(self) -> None:
        """See `Records`; where the server keeps files, they are written anew."""
        with self._asking():
            for node in self.client.get_primaries() if self.cluster else [None]:
                self._scrub(self.client.get_redis_connection(node) if node else self.client)

    @staticmethod
    def _scrub(client: Any) -> None:
        persistence = client.info("persistence")
        if persistence.get("aof_enabled"):
            client.bgrewriteaof()
        # A snapshot on disk that the server would not replace by itself.
        if persistence.get("rdb_last_save_time"):
            while client.info("persistence")["rdb_bgsave_in_progress"]:
                time.sleep(0.02)
            client.save()
        while (now := client.info("persistence")) and (now["aof_rewrite_in_progress"] or now.get("aof_rewrite_scheduled")):
            time.sleep(0.02)

    def close(self) -> None:
        """Close the connections; the next request opens others."""
        if not self.cluster:
            self.client.connection_pool.disconnect()

    def teardown(self, project: str) -> None:
        """See `Records`."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        with self._asking():
            self.client.delete(_hash_of(project))


def _hash_of(project: str) -> str:
    return f"{{punctual:{project}}}"


def _name(place: str, key: bytes) -> bytes:
    return b"{%02x}%b:%b" % (zlib.crc32(key) & 0xFF, place.encode(), key)


def _new_place(view: OnlineView) -> str:
    return f"{view.name}.{view.schema}.{uuid.uuid4().hex[:8]}"


def _by_bucket(names: Sequence[bytes]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name[:4], []).append(number)
    return found


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _arranged(groups: Sequence[Group], records: Sequence[bytes | None]) -> list[Found]:
    """Records in the order in which they were asked for, by group, key and view."""
    found: list[Found] = []
    start = 0
    for keys, views in groups:
        rows: Found = []
        for key in keys:
            if key is None:
                rows.append((None,) * len(views))
            else:
                rows.append(tuple(records[start : start + len(views)]))
                start += len(views)
        found.append(rows)
    return found
