"""Packed records on Redis: one server, or a cluster of them, for any number of machines.

A record is a string, named as `redis_names.py` says. One hash per project says where each view is,
and how far.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from stores.online.backend import KeyGroup, OnlineStoreUnavailable, RecordRows, Watermark
from stores.online.backends import redis_lease
from stores.online.backends.redis_files import scrub, warn_of_eviction
from stores.online.backends.redis_lease import Lease
from stores.online.backends.redis_names import (
    by_bucket,
    by_group,
    chunks,
    project_hash,
    record_names,
)
from stores.online.backends.redis_scripts import MOVE_MARK, PUT, SWAP
from stores.online.records import new_generation_name, not_online, removed_meanwhile
from stores.online.view import OnlineView

# What the server does in one step, and all others wait for, is so many keys.
_AT_ONCE = 100
# It also does all that has come on a connection before it looks at the others.
_IN_FLIGHT = 400
_ERRORS = (RedisError, RedisClusterException)
_SWAPS = 10


class RedisRecords:
    """See the module. Threads share its connections."""

    def __init__(
        self, address: str, project: str, *, cluster: bool = False, timeout: float = 2.0
    ) -> None:
        self.project = project
        self.cluster = cluster
        self._address = address
        # Once again where a connection turns out to be dead, as after a restart of the server; not
        # until it is back, nor where it is slow: then the answer to the first would come too late
        # as well.
        once_again = Retry(NoBackoff(), 1, (redis.ConnectionError,))
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": once_again,
        }
        there: dict[str, Any] = parse_url(address)  # type: ignore[no-untyped-call]
        at = (
            there["path"]
            if "path" in there
            else f"{there.get('host', 'localhost')}:{there.get('port', 6379)}"
        )
        self.where = f"Redis cluster at {at}" if cluster else f"Redis at {at}"
        self._hash = project_hash(project)
        self._generations: dict[str, str] = {}
        self._local = threading.local()

    @cached_property
    def client(self) -> Any:
        """Made with the first request, since a cluster is asked for its nodes."""
        if self.cluster:
            return RedisCluster.from_url(self._address, **self._options)
        return redis.Redis.from_url(self._address, **self._options)

    @property
    def _exclusive_generations(self) -> dict[str, tuple[str, str]]:
        """The views that this thread is alone with: their places when it began, and what their
        locks hold.
        """
        begun: dict[str, tuple[str, str]] = self._local.__dict__.setdefault("begun", {})
        return begun

    def _run(self, script: str, keys: Sequence[Any], *values: Any) -> Any:
        """What a script answers. Scripts are sent whole: a server that was started anew knows none."""
        with self._asking():
            return self.client.eval(script, len(keys), *keys, *values)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise OnlineStoreUnavailable(
                f"{self.where} does not answer as it should: {type(error).__name__}: {error}."
            ) from error

    # Reading.

    def read_records(self, groups: Sequence[KeyGroup]) -> list[RecordRows]:
        """See `Records`; one way to the server and back, in which it also says whether the views
        are still where they were.
        """
        schemas = list(dict.fromkeys(view.schema for _, views in groups for view in views))
        fields = [f"{schema}:place" for schema in schemas]
        for _ in range(_SWAPS):
            known = self._generations
            if any(schema not in known for schema in schemas):
                known = self._load_generations(groups)
            wanted = [
                name
                for keys, views in groups
                for name in record_names([known[view.schema] for view in views], keys)
            ]
            with self._asking():
                records, generations = self._get(wanted, fields)
                if self.cluster and None in records:
                    # Other nodes may have answered before this one, and others have removed what
                    # was there in between.
                    generations = self.client.hmget(self._hash, fields)
            if [generation and generation.decode() for generation in generations] == [
                known[schema] for schema in schemas
            ]:
                return by_group(groups, records)
            self._generations = {}
        raise OnlineStoreUnavailable(
            f"views in {self.where} are swapped faster than they can be read."
        )

    def _load_generations(self, groups: Sequence[KeyGroup]) -> dict[str, str]:
        with self._asking():
            fields = self.client.hgetall(self._hash)
        known = {
            name.decode().removesuffix(":place"): value.decode()
            for name, value in fields.items()
            if name.endswith(b":place")
        }
        for _, views in groups:
            for view in views:
                if view.schema not in known:
                    raise not_online(view)
        self._generations = known
        return known

    def _get(
        self, names: Sequence[bytes], fields: Sequence[str]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Records, and after them fields of the project's hash, in one exchange (in a cluster, one
        per node).

        After them: a record that is missing is missing in a place that is still the view's.
        """
        pipeline = self.client.pipeline(transaction=False)
        groups = [numbers for numbers in self._together(names) if len(numbers)]
        for numbers in groups:
            # Here and below not by its method, which a pipeline of a cluster refuses though all its
            # keys are together.
            pipeline.execute_command("MGET", *(names[number] for number in numbers))
        if fields:
            pipeline.hmget(self._hash, fields)
        answers = pipeline.execute()
        found = answers.pop() if fields else []
        if not self.cluster:
            return (answers[0] if answers else []), found
        records: list[bytes | None] = [None] * len(names)
        for numbers, values in zip(groups, answers, strict=True):
            for number, value in zip(numbers, values, strict=True):
                records[number] = value
        return records, found

    def get(self, generation: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Records`."""
        with self._asking():
            return self._get(record_names([generation], keys), [])[0]

    # Writing.

    def put(
        self,
        generation: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """See `Records`; compared and set on the server."""
        names = record_names([generation], keys)
        failed: list[int] = []
        with self._asking():
            for start in range(0, len(names), _IN_FLIGHT):
                pipeline = self.client.pipeline(transaction=False)
                there = self._together(names[start : start + _IN_FLIGHT])
                groups = [
                    [start + number for number in part]
                    for numbers in there
                    for part in chunks(numbers, _AT_ONCE)
                ]
                for numbers in groups:
                    old = (
                        [b""] * len(numbers)
                        if before is None
                        else [before[number] or b"" for number in numbers]
                    )
                    pairs = [
                        value
                        for number, was in zip(numbers, old, strict=True)
                        for value in (was, after[number])
                    ]
                    pipeline.execute_command(
                        "EVAL", PUT, len(numbers), *(names[number] for number in numbers), *pairs
                    )
                for numbers, missed in zip(groups, pipeline.execute(), strict=True):
                    failed += [numbers[number] for number in missed]
        return sorted(failed)

    def _together(self, names: Sequence[bytes]) -> Iterable[Sequence[int]]:
        """The numbers of names that one command may hold."""
        return by_bucket(names).values() if self.cluster else [range(len(names))]

    def generation(self, view: OnlineView) -> str | None:
        """See `Records`."""
        with self._asking():
            found = self.client.hget(self._hash, f"{view.schema}:place")
        return found.decode() if found else None

    def writable_generations(self, view: OnlineView) -> list[str]:
        """See `Records`."""
        fields = [f"{view.schema}:place", f"{view.schema}:beside"]
        with self._asking():
            generation, being_filled = self.client.hmget(self._hash, fields)
        begun = self._exclusive_generations.get(view.schema)
        if begun and (generation is None or generation.decode() != begun[0]):
            raise removed_meanwhile(view, self.where)
        if generation is None:
            with self._asking():
                pipeline = self.client.pipeline(transaction=False)
                pipeline.hset(self._hash, f"{view.schema}:name", view.name)
                pipeline.hsetnx(self._hash, fields[0], new_generation_name(view))
                pipeline.hmget(self._hash, fields)
                generation, being_filled = pipeline.execute()[-1]
        if generation is None:
            raise removed_meanwhile(view, self.where)
        return [each.decode() for each in (generation, being_filled) if each]

    def new_generation(self, view: OnlineView) -> str:
        """See `Records`; what runs that were killed left behind goes with the swap, which goes
        through all keys once.
        """
        generation = new_generation_name(view)
        with self._asking():
            self.client.hset(self._hash, f"{view.schema}:beside", generation)
        return generation

    def swap(self, view: OnlineView, generation: str, watermark: Watermark) -> None:
        """See `Records`; readers see the one or the other, whole. Only who is `alone` may."""
        _, mine = self._exclusive_generations.get(view.schema, ("", ""))
        names = [self._hash, self._lock(view)]
        answer = self._run(
            SWAP,
            names,
            view.schema,
            mine,
            view.name,
            generation,
            f"{watermark.version} {watermark.until}",
        )
        if answer == -1:
            raise removed_meanwhile(view, self.where)
        if answer == 0:
            raise OnlineStoreUnavailable(
                f"this run was silent for over {redis_lease.SECONDS:.0f} s, or {self.where} lost"
                f" its data; view '{view.name}' is as it was. "
                "Run it again: punctual features materialize."
            )
        self._exclusive_generations[view.schema] = generation, mine
        self._clean(view, generation)

    def _clean(self, view: OnlineView, generation: str) -> None:
        """Once a view is whole as it is defined now, what earlier runs left goes."""
        self._remove(view.schema, keep=generation)

    def first_version(self, view: OnlineView, version: int) -> int:
        """See `Records`."""
        field = f"{view.schema}:began"
        with self._asking():
            self.client.hsetnx(self._hash, field, version)
            return int(self.client.hget(self._hash, field) or version)

    def watermark(self, view: OnlineView) -> Watermark | None:
        """See `Records`."""
        with self._asking():
            found = self.client.hget(self._hash, f"{view.schema}:mark")
        return Watermark(*map(int, found.split())) if found else None

    def move_watermark(self, view: OnlineView, watermark: Watermark) -> None:
        """See `Records`."""
        begun = self._exclusive_generations.get(view.schema, ())
        answer = self._run(
            MOVE_MARK,
            [self._hash, self._lock(view)],
            view.schema,
            watermark.version,
            watermark.until,
            *begun,
        )
        if answer == -1:
            raise removed_meanwhile(view, self.where)
        if answer == 1 and begun:
            self._clean(view, begun[0])

    def _lock(self, view: OnlineView) -> str:
        return f"{self._hash}:{view.schema}:lock"

    @contextmanager
    def exclusive(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; who dies lets go after half a minute, who lives says so from a thread of
        its own.
        """
        with self._locked(view) as mine:
            with self._asking():
                warn_of_eviction(self._nodes(), self.where)
            (generation, *being_filled) = self.writable_generations(view)
            if being_filled:
                self._remove(view.schema, keep=generation)
                with self._asking():
                    self.client.hdel(self._hash, f"{view.schema}:beside")
            self._exclusive_generations[view.schema] = generation, mine
            try:
                yield
            finally:
                del self._exclusive_generations[view.schema]

    def _nodes(self) -> list[Any]:
        """A client for every server that keeps records."""
        return (
            [self.client.get_redis_connection(node) for node in self.client.get_primaries()]
            if self.cluster
            else [self.client]
        )

    @contextmanager
    def _locked(self, view: OnlineView) -> Iterator[str]:
        with self._asking():
            lease = Lease(self.client, self._lock(view))
        with lease as mine:
            yield mine

    # What is there, and its end.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        with self._asking():
            fields = self.client.hgetall(project_hash(project))
        for name, value in fields.items():
            if name.endswith(b":name"):
                found.setdefault(value.decode(), []).append(name.decode().removesuffix(":name"))
        return found

    def drop(self, schema: str) -> None:
        """See `Records`; its name goes last, so that a drop that was killed can be found and done
        again.
        """
        with self._asking():
            self.client.hdel(
                self._hash, *(f"{schema}:{field}" for field in ("place", "beside", "began", "mark"))
            )
        self._remove(schema)
        with self._asking():
            self.client.hdel(self._hash, f"{schema}:name")

    def _names(self, pattern: str) -> Iterator[bytes]:
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if self.cluster else {}
        yield from self.client.scan_iter(match=pattern, count=_AT_ONCE, **nodes)

    def _remove(self, schema: str, keep: str | None = None) -> None:
        """Remove the records of a schema, but for one place."""
        kept = f"{keep}:".encode() if keep else None
        with self._asking():
            batch: list[bytes] = []
            for name in self._names(f"{{??}}*.{schema}.*:*"):
                if kept is None or not name[4:].startswith(kept):
                    batch.append(name)
                if len(batch) >= _AT_ONCE:
                    self._unlink(batch)
                    batch = []
            self._unlink(batch)

    def _unlink(self, names: Sequence[bytes]) -> int:
        removed = 0
        pipeline = self.client.pipeline(transaction=False)
        for numbers in self._together(names):
            if numbers:
                pipeline.execute_command("UNLINK", *(names[number] for number in numbers))
        for count in pipeline.execute():
            removed += count
        return removed

    def count(self, view: OnlineView) -> int:
        """See `Records`; it goes through all keys of the server."""
        generation = self.generation(view)
        with self._asking():
            return sum(1 for _ in self._names(f"{{??}}{generation}:*")) if generation else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`; it goes through all keys of the server."""
        removed = 0
        with self._locked(view):
            generation = self.generation(view)
            self._remove(view.schema, keep=generation)
            schemas = [view.schema, *self.views(self.project).get(view.name, [])]
            with self._asking():
                self.client.hdel(self._hash, f"{view.schema}:beside")
                for number, schema in enumerate(dict.fromkeys(schemas)):
                    found = self.client.hget(self._hash, f"{schema}:place")
                    gone = self._unlink(record_names([found.decode()], keys)) if found else 0
                    removed += 0 if number else gone
        return removed

    def scrub(self) -> None:
        """See `Records`; where the server keeps files, they are written anew, in the background."""
        with self._asking():
            for node in self._nodes():
                scrub(node, self.where)

    def close(self) -> None:
        """Close the connections that nobody uses; the next request opens others."""
        if "client" in self.__dict__:
            for client in (
                [node.redis_connection for node in self.client.get_nodes()]
                if self.cluster
                else [self.client]
            ):
                client.connection_pool.disconnect(inuse_connections=False)

    def teardown(self, project: str) -> None:
        """See `Records`."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        with self._asking():
            self.client.delete(project_hash(project))
