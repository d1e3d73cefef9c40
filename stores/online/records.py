"""Packed online rows: all of a view's features for one entity in one record, over any backend that
keeps bytes.

A record holds the row that is effective and those published ahead, so that each is shown from its
moment on. What a write does to a record is worked out here, and put in its place by
compare-and-set; so it is the same on every backend.
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
    """What a view shows for one entity at one moment; times in microseconds, None where there is no
    row.
    """

    status: Status
    event: int | None
    created: int | None
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Written:
    """How many records a write changed, and in how many of them the row to show had been due before
    it was there.
    """

    records: int
    missed: int


@dataclass(frozen=True)
class Rows:
    """Rows to write, by column: the entities' keys, the rows' times in microseconds, their bytes in
    the view's layout.
    """

    keys: Sequence[bytes]
    events: Sequence[int]
    created: Sequence[int]
    data: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, numbers: Iterable[int]) -> Rows:
        """Some of the rows."""
        chosen = list(numbers)
        keys, events, created, data = self.keys, self.events, self.created, self.data
        return Rows(
            [keys[i] for i in chosen],
            [events[i] for i in chosen],
            [created[i] for i in chosen],
            [data[i] for i in chosen],
        )

    def by_key(self) -> dict[bytes, list[PackedRow]]:
        """The rows of each key, in the order in which they came."""
        found: dict[bytes, list[PackedRow]] = {}
        for key, event, created, data in zip(
            self.keys, self.events, self.created, self.data, strict=True
        ):
            found.setdefault(key, []).append(PackedRow(event, created, data))
        return found


def merged(rows: Iterable[PackedRow], now: int) -> list[PackedRow]:
    """The rows a record needs from `now` on: the one that is shown, and those yet to come that will
    be.
    """
    kept: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: (row.effective, row.event, row.created)):
        if kept and row[:2] <= kept[-1][:2]:
            continue  # something newer is effective already
        if kept and (row.effective <= now or row.effective == kept[-1].effective):
            kept.pop()
        kept.append(row)
    return kept


class PackedDatabase:
    """An online store of packed records; threads may share it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        #: How often a record could not be read, by view, since this object was made.
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
        """Merge rows into their records, each record in one step.

        What is effective at `now` and older than another effective row goes; an older row never
        replaces a newer. `online_at` says what time it is when the rows come online, where that is
        known to be later than `now`. `is_empty` says that hardly any of the keys is there yet, and
        saves looking for them. Without `place` the rows go to the view, and to what is being filled
        beside it: a swap meanwhile loses none.
        """
        then = (lambda: now) if online_at is None else (lambda: max(now, online_at()))
        if generation is not None:
            try:
                return self._write(view, generation, rows, now, then, is_empty)
            except GenerationGone as error:
                raise removed_meanwhile(view, self.records.where) from error
        done: dict[str, Written] = {}
        for _ in range(_ATTEMPTS):
            generations = self.records.writable_generations(view)
            for each in generations:
                with suppress(GenerationGone):
                    done.setdefault(
                        each,
                        self._write(view, each, rows, now, then, is_empty and each not in done),
                    )
            # A place that came while we wrote has perhaps been filled from what was there before
            # our rows.
            if self.records.writable_generations(view) == generations and done.keys() >= set(
                generations
            ):
                return done[generations[0]]
        raise OnlineStoreUnavailable(
            f"view '{view.name}' is swapped in {self.records.where} faster than rows can be"
            " written to it."
        )

    def _write(
        self,
        view: OnlineView,
        generation: str,
        rows: Rows,
        now: int,
        then: Callable[[], int],
        is_empty: bool,
    ) -> Written:
        """`write`, to one place."""
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
                moment
                for number, (*_, moment) in enumerate(changed)
                if moment is not None and number not in again
            ]
            if not failed:
                shown = then()
                return Written(written, sum(moment < shown for moment in due))
            # Somebody else wrote between our looking and our writing.
            keys = [changed[number][0] for number in failed]
        raise OnlineStoreUnavailable(
            f"others change view '{view.name}' in {self.records.where} faster than rows can be"
            " merged into it."
        )

    def _fill(self, view: OnlineView, generation: str, rows: Rows) -> tuple[Rows, list[int]]:
        """Write a record per row where there is none; the rows where there is one, and since when
        the others were due.
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
        """Key, record before and after, and since when its first new row has been due; unchanged
        records are left out.
        """
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
                    self.corrupt[view.name] += 1  # what is offered replaces it
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
        """What the view shows for each key at a moment (microseconds); a null key is not found.

        A record that cannot be read is `INVALID`, and counted. Raises `NotBuilt` where the view was
        never filled in its present schema.
        """
        (found,) = self.records.read_records([(keys, [view])])
        return [self.shown(view, record, at) for (record,) in found]

    def shown(self, view: OnlineView, record: bytes | None, at: int) -> OnlineRow:
        """What a record shows at a moment (microseconds)."""
        layout = view.layout
        nothing = [None] * len(layout.kinds)
        if record is None:
            return OnlineRow("NOT_FOUND", None, None, nothing)
        try:
            row = layout.row_at(record, at)
        except CorruptRecord:
            self.corrupt[view.name] += 1
            return OnlineRow("INVALID", None, None, nothing)
        if row is None or layout.is_withdrawn(row):
            return OnlineRow("NOT_FOUND", None, None, nothing)
        event, created = layout.times(row)
        if view.ttl and event + view.ttl < at:
            return OnlineRow("OUTSIDE_MAX_AGE", event, created, nothing)
        return OnlineRow("PRESENT", event, created, layout.values(row))

    def count(self, view: OnlineView) -> int:
        """How many entities the view has; 0 if it was never filled."""
        return self.records.count(view) if self.records.generation(view) else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove what is known of entities, so that no byte of it is left; returns how many had a
        record.

        Waits for a run that materializes the view. What the tables still hold of them comes back
        with the next rebuild.
        """
        removed = self.records.erase(view, keys)
        self.records.scrub()
        return removed

    def drop_other_definitions(self, view: OnlineView, keep: Collection[str]) -> None:
        """Remove the records of the view's other definitions, except those of some schemas."""
        for schema in self.records.views(view.project).get(view.name, []):
            if schema != view.schema and schema not in keep:
                self.records.drop(schema)

    def erase_view(self, project: str, name: str) -> None:
        """Remove a view, whatever its schema was, so that no byte of it is left."""
        for schema in self.records.views(project).get(name, []):
            self.records.drop(schema)
        self.records.scrub()


def new_generation_name(view: OnlineView) -> str:
    """The name of a place that nobody else has; it says whose it is."""
    return f"{view.name}.{view.schema}.{uuid.uuid4().hex[:8]}"


def not_online(view: OnlineView) -> NotBuilt:
    """The error for a view that has no place."""
    return NotBuilt(
        f"view '{view.name}' is not in the online store as it is defined now; run: punctual"
        " features materialize."
    )


def removed_meanwhile(view: OnlineView, where: str) -> OnlineStoreUnavailable:
    """The error of a run whose view somebody removed while it was filled, or swapped for another's."""
    return OnlineStoreUnavailable(
        f"the records of view '{view.name}' in {where} were removed or replaced while this run"
        " filled them; run it again: "
        "punctual features materialize."
    )
