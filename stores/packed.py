"""Packed online rows: all of a view's features for one entity in one record, over any backend that keeps bytes.

A record holds the row that is effective and those published ahead, so that each is shown from its moment on. What a
write does to a record is worked out here, and put in its place by compare-and-set; so it is the same on every backend.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, Protocol

from feast import FeatureView
from feast.types import FeastType

from feature_repo.errors import NotBuilt, PunctualError
from feature_repo.raw import digest
from feature_repo.times import micros
from stores.entity_keys import EntityKeys
from stores.layout import FORMAT, CorruptRecord, Layout, PackedRow

Status = Literal["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE", "INVALID"]
_ATTEMPTS = 50


class OnlineStoreUnavailable(PunctualError):
    """The online store does not answer, or somebody else changes what this run works on; the next run may do."""

    may_pass = True


class PlaceGone(Exception):
    """A place is not there any more: another one was swapped in, or the view was removed; who writes looks again."""


@dataclass(frozen=True)
class OnlineView:
    """What the online store has to know of a feature view; keys are in sorted order of their names."""

    project: str
    name: str
    keys: tuple[tuple[str, FeastType], ...]
    typed_features: tuple[tuple[str, FeastType], ...]
    ttl: int = 0
    fingerprint: str = ""

    @classmethod
    def of(cls, project: str, view: FeatureView) -> OnlineView:
        """The online side of a Feast view."""
        keys = tuple(sorted(((column.name, column.dtype) for column in view.entity_columns), key=lambda key: key[0]))
        features = tuple((column.name, column.dtype) for column in view.features)
        return cls(project, view.name, keys, features, micros(view.ttl or timedelta(0)), view.tags.get("fingerprint", ""))

    @cached_property
    def schema(self) -> str:
        """A fingerprint of project, name, keys, features and definition; a view of another one has other records."""
        typed = [[(name, str(type_)) for name, type_ in columns] for columns in (self.keys, self.typed_features)]
        return digest(repr((FORMAT, self.project, self.name, *typed, self.fingerprint)))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The features' names, in the order of a record's values."""
        return tuple(name for name, _ in self.typed_features)

    @cached_property
    def join_keys(self) -> tuple[str, ...]:
        """The join keys' names, sorted."""
        return tuple(name for name, _ in self.keys)

    @cached_property
    def layout(self) -> Layout:
        """How its records are laid out."""
        return Layout([type_ for _, type_ in self.typed_features], int(self.schema[:8], 16))

    @cached_property
    def entity_keys(self) -> EntityKeys:
        """How its keys are encoded."""
        return EntityKeys(self.join_keys, [type_ for _, type_ in self.keys])

    def keyed_by(self, columns: Sequence[str]) -> str:
        """What views share whose join keys, in their order, are read from the same columns in the same types: the keys' bytes."""
        return repr([*zip(columns, map(str, self.entity_keys.types), strict=True)])

    def key(self, *values: Any) -> bytes | None:
        """The record's key from the join keys' values, in sorted order of their names; None where one is null."""
        return self.entity_keys.encode(values)

    def all_keys(self, *columns: Sequence[Any]) -> list[bytes | None]:
        """The keys of many records, from a sequence of values per join key, in sorted order of their names."""
        return self.entity_keys.encode_all(columns)


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """What a view shows for one entity at one moment; times in microseconds, None where there is no row."""

    status: Status
    event: int | None
    created: int | None
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Written:
    """How many records a write changed, and in how many of them the row to show had been due before it was there."""

    records: int
    missed: int


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a view is online: all that took effect by `until` (microseconds) in a version of its table."""

    version: int
    until: int


@dataclass(frozen=True)
class Rows:
    """Rows to write, by column: the entities' keys, the rows' times in microseconds, their bytes in the view's layout."""

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
        return Rows([keys[i] for i in chosen], [events[i] for i in chosen], [created[i] for i in chosen], [data[i] for i in chosen])

    def by_key(self) -> dict[bytes, list[PackedRow]]:
        """The rows of each key, in the order in which they came."""
        found: dict[bytes, list[PackedRow]] = {}
        for key, event, created, data in zip(self.keys, self.events, self.created, self.data, strict=True):
            found.setdefault(key, []).append(PackedRow(event, created, data))
        return found


