"""Packed online rows: one record per entity and view, over any backend that keeps bytes.

A record holds the effective row and the rows published ahead, each of which is shown from its own
effective time on. Rows are merged here and written by compare-and-set, so every backend behaves
alike.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from punctual.errors import NotBuilt
from stores.online.backend import GenerationGone, OnlineStoreUnavailable, Records
from stores.online.packed_row import CorruptRecord, PackedRow
from stores.online.view import OnlineView

Status = Literal["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE", "INVALID"]
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """What a view shows for one entity at one time; times in microseconds, None without a row."""

    status: Status
    event: int | None
    created: int | None
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Written:
    """The number of records a write changed, and how many of their rows came online too late."""

    records: int
    missed: int


@dataclass(frozen=True)
class Rows:
    """Rows to write, as columns: entity keys, times in microseconds, bytes in the view's layout."""

    keys: Sequence[bytes]
    events: Sequence[int]
    created: Sequence[int]
    data: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, numbers: Iterable[int]) -> Rows:
        """The rows at these positions."""
        chosen = list(numbers)
        keys, events, created, data = self.keys, self.events, self.created, self.data
        return Rows(
            [keys[i] for i in chosen],
            [events[i] for i in chosen],
            [created[i] for i in chosen],
            [data[i] for i in chosen],
        )

    def by_key(self) -> dict[bytes, list[PackedRow]]:
        """The rows of each key, in the given order."""
        found: dict[bytes, list[PackedRow]] = {}
        for key, event, created, data in zip(
            self.keys, self.events, self.created, self.data, strict=True
        ):
            found.setdefault(key, []).append(PackedRow(event, created, data))
        return found


def merged(rows: Iterable[PackedRow], now: int) -> list[PackedRow]:
    """The rows a record needs from `now` on: the effective row, and those that will replace it."""
    kept: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: (row.effective, row.event, row.created)):
        if kept and row[:2] <= kept[-1][:2]:
            continue  # a newer row is effective earlier
        if kept and (row.effective <= now or row.effective == kept[-1].effective):
            kept.pop()
        kept.append(row)
    return kept


