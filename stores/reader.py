"""From entity keys to columns and matrices, without Feast and without an object per value where there are many.

All views are read in one look. A few rows are unpacked value by value, which is quickest for them; many rows of a view
are one NumPy array, since their records are laid out alike.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from feature_repo.times import micros
from stores.layout import INTACT, CorruptRecord
from stores.packed import OnlineRow, OnlineView, PackedDatabase, Status

# From so many rows on an array costs less than the rows one by one.
_MANY = 20


class Shown(ABC):
    """What a view shows for the rows of a request at one moment.

    `statuses`, `events` and `created` have an entry per row; times are in microseconds, None where nothing is shown.
    """

    @property
    @abstractmethod
    def statuses(self) -> list[Status]:
        """Whether a row is shown, per row of the request."""

    @property
    @abstractmethod
    def events(self) -> list[int | None]:
        """The shown rows' event times."""

    @property
    @abstractmethod
    def created(self) -> list[int | None]:
        """The shown rows' created times."""

    @abstractmethod
    def values(self, place: int) -> list[Any]:
        """A feature's value per row, by its number in the view: as it was written, None where there is none."""

    @abstractmethod
    def numbers(self, place: int) -> np.ndarray:
        """The same as float64, NaN where there is none; moments in microseconds. Only for numbers, booleans and moments."""


class Reader:
    """Reads some views by the keys that callers have; safe among threads.

    A view comes with the name of its key: what `read` is given keys by. Views of one key share it.
    """

    def __init__(self, database: PackedDatabase, views: Sequence[tuple[OnlineView, Hashable]]) -> None:
        self.database = database
        self.views = [view for view, _ in views]
        self._quick = [(view.layout.cells_at, view.ttl) for view in self.views]
        self._groups: dict[Hashable, list[int]] = {}
        for number, (_, key) in enumerate(views):
            self._groups.setdefault(key, []).append(number)
        self._grouped = {key: [self.views[number] for number in numbers] for key, numbers in self._groups.items()}

    def read(self, keys: Mapping[Any, Sequence[bytes | None]], at: int) -> list[Shown]:
        """What each view shows at a moment (microseconds), in the views' order; a null key is not found.

        Raises `NotBuilt` for a view that was never filled.
        """
        return [
            (_Many if len(records) >= _MANY else _Few)(self.database, view, records, at)
            for view, records in zip(self.views, self._look(keys), strict=True)
        ]

    def matrix(self, keys: Mapping[Any, Sequence[bytes | None]], at: int) -> np.ndarray:
        """All features of all views as float64, rows x features, NaN where there is none; only for views of numbers."""
        found = self._look(keys)
        rows = len(found[0]) if found else 0
        if rows < _MANY:
            return np.array([self._numbers(records, at) for records in zip(*found, strict=True)], np.float64)
        matrix = np.empty((rows, sum(len(view.features) for view in self.views)))
        start = 0
        for view, records in zip(self.views, found, strict=True):
            shown = _Many(self.database, view, records, at)
            shown.fill(matrix[:, start : start + len(view.features)])
            start += len(view.features)
        return matrix

    def _numbers(self, records: Sequence[bytes | None], at: int) -> list[Any]:
        """One row of the matrix."""
        numbers: list[Any] = []
        for number, record in enumerate(records):
            cells_at, ttl = self._quick[number]
            cells = None if record is None else cells_at(record, at, ttl)
            if cells is None:
                row = self.database.shown(self.views[number], record, at)
                cells = list(map(_number, row.values))
            numbers += cells
        return numbers

    def _look(self, keys: Mapping[Any, Sequence[bytes | None]]) -> list[Sequence[bytes | None]]:
        """The records of each view, a record per row; what several rows have in common is fetched once."""
        asked: list[list[bytes | None]] = []
        for name in self._groups:
            given = keys[name]
            asked.append(list(dict.fromkeys(given)) if len(given) > 1 else list(given))
        groups = list(zip(asked, self._grouped.values(), strict=True))
        found: list[Sequence[bytes | None]] = [()] * len(self.views)
        for (name, numbers), unique, rows in zip(self._groups.items(), asked, self.database.records.look(groups), strict=True):
            given = keys[name]
            if len(unique) < len(given):
                by_key = dict(zip(unique, rows, strict=True))
                rows = [by_key[key] for key in given]
            for number, records in zip(numbers, zip(*rows, strict=True), strict=True):
                found[number] = records
        return found


def _number(value: Any) -> Any:
    if value is None:
        return np.nan
    return micros(value) if isinstance(value, datetime) else value


class _Few(Shown):
    def __init__(self, database: PackedDatabase, view: OnlineView, records: Sequence[bytes | None], at: int) -> None:
        self._rows: list[OnlineRow] = [database.shown(view, record, at) for record in records]

    @property
    def statuses(self) -> list[Status]:
        return [row.status for row in self._rows]

    @property
    def events(self) -> list[int | None]:
        return [row.event for row in self._rows]

    @property
    def created(self) -> list[int | None]:
        return [row.created for row in self._rows]

    def values(self, place: int) -> list[Any]:
        return [row.values[place] for row in self._rows]

    def numbers(self, place: int) -> np.ndarray:
        return np.array([_number(row.values[place]) for row in self._rows], np.float64)