Group = tuple[Sequence[bytes | None], Sequence[OnlineView]]
Found = list[tuple[bytes | None, ...]]


class Records(Protocol):
    """A backend: keeps records by place and key. A place is what one filling of one view has to itself.

    Methods raise `OnlineStoreUnavailable` or `DataFolderError` where the backend does not answer or cannot be written;
    `get` and `put` raise `PlaceGone` where they notice it.
    """

    #: Where it is, as messages say it.
    where: str

    def look(self, groups: Sequence[Group]) -> list[Found]:
        """For each group of keys the record per key and view, None where there is none. Raises `NotBuilt` for a view without a place."""

    def get(self, place: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records in a place."""

    def put(self, place: str, keys: Sequence[bytes], before: Sequence[bytes | None] | None, after: Sequence[bytes]) -> list[int]:
        """Replace each record that is still as it was before (None: not there), atomically each.

        Returns the numbers of those that are not as they were, in order.
        """

    def place(self, view: OnlineView) -> str | None:
        """Where the view's records are; None before the first."""

    def places(self, view: OnlineView) -> list[str]:
        """Where rows for the view have to be written: its place, made if there is none, and what is filled beside it."""

    def beside(self, view: OnlineView) -> str:
        """A new, empty place for the view that nobody reads; what is written to the view goes there too from now on."""

    def swap(self, view: OnlineView, place: str, mark: Mark) -> None:
        """Make a place the view's own, with its mark, in one step; what was there before goes, and earlier definitions' records."""

    def began(self, view: OnlineView, version: int) -> int:
        """From which version of its table a first run has begun to fill the view's place; the given one if none has yet."""

    def mark(self, view: OnlineView) -> Mark | None:
        """How far the view is online; None before its first whole run."""

    def move_mark(self, view: OnlineView, mark: Mark) -> None:
        """Move the mark; within a version of the table it never goes back. With the first, earlier definitions' records go.

        Raises `OnlineStoreUnavailable` within `alone` where the records that were there when it began are not any more:
        the mark would speak for rows that are gone.
        """

    def alone(self, view: OnlineView) -> AbstractContextManager[None]:
        """Within it nobody else materializes the view, which has a place; waits for its turn. What a dead run left beside goes."""

    def views(self, project: str) -> dict[str, list[str]]:
        """The schemas in the store by the view's name."""

    def drop(self, schema: str) -> None:
        """Remove a view's records, of one schema, and its mark."""

    def count(self, view: OnlineView) -> int:
        """How many records the view has."""

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove records, those of earlier definitions too, while nobody materializes; returns how many the view had."""

    def scrub(self) -> None:
        """Leave no byte of what was removed in the backend's files."""

    def close(self) -> None:
        """Close this thread's connection."""

    def teardown(self, project: str) -> None:
        """Remove everything of the project."""


def merged(rows: Iterable[PackedRow], now: int) -> list[PackedRow]:
    """The rows a record needs from `now` on: the one that is shown, and those yet to come that will be."""
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
        shown_at: Callable[[], int] | None = None,
        *,
        place: str | None = None,
        is_empty: bool = False,
    ) -> Written:
        """Merge rows into their records, each record in one step.

        What is effective at `now` and older than another effective row goes; an older row never replaces a newer.
        `shown_at` says what time it is when the rows come online, where that is known to be later than `now`.
        `is_empty` says that hardly any of the keys is there yet, and saves looking for them.
        Without `place` the rows go to the view, and to what is being filled beside it: a swap meanwhile loses none.
        """
        then = (lambda: now) if shown_at is None else (lambda: max(now, shown_at()))
        if place is not None:
            try:
                return self._write(view, place, rows, now, then, is_empty)
            except PlaceGone as error:
                raise removed_meanwhile(view, self.records.where) from error
        done: dict[str, Written] = {}
        for _ in range(_ATTEMPTS):
            places = self.records.places(view)
            for each in places:
                with suppress(PlaceGone):
                    done.setdefault(each, self._write(view, each, rows, now, then, is_empty and each not in done))
            # A place that came while we wrote has perhaps been filled from what was there before our rows.
            if self.records.places(view) == places and done.keys() >= set(places):
                return done[places[0]]
        raise OnlineStoreUnavailable(f"view '{view.name}' is swapped in {self.records.where} faster than rows can be written to it.")

    def _write(self, view: OnlineView, place: str, rows: Rows, now: int, then: Callable[[], int], is_empty: bool) -> Written:
        """`write`, to one place."""
        written = 0
        due: list[int] = []
        if is_empty and len(set(rows.keys)) == len(rows):
            rows, due = self._fill(view, place, rows)
            written = len(due)
        offered = rows.by_key()
        keys = list(offered)
        for _ in range(_ATTEMPTS):
            changed = list(self._changed(view, keys, self.records.get(place, keys), offered, now)) if keys else []
            failed = self.records.put(place, *zip(*(each[:3] for each in changed), strict=True)) if changed else []
            again = set(failed)
            written += len(changed) - len(failed)
            due += [moment for number, (*_, moment) in enumerate(changed) if moment is not None and number not in again]
            if not failed:
                shown = then()
                return Written(written, sum(moment < shown for moment in due))
            # Somebody else wrote between our looking and our writing.
            keys = [changed[number][0] for number in failed]
        raise OnlineStoreUnavailable(f"others change view '{view.name}' in {self.records.where} faster than rows can be merged into it.")

    def _fill(self, view: OnlineView, place: str, rows: Rows) -> tuple[Rows, list[int]]:
        """Write a record per row where there is none; the rows where there is one, and since when the others were due."""
        failed = self.records.put(place, rows.keys, None, view.layout.records(rows.data))
        due = list(map(max, rows.events, rows.created))
        for number in reversed(failed):
            del due[number]
        return rows.only(failed), due

    def _changed(
        self, view: OnlineView, keys: list[bytes], before: list[bytes | None], offered: dict[bytes, list[PackedRow]], now: int
    ) -> Iterator[tuple[bytes, bytes | None, bytes, int | None]]:
        """Key, record before and after, and since when its first new row has been due; unchanged records are left out."""
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
                yield key, old, record, next((row.effective for row in kept if row[:2] not in known), None)

    def read(self, view: OnlineView, keys: Sequence[bytes | None], at: int) -> list[OnlineRow]:
        """What the view shows for each key at a moment (microseconds); a null key is not found.

        A record that cannot be read is `INVALID`, and counted. Raises `NotBuilt` where the view was never filled in its
        present schema.
        """
        (found,) = self.records.look([(keys, [view])])
        return [self.shown(view, record, at) for (record,) in found]

    def shown(self, view: OnlineView, record: bytes | None, at: int) -> OnlineRow:
        """What a record shows at a moment (microseconds)."""
        layout = view.layout
        nothing = [None] * len(layout.kinds)
        if record is None:
            return OnlineRow("NOT_FOUND", None, None, nothing)
        try:
            row = layout.shown_at(record, at)
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
        return self.records.count(view) if self.records.place(view) else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """Remove what is known of entities, so that no byte of it is left; returns how many had a record.

        Waits for a run that materializes the view. What the tables still hold of them comes back with the next rebuild.
        """
        removed = self.records.erase(view, keys)
        self.records.scrub()
        return removed

    def erase_view(self, project: str, name: str) -> None:
        """Remove a view, whatever its schema was, so that no byte of it is left."""
        for schema in self.records.views(project).get(name, []):
            self.records.drop(schema)
        self.records.scrub()


def new_place(view: OnlineView) -> str:
    """The name of a place that nobody else has; it says whose it is."""
    return f"{view.name}.{view.schema}.{uuid.uuid4().hex[:8]}"


def not_online(view: OnlineView) -> NotBuilt:
    """The error for a view that has no place."""
    return NotBuilt(f"view '{view.name}' is not in the online store as it is defined now; run: punctual features materialize.")


def removed_meanwhile(view: OnlineView, where: str) -> OnlineStoreUnavailable:
    """The error of a run whose view somebody removed while it was filled, or swapped for another's."""
    return OnlineStoreUnavailable(
        f"the records of view '{view.name}' in {where} were removed or replaced while this run filled them; run it again: "
        "punctual features materialize."
    )