class PackedDatabase:
    """An online store of packed records; threads may share it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        #: The number of corrupt records read since this object was made, by view.
        self.corrupt: Counter[str] = Counter()

    def close(self) -> None:
        """Close this thread's connection."""
        self.records.close()

    def write(
        self,
        view: OnlineView,
        rows: Rows,
        now: int,
        online_at: Callable[[], int] | None = None,
        *,
        generation: str | None = None,
        is_empty: bool = False,
    ) -> Written:
        """Merge rows into their records, atomically per record.

        An older row never replaces a newer one; a row that a newer effective row hides at `now` is
        dropped. `online_at` gives the time at which the rows come online, if later than `now`.
        `is_empty` is a hint that few of the keys have a record: they are inserted without being
        read first. Without `generation` the rows go to the current one and to the one that a
        rebuild is filling, so that a concurrent swap loses none.
        """
        online_from = (lambda: now) if online_at is None else (lambda: max(now, online_at()))
        if generation is not None:
            try:
                return self._write(view, generation, rows, now, online_from, is_empty)
            except GenerationGone as error:
                raise removed_meanwhile(view, self.records.where) from error
        done: dict[str, Written] = {}
        for _ in range(_ATTEMPTS):
            generations = self.records.writable_generations(view)
            for each in generations:
                with suppress(GenerationGone):
                    done.setdefault(
                        each,
                        self._write(
                            view, each, rows, now, online_from, is_empty and each not in done
                        ),
                    )
            # A rebuild that began during this write may have copied the state from before it.
            if self.records.writable_generations(view) == generations and done.keys() >= set(
                generations
            ):
                return done[generations[0]]
        raise OnlineStoreUnavailable(
            f"view '{view.name}' in {self.records.where} is rebuilt faster than rows can be"
            " written to it."
        )

    def _write(
        self,
        view: OnlineView,
        generation: str,
        rows: Rows,
        now: int,
        online_from: Callable[[], int],
        is_empty: bool,
    ) -> Written:
        """Merge rows into one generation."""
        written = 0
        due: list[int] = []
        if is_empty and len(set(rows.keys)) == len(rows):
            rows, due = self._fill(view, generation, rows)
            written = len(due)
        offered = rows.by_key()
        keys = list(offered)
        for _ in range(_ATTEMPTS):
            changed = (
                list(self._changed(view, keys, self.records.get(generation, keys), offered, now))
                if keys
                else []
            )
            failed = (
                self.records.put(generation, *zip(*(each[:3] for each in changed), strict=True))
                if changed
                else []
            )
            again = set(failed)
            written += len(changed) - len(failed)
            due += [
                effective
                for number, (*_, effective) in enumerate(changed)
                if effective is not None and number not in again
            ]
            if not failed:
                online = online_from()
                return Written(written, sum(effective < online for effective in due))
            # Another writer changed these records between `get` and `put`: merge them again.
            keys = [changed[number][0] for number in failed]
        raise OnlineStoreUnavailable(
            f"other writers change view '{view.name}' in {self.records.where} faster than rows"
            " can be merged into it."
        )

    def _fill(self, view: OnlineView, generation: str, rows: Rows) -> tuple[Rows, list[int]]:
        """Insert rows of keys without a record.

        Returns the rows whose key has a record, and the effective times of the inserted ones.
        """
        failed = self.records.put(generation, rows.keys, None, view.layout.records(rows.data))
        due = list(map(max, rows.events, rows.created))
        for number in reversed(failed):
            del due[number]
        return rows.only(failed), due

    def _changed(
        self,
        view: OnlineView,
        keys: list[bytes],
        before: list[bytes | None],
        offered: dict[bytes, list[PackedRow]],
        now: int,
    ) -> Iterator[tuple[bytes, bytes | None, bytes, int | None]]:
        """Per changed record: key, old and new record, effective time of its first new row."""
        layout = view.layout
        for key, old in zip(keys, before, strict=True):
            new = offered[key]
            if old is None and len(new) == 1:
                yield key, None, layout.record([new[0].data]), new[0].effective
                continue
            there: list[PackedRow] = []
            if old is not None:
                try:
                    there = layout.split(old)
                except CorruptRecord:
                    self.corrupt[view.name] += 1  # the offered rows replace it
            kept = merged([*there, *new], now)
            record = layout.record([row.data for row in kept])
            if record != old:
                known = {row[:2] for row in there}
                yield (
                    key,
                    old,
                    record,
                    next((row.effective for row in kept if row[:2] not in known), None),
                )

    def read(self, view: OnlineView, keys: Sequence[bytes | None], at: int) -> list[OnlineRow]:
        """What the view shows for each key at `at` (microseconds); a null key is `NOT_FOUND`.

        A corrupt record is `INVALID`, and counted. Raises `NotBuilt` if the view was never filled
        in its present schema.
        """
        (found,) = self.records.read_records([(keys, [view])])
        return [self.row_of(view, record, at) for (record,) in found]

    def row_of(self, view: OnlineView, record: bytes | None, at: int) -> OnlineRow:
        """What a record shows at `at` (microseconds)."""
        layout = view.layout
        nulls = [None] * len(layout.kinds)
        if record is None:
            return OnlineRow("NOT_FOUND", None, None, nulls)
        try:
            row = layout.row_at(record, at)
        except CorruptRecord:
            self.corrupt[view.name] += 1
            return OnlineRow("INVALID", None, None, nulls)
        if row is None or layout.is_withdrawn(row):
            return OnlineRow("NOT_FOUND", None, None, nulls)
        event, created = layout.times(row)
        if view.ttl and event + view.ttl < at:
            return OnlineRow("OUTSIDE_MAX_AGE", event, created, nulls)
        return OnlineRow("PRESENT", event, created, layout.values(row))

    def count(self, view: OnlineView) -> int:
        """The number of entities in the view; 0 if it was never filled."""
        return self.records.count(view) if self.records.generation(view) else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove the records of entities, leaving no byte of them; returns how many had one.

        Waits for a run that materializes the view. Rows that the tables still hold of these
        entities come back with the next rebuild.
        """
        removed = self.records.erase(view, keys)
        self.records.scrub()
        return removed

    def drop_other_definitions(self, view: OnlineView, keep: Collection[str]) -> None:
        """Remove the records of the view's other definitions, except the schemas to keep."""
        for schema in self.records.views(view.project).get(view.name, []):
            if schema != view.schema and schema not in keep:
                self.records.drop(schema)

    def erase_view(self, project: str, name: str) -> None:
        """Remove all records of a view, of any schema, leaving no byte of them."""
        for schema in self.records.views(project).get(name, []):
            self.records.drop(schema)
        self.records.scrub()


def new_generation_name(view: OnlineView) -> str:
    """A unique generation name that contains the view's name and schema."""
    return f"{view.name}.{view.schema}.{uuid.uuid4().hex[:8]}"


def not_online(view: OnlineView) -> NotBuilt:
    """The error for a view without a generation."""
    return NotBuilt(
        f"view '{view.name}' is not in the online store as it is defined now; run: punctual"
        " features materialize."
    )


def removed_meanwhile(view: OnlineView, where: str) -> OnlineStoreUnavailable:
    """The error of a run whose records another process removed or replaced."""
    return OnlineStoreUnavailable(
        f"the records of view '{view.name}' in {where} were removed or replaced while this run"
        " filled them; run it again: "
        "punctual features materialize."
    )