def nothing(database: PackedDatabase, view: OnlineView, rows: int) -> Shown:
    """What a view shows that holds nothing."""
    return _Few(database, view, [None] * rows, 0)


class _Many(Shown):
    def __init__(self, database: PackedDatabase, view: OnlineView, records: Sequence[bytes | None], at: int) -> None:
        self._view, self._layout = view, view.layout
        self._count = len(records)
        there = [number for number, record in enumerate(records) if record is not None]
        found = [record for record in records if record is not None]
        self._corrupt: list[int] = []
        self._data: list[bytes] | None = None
        alike = self._layout.single is not None and set(map(len, found)) <= {self._layout.single}
        if alike and set(map(zlib.crc32, found)) <= {INTACT}:
            fields = np.frombuffer(b"".join(found), self._layout.record_fields)
            if found and not (fields["head"] == np.void(self._layout.head)).all():
                fields, there = self._one_by_one(database, found, there, at)
        else:
            fields, there = self._one_by_one(database, found, there, at)
        self._settle(fields, np.array(there, np.intp), at)

    def _one_by_one(self, database: PackedDatabase, found: list[bytes], there: list[int], at: int) -> tuple[np.ndarray, list[int]]:
        """Where a record holds several rows, has variable cells or is damaged."""
        chosen: list[tuple[int, bytes]] = []
        for number, record in zip(there, found, strict=True):
            try:
                row = self._layout.shown_at(record, at)
            except CorruptRecord:
                database.corrupt[self._view.name] += 1
                self._corrupt.append(number)
                continue
            if row is not None:
                chosen.append((number, row))
        self._data = [row for _, row in chosen]
        size = self._layout.row_fields.itemsize
        return np.frombuffer(b"".join(row[:size] for row in self._data), self._layout.row_fields), [number for number, _ in chosen]

    def _settle(self, fields: np.ndarray, there: np.ndarray, at: int) -> None:
        """Keep what is shown, and which rows are too old."""
        view, place = self._view, len(self._layout.kinds)
        found = (fields["event"] <= at) & (fields["created"] <= at)
        self._has_nulls = bool(fields["nulls"].any())
        if self._has_nulls:
            found &= fields["nulls"][:, place >> 3] >> (place & 7) & 1 == 0
        old = found & (fields["event"] + view.ttl < at) if view.ttl else np.zeros(len(fields), bool)
        self._old, self._old_there = fields[old], there[old]
        present = found & ~old
        everything = bool(present.all())
        self._fields = fields if everything else fields[present]
        self._there = there if everything else there[present]
        if self._data is not None and not everything:
            self._data = [row for row, shown in zip(self._data, present.tolist(), strict=True) if shown]
        self._is_whole = len(self._there) == self._count

    @cached_property
    def statuses(self) -> list[Status]:
        statuses: list[Status] = ["NOT_FOUND"] * self._count
        judged: list[tuple[Status, list[int]]] = [
            ("PRESENT", self._there.tolist()),
            ("OUTSIDE_MAX_AGE", self._old_there.tolist()),
            ("INVALID", self._corrupt),
        ]
        for status, numbers in judged:
            for number in numbers:
                statuses[number] = status
        return statuses

    @cached_property
    def events(self) -> list[int | None]:
        return self._times("event")

    @cached_property
    def created(self) -> list[int | None]:
        return self._times("created")

    def _times(self, name: str) -> list[int | None]:
        times: list[int | None] = [None] * self._count
        for there, fields in ((self._there, self._fields), (self._old_there, self._old)):
            for number, moment in zip(there.tolist(), fields[name].tolist(), strict=True):
                times[number] = moment
        return times

    def _missing(self, place: int) -> np.ndarray:
        return (self._fields["nulls"][:, place >> 3] >> (place & 7) & 1).astype(bool)

    def fill(self, matrix: np.ndarray) -> None:
        """All features into a matrix of their own, rows x features."""
        for place in range(len(self._layout.kinds)):
            self._write(place, matrix[:, place])

    def numbers(self, place: int) -> np.ndarray:
        numbers = np.empty(self._count)
        self._write(place, numbers)
        return numbers

    def _write(self, place: int, numbers: np.ndarray) -> None:
        if self._is_whole:
            numbers[:] = self._fields[str(place)]
        else:
            numbers[:] = np.nan
            numbers[self._there] = self._fields[str(place)]
        if self._has_nulls:
            numbers[self._there[self._missing(place)]] = np.nan

    def values(self, place: int) -> list[Any]:
        kind = self._layout.kinds[place]
        if kind.is_variable:
            found = [values[place] for values in self._decoded]
        else:
            found = self._fields[str(place)].tolist()
            if kind.decode:
                found = list(map(kind.decode, found))
            if self._has_nulls:
                found = [None if missing else value for value, missing in zip(found, self._missing(place).tolist(), strict=True)]
        if self._is_whole:
            return found
        values = [None] * self._count
        for number, value in zip(self._there.tolist(), found, strict=True):
            values[number] = value
        return values

    @cached_property
    def _decoded(self) -> list[list[Any]]:
        assert self._data is not None, "records of variable length are taken one by one"
        return [self._layout.values(row) for row in self._data]
