"""Packed records on a Redis server or cluster, for any number of machines.

A record is a string whose key `redis_names.py` defines. One hash per project has, by schema, the
current generation (`place`), the one that a rebuild fills (`beside`) and the watermark (`mark`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stores.online.backend import KeyGroup, OnlineStoreUnavailable, RecordRows, Watermark
from stores.online.backends import redis_lease
from stores.online.backends.redis_connection import KEYS_AT_ONCE, RedisConnection
from stores.online.backends.redis_files import scrub, warn_of_eviction
from stores.online.backends.redis_lease import Lease
from stores.online.backends.redis_names import (
    by_group,
    chunks,
    project_hash,
    record_names,
)
from stores.online.backends.redis_scripts import MOVE_WATERMARK, PUT, SWAP
from stores.online.records import new_generation_name, not_online, removed_meanwhile
from stores.online.view import OnlineView

# A server also runs all commands of a pipeline before those of other connections: the most keys.
_KEYS_IN_PIPELINE = 400
_READ_ATTEMPTS = 10


class RedisRecords(RedisConnection):
    """`Records` on Redis. Threads may share it, and share its connections."""

    def __init__(
        self, address: str, project: str, *, cluster: bool = False, timeout: float = 2.0
    ) -> None:
        super().__init__(address, cluster=cluster, timeout=timeout)
        self.project = project
        self._hash = project_hash(project)
        self._generations: dict[str, str] = {}
        self._local = threading.local()

    @property
    def _exclusive_generations(self) -> dict[str, tuple[str, str]]:
        """By schema: the generation that was current at locking, and the lock token."""
        generations: dict[str, tuple[str, str]]
        generations = self._local.__dict__.setdefault("exclusive", {})
        return generations

    # Reading.

    def read_records(self, groups: Sequence[KeyGroup]) -> list[RecordRows]:
        """See `Records`; one exchange, which also checks that the generations are still current."""
        schemas = list(dict.fromkeys(view.schema for _, views in groups for view in views))
        fields = [f"{schema}:place" for schema in schemas]
        for _ in range(_READ_ATTEMPTS):
            known = self._generations
            if any(schema not in known for schema in schemas):
                known = self._load_generations(groups)
            names = [
                name
                for keys, views in groups
                for name in record_names([known[view.schema] for view in views], keys)
            ]
            with self._translating_errors():
                records, generations = self._get(names, fields)
                if self.cluster and None in records:
                    # A rebuild may have removed records after the node of the hash had answered.
                    generations = self.client.hmget(self._hash, fields)
            if [generation and generation.decode() for generation in generations] == [
                known[schema] for schema in schemas
            ]:
                return by_group(groups, records)
            self._generations = {}
        raise OnlineStoreUnavailable(
            f"views in {self.where} are rebuilt faster than they can be read."
        )

    def _load_generations(self, groups: Sequence[KeyGroup]) -> dict[str, str]:
        with self._translating_errors():
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
        """Records, and fields of the project's hash, in one exchange (in a cluster, one per node).

        The fields are read last: a record that is missing from a generation that is still current
        does not exist.
        """
        pipeline = self.client.pipeline(transaction=False)
        groups = [numbers for numbers in self._by_command(names) if len(numbers)]
        for numbers in groups:
            # Not `pipeline.mget`, which a cluster's pipeline refuses even for keys of one slot.
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
        with self._translating_errors():
            return self._get(record_names([generation], keys), [])[0]

    # Writing.

    def put(
        self,
        generation: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """See `Records`; a script compares and sets on the server."""
        names = record_names([generation], keys)
        failed: list[int] = []
        with self._translating_errors():
            for start in range(0, len(names), _KEYS_IN_PIPELINE):
                pipeline = self.client.pipeline(transaction=False)
                commands = self._by_command(names[start : start + _KEYS_IN_PIPELINE])
                groups = [
                    [start + number for number in part]
                    for numbers in commands
                    for part in chunks(numbers, KEYS_AT_ONCE)
                ]
                for numbers in groups:
                    old = (
                        [b""] * len(numbers)
                        if before is None
                        else [before[number] or b"" for number in numbers]
                    )
                    pairs = [
                        value
                        for number, expected in zip(numbers, old, strict=True)
                        for value in (expected, after[number])
                    ]
                    pipeline.execute_command(
                        "EVAL", PUT, len(numbers), *(names[number] for number in numbers), *pairs
                    )
                for numbers, differing in zip(groups, pipeline.execute(), strict=True):
                    failed += [numbers[number] for number in differing]
        return sorted(failed)

    def generation(self, view: OnlineView) -> str | None:
        """See `Records`."""
        with self._translating_errors():
            found = self.client.hget(self._hash, f"{view.schema}:place")
        return found.decode() if found else None

    def writable_generations(self, view: OnlineView) -> list[str]:
        """See `Records`."""
        fields = [f"{view.schema}:place", f"{view.schema}:beside"]
        with self._translating_errors():
            generation, being_filled = self.client.hmget(self._hash, fields)
        expected = self._exclusive_generations.get(view.schema)
        if expected and (generation is None or generation.decode() != expected[0]):
            raise removed_meanwhile(view, self.where)
        if generation is None:
            with self._translating_errors():
                pipeline = self.client.pipeline(transaction=False)
                pipeline.hset(self._hash, f"{view.schema}:name", view.name)
                pipeline.hsetnx(self._hash, fields[0], new_generation_name(view))
                pipeline.hmget(self._hash, fields)
                generation, being_filled = pipeline.execute()[-1]
        if generation is None:
            raise removed_meanwhile(view, self.where)
        return [each.decode() for each in (generation, being_filled) if each]

    def new_generation(self, view: OnlineView) -> str:
        """See `Records`; the swap, which scans all keys, removes what killed runs left."""
        generation = new_generation_name(view)
        with self._translating_errors():
            self.client.hset(self._hash, f"{view.schema}:beside", generation)
        return generation

    def swap(self, view: OnlineView, generation: str, watermark: Watermark) -> None:
        """See `Records`; only within `exclusive`. Readers see the old or the new generation."""
        _, token = self._exclusive_generations.get(view.schema, ("", ""))
        names = [self._hash, self._lock(view)]
        answer = self._run(
            SWAP,
            names,
            view.schema,
            token,
            view.name,
            generation,
            f"{watermark.version} {watermark.until}",
        )
        if answer == -1:
            raise removed_meanwhile(view, self.where)
        if answer == 0:
            raise OnlineStoreUnavailable(
                f"this run did not renew its lock for over {redis_lease.SECONDS:.0f} s, or"
                f" {self.where} lost its data; view '{view.name}' is unchanged. "
                "Run it again: punctual features materialize."
            )
        self._exclusive_generations[view.schema] = generation, token
        self._clean(view, generation)

    def _clean(self, view: OnlineView, generation: str) -> None:
        """Remove what earlier runs left, once the view's present definition is complete."""
        self._remove(view.schema, keep=generation)

    def first_version(self, view: OnlineView, version: int) -> int:
        """See `Records`."""
        field = f"{view.schema}:began"
        with self._translating_errors():
            self.client.hsetnx(self._hash, field, version)
            return int(self.client.hget(self._hash, field) or version)

    def watermark(self, view: OnlineView) -> Watermark | None:
        """See `Records`."""
        with self._translating_errors():
            found = self.client.hget(self._hash, f"{view.schema}:mark")
        return Watermark(*map(int, found.split())) if found else None

    def move_watermark(self, view: OnlineView, watermark: Watermark) -> None:
        """See `Records`."""
        expected = self._exclusive_generations.get(view.schema, ())
        answer = self._run(
            MOVE_WATERMARK,
            [self._hash, self._lock(view)],
            view.schema,
            watermark.version,
            watermark.until,
            *expected,
        )
        if answer == -1:
            raise removed_meanwhile(view, self.where)
        if answer == 1 and expected:
            self._clean(view, expected[0])

    def _lock(self, view: OnlineView) -> str:
        return f"{self._hash}:{view.schema}:lock"

    @contextmanager
    def exclusive(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; a thread renews the lock, which expires 30 s after its holder dies."""
        with self._locked(view) as token:
            with self._translating_errors():
                warn_of_eviction(self._nodes(), self.where)
            (generation, *being_filled) = self.writable_generations(view)
            if being_filled:
                self._remove(view.schema, keep=generation)
                with self._translating_errors():
                    self.client.hdel(self._hash, f"{view.schema}:beside")
            self._exclusive_generations[view.schema] = generation, token
            try:
                yield
            finally:
                del self._exclusive_generations[view.schema]

    @contextmanager
    def _locked(self, view: OnlineView) -> Iterator[str]:
        with self._translating_errors():
            lease = Lease(self.client, self._lock(view))
        with lease as token:
            yield token

    # Counting and removing.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        with self._translating_errors():
            fields = self.client.hgetall(project_hash(project))
        for name, value in fields.items():
            if name.endswith(b":name"):
                found.setdefault(value.decode(), []).append(name.decode().removesuffix(":name"))
        return found

    def drop(self, schema: str) -> None:
        """See `Records`; the name is removed last, so that an interrupted drop can be repeated."""
        with self._translating_errors():
            self.client.hdel(
                self._hash, *(f"{schema}:{field}" for field in ("place", "beside", "began", "mark"))
            )
        self._remove(schema)
        with self._translating_errors():
            self.client.hdel(self._hash, f"{schema}:name")

    def _remove(self, schema: str, keep: str | None = None) -> None:
        """Remove the records of a schema, except those of one generation."""
        kept = f"{keep}:".encode() if keep else None
        with self._translating_errors():
            batch: list[bytes] = []
            for name in self._scan(f"{{??}}*.{schema}.*:*"):
                if kept is None or not name[4:].startswith(kept):
                    batch.append(name)
                if len(batch) >= KEYS_AT_ONCE:
                    self._unlink(batch)
                    batch = []
            self._unlink(batch)

    def count(self, view: OnlineView) -> int:
        """See `Records`; scans all keys of the server."""
        generation = self.generation(view)
        with self._translating_errors():
            return sum(1 for _ in self._scan(f"{{??}}{generation}:*")) if generation else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`; scans all keys of the server."""
        removed = 0
        with self._locked(view):
            generation = self.generation(view)
            self._remove(view.schema, keep=generation)
            schemas = [view.schema, *self.views(self.project).get(view.name, [])]
            with self._translating_errors():
                self.client.hdel(self._hash, f"{view.schema}:beside")
                for number, schema in enumerate(dict.fromkeys(schemas)):
                    found = self.client.hget(self._hash, f"{schema}:place")
                    erased = self._unlink(record_names([found.decode()], keys)) if found else 0
                    removed += 0 if number else erased
        return removed

    def scrub(self) -> None:
        """See `Records`; the server rewrites its files, if it has any, in the background."""
        with self._translating_errors():
            for node in self._nodes():
                scrub(node, self.where)

    def teardown(self, project: str) -> None:
        """See `Records`."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        with self._translating_errors():
            self.client.delete(project_hash(project))
