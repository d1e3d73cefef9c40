"""The records of a request as arrays: what all of its views show at a moment, without a step in
Python for each record.

Records are laid one behind the other. Where a value stands is then arithmetic: where the row that
is shown begins, and how far behind that the view's layout has the value. All values of one type are
picked with one index, from a window on the bytes that begins at every offset.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from stores.online.packed_row import CorruptRecord
from stores.online.record_format import INTACT, START, TAIL, Layout
from stores.online.records import PackedDatabase, Status
from stores.online.view import OnlineView

_INT64, _UINT32, _BYTE = np.dtype("<i8"), np.dtype("<u4"), np.dtype("u1")
# What of a record's first eight bytes is its head.
_HEAD_BITS = (1 << 8 * START) - 1
# Up to here a step in Python for each record takes less than a dozen in NumPy for all.
_FEW = 40


class _Cells:
    """Values of one type in the rows of several views."""

    def __init__(self, field: str | np.dtype) -> None:
        self.type = np.dtype(field)
        self._found: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, view: int, offset: int) -> int:
        """One more, in the row of a view and so far behind its begin; returns how many there were."""
        self._found.append((view, offset))
        return len(self._found) - 1

    def settle(self, begins: np.ndarray) -> None:
        """Once all are there: `begins` are where the views' rows begin in a row of records that are
        all of one length.
        """
        self.views, self.offsets = np.array(self._found, np.intp).reshape(-1, 2).T
        self.places = begins[self.views] + self.offsets


class Unpacker:
    """Where everything stands in the records of some views. Safe among threads."""

    def __init__(self, views: Sequence[OnlineView]) -> None:
        self.views = views
        layouts = [view.layout for view in views]
        #: What stands for a record that is missing: one whose row was withdrawn.
        self.absent = [layout.record([layout.nothing]) for layout in layouts]
        self.lengths = list(map(len, self.absent))
        #: Behind the last record, so that what is looked for in one that was cut off is there.
        self.padding = bytes(max(self.lengths, default=8))
        #: If all records are as long as those: where rows begin in the records of one entity, and how far the next entity's are.
        self.begins = np.cumsum([START, *self.lengths[:-1]])
        self.stride = sum(self.lengths)
        self._checksums: dict[int, int] = {}
        self.heads = np.array(
            [int.from_bytes(layout.head, "little") for layout in layouts], np.int64
        )
        self.sizes = np.array([layout.row_fields.itemsize for layout in layouts], np.intp)
        self.ttls = np.array([view.ttl for view in views], np.int64)
        self.has_ttl = bool(self.ttls.any())
        #: The number of each view's first feature among all.
        self.first = np.cumsum([0, *(len(layout.kinds) for layout in layouts)]).tolist()
        #: The view of each feature.
        self.view_of = np.repeat(np.arange(len(views)), [len(layout.kinds) for layout in layouts])
        #: The features by the type of their cells; each feature's type, and its number in that.
        self.cells: dict[str, _Cells] = {}
        self.place: list[tuple[str, int]] = []
        #: The records' heads, and the event and created times of their rows.
        self.times = _Cells(_INT64)
        #: The bytes of null bits; among their bits those of the features, and those that say that the views' rows are withdrawn.
        self.nulls = _Cells(_BYTE)
        #: By view: the cell that says where a row ends; none where all rows are equally long.
        self.ends = _Cells(_UINT32)
        self._place(layouts)

    def _place(self, layouts: Sequence[Layout]) -> None:
        null_bits: list[int] = []
        withdrawn_bits: list[int] = []
        self.ends_of = np.full(len(layouts), -1)
        for view, layout in enumerate(layouts):
            offsets = layout.offsets
            for index, kind in enumerate(layout.kinds):
                cells = self.cells.setdefault(kind.field, _Cells(kind.field))
                self.place.append((kind.field, cells.add(view, offsets[str(index)])))
            if layout.variable:
                self.ends_of[view] = self.ends.add(view, offsets[str(layout.variable[-1])])
            first = 8 * len(self.nulls)
            for byte in range(layout.null_bytes):
                self.nulls.add(view, offsets["nulls"] + byte)
            null_bits += range(first, first + len(layout.kinds))
            withdrawn_bits.append(first + len(layout.kinds))
        for offset in (-START, 0, 8):
            for view in range(len(layouts)):
                self.times.add(view, offset)
        for each in (*self.cells.values(), self.times, self.nulls, self.ends):
            each.settle(self.begins)
        #: By type: which features they are.
        self.features = {
            field: _index([number for number, (of, _) in enumerate(self.place) if of == field])
            for field in self.cells
        }
        self.null_bits, self.withdrawn_bits = _index(null_bits), np.array(withdrawn_bits, np.intp)

    def checksum(self, rows: int) -> int:
        """The CRC-32 of so many rows of intact records that are as long as the absent ones.

        It is one and the same: behind an intact record a checksum depends on what it was before and
        on the record's length alone, since a CRC is linear, and the record's own takes back what
        the record added.
        """
        known = self._checksums.get(rows)
        if known is None:
            row, known = b"".join(self.absent), 0
            for _ in range(rows):
                known = zlib.crc32(row, known)
            known = self._checksums[rows] = zlib.crc32(self.padding, known)
        return known

    def unpack(
        self, database: PackedDatabase, records: Sequence[bytes | None], at: int
    ) -> Unpacked:
        """What records show at a moment (microseconds); one per row and view, row by row. The
        damaged are counted in the database.
        """
        unpacked = Unpacked(self, records, at)
        for view, count in unpacked.damaged.items():
            database.corrupt[self.views[view].name] += count
        return unpacked


class Unpacked:
    """What views show for the rows of a request at one moment; arrays are rows x views or rows x
    features.
    """

    def __init__(self, unpacker: Unpacker, records: Sequence[bytes | None], at: int) -> None:
        self._unpacker = unpacker
        views = len(unpacker.views)
        self._count = len(records) // max(views, 1)
        if None in records:
            absent = unpacker.absent * self._count
            records = [
                other if record is None else record
                for record, other in zip(records, absent, strict=True)
            ]
        self._data = b"".join([*records, unpacker.padding])  # type: ignore[list-item]
        #: Where the rows begin that are shown; None where all records are as long as the absent ones.
        self._begins: np.ndarray | None = None
        #: Which records are damaged; None where none is.
        self._damaged: np.ndarray | None = None
        in_effect: np.ndarray | None = None
        lengths = list(map(len, records))  # type: ignore[arg-type]
        alike = lengths == unpacker.lengths * self._count and zlib.crc32(
            self._data
        ) == unpacker.checksum(self._count)
        times = self._picked(unpacker.times) if alike else None
        if times is None or not (times[:, :views] & _HEAD_BITS == unpacker.heads).all():
            choose = self._choose_one_by_one if len(records) < _FEW else self._choose
            in_effect = choose(records, at)  # type: ignore[arg-type]
            times = self._picked(unpacker.times)
        self._events, self._created = times[:, views : 2 * views], times[:, 2 * views :]
        self._judge(in_effect, at)

    def _picked(self, cells: _Cells) -> np.ndarray:
        """The cells of the rows that are shown, rows x cells."""
        stride = self._unpacker.stride
        if self._begins is None:
            return np.ndarray((self._count, stride), cells.type, self._data, 0, (stride, 1))[
                :, cells.places
            ]
        return self._window(cells.type)[self._begins[:, cells.views] + cells.offsets]

    def _window(self, type_: np.dtype) -> np.ndarray:
        """The data as values of a type that begin at every byte."""
        return np.ndarray((len(self._data) - type_.itemsize + 1,), type_, self._data, 0, (1,))

    def _choose_one_by_one(self, records: Sequence[bytes], at: int) -> np.ndarray:
        """Find each record's newest row that is in effect; returns which records have one. Those
        that are damaged are noted.
        """
        layouts = [view.layout for view in self._unpacker.views] * self._count
        begins, in_effect, damaged = [], [], []
        start = 0
        for record, layout in zip(records, layouts, strict=True):
            try:
                index = layout.row_bounds_at(record, at)
                damaged.append(False)
            except CorruptRecord:
                index = None
                damaged.append(True)
            begins.append(start + (index[0] if index else START))
            in_effect.append(index is not None)
            start += len(record)
        return self._noted(np.array(begins), np.array(damaged), np.array(in_effect))

    def _noted(self, begins: np.ndarray, damaged: np.ndarray, in_effect: np.ndarray) -> np.ndarray:
        shape = (self._count, len(self._unpacker.views))
        self._begins = begins.reshape(shape)
        if damaged.any():
            self._damaged = damaged.reshape(shape)
        return in_effect.reshape(shape)

    def _choose(self, records: Sequence[bytes], at: int) -> np.ndarray:
        """The same for many records, all of them at once, their first rows first."""
        unpacker, count = self._unpacker, len(records)
        views = np.tile(np.arange(len(unpacker.views)), self._count)
        ends = np.fromiter(map(len, records), np.intp, count).cumsum()
        starts = np.concatenate([[0], ends[:-1]])
        longs = self._window(_INT64)
        damaged = np.fromiter(map(zlib.crc32, records), np.uint32, count) != INTACT
        damaged |= longs[starts] & _HEAD_BITS != unpacker.heads[views]
        ends -= TAIL
        begins, in_effect = starts + START, np.zeros(count, bool)
        cursor, active = begins.copy(), np.flatnonzero(~damaged)
        while len(active):
            here = cursor[active]
            stops = here + self._lengths(here, views[active])
            if (beyond := stops > ends[active]).any():
                damaged[active[beyond]] = True
                active, here, stops = active[~beyond], here[~beyond], stops[~beyond]
            event, created, best = longs[here], longs[here + 8], begins[active]
            newer = (event > longs[best]) | (event == longs[best]) & (created > longs[best + 8])
            better = (np.maximum(event, created) <= at) & (newer | ~in_effect[active])
            begins[active[better]], in_effect[active[better]] = here[better], True
            cursor[active] = stops
            active = active[stops < ends[active]]
        return self._noted(begins, damaged, in_effect & ~damaged)

    def _lengths(self, begins: np.ndarray, views: np.ndarray) -> np.ndarray:
        """How long rows are."""
        unpacker = self._unpacker
        lengths = unpacker.sizes[views]
        if len(unpacker.ends):
            cells = unpacker.ends_of[views]
            ending = np.flatnonzero(cells >= 0)
            lengths[ending] += self._window(_UINT32)[
                begins[ending] + unpacker.ends.offsets[cells[ending]]
            ]
        return lengths

    def _judge(self, in_effect: np.ndarray | None, at: int) -> None:
        """What is shown: a row that is in effect, neither withdrawn nor too old."""
        unpacker = self._unpacker
        found = np.maximum(self._events, self._created) <= at
        if in_effect is not None:
            found &= in_effect
        nulls = self._picked(unpacker.nulls)
        self._nulls = (
            np.unpackbits(nulls, axis=1, bitorder="little").view(bool) if nulls.any() else None
        )
        if self._nulls is not None:
            found &= ~self._nulls[:, unpacker.withdrawn_bits]
        self._found = self._present = found
        if unpacker.has_ttl:
            self._present = found & ~((unpacker.ttls > 0) & (self._events + unpacker.ttls < at))
        self._is_whole = bool(self._present.all())

    @property
    def damaged(self) -> dict[int, int]:
        """How many records could not be read, by the number of their view."""
        if self._damaged is None:
            return {}
        return {
            view: count for view, count in enumerate(self._damaged.sum(axis=0).tolist()) if count
        }

    def statuses(self, view: int) -> list[Status]:
        """Whether a view shows a row, per row of the request."""
        if self._is_whole:
            return ["PRESENT"] * self._count
        return self._statuses[view]

    @cached_property
    def _statuses(self) -> list[list[Status]]:
        statuses = np.where(
            self._present, "PRESENT", np.where(self._found, "OUTSIDE_MAX_AGE", "NOT_FOUND")
        )
        if self._damaged is not None:
            statuses[self._damaged] = "INVALID"
        return statuses.T.tolist()  # type: ignore[no-any-return]

    def events(self, view: int) -> list[int | None]:
        """The event times of a view's rows, None where there is none."""
        return self._times(self._events, view)

    def created(self, view: int) -> list[int | None]:
        """The created times of a view's rows, None where there is none."""
        return self._times(self._created, view)

    def _times(self, times: np.ndarray, view: int) -> list[int | None]:
        moments: list[int | None] = times[:, view].tolist()
        if not self._is_whole:
            moments = [
                moment if found else None
                for moment, found in zip(moments, self._found[:, view].tolist(), strict=True)
            ]
        return moments

    @cached_property
    def _missing(self) -> np.ndarray | None:
        """Which features have no value, by row; None where all have one."""
        unpacker = self._unpacker
        missing = None if self._nulls is None else self._nulls[:, unpacker.null_bits]
        if not self._is_whole:
            hidden = ~self._present[:, unpacker.view_of]
            missing = hidden if missing is None else missing | hidden
        return missing

    @cached_property
    def matrix(self) -> np.ndarray:
        """All features as float64, rows x features, NaN where there is none, or no number; moments
        in microseconds.
        """
        unpacker = self._unpacker
        matrix = np.empty((self._count, len(unpacker.place)))
        for field, cells in unpacker.cells.items():
            matrix[:, unpacker.features[field]] = (
                np.nan if cells.type == _UINT32 else self._picked(cells)
            )
        if self._missing is not None:
            matrix[self._missing] = np.nan
        return matrix

    def numbers(self, view: int, index: int) -> np.ndarray:
        """A feature's column of the matrix, by the number of its view and its own in that."""
        return self.matrix[:, self._unpacker.first[view] + index]  # type: ignore[no-any-return]

    @cached_property
    def _lists(self) -> dict[str, list[list[Any]]]:
        return {
            field: self._picked(cells).T.tolist() for field, cells in self._unpacker.cells.items()
        }

    @cached_property
    def _missing_lists(self) -> list[list[bool] | None]:
        """By feature which rows have no value; None where all have one."""
        if self._missing is None:
            return [None] * len(self._unpacker.place)
        missing: list[list[bool]] = self._missing.T.tolist()
        return [each if any(each) else None for each in missing]

    def values(self, view: int, index: int) -> list[Any]:
        """A feature's value per row, by the number of its view and its own in that: as it was
        written, None where there is none.
        """
        unpacker = self._unpacker
        kind = unpacker.views[view].layout.kinds[index]
        feature = unpacker.first[view] + index
        missing = self._missing_lists[feature]
        field, number = unpacker.place[feature]
        values = self._lists[field][number]
        if kind.is_variable:
            values = self._behind_cells(view, index, values)
        if missing is None:
            return list(map(kind.decode, values)) if kind.decode else values
        decode = kind.decode
        if decode is None:
            return [None if null else value for value, null in zip(values, missing, strict=True)]
        return [
            None if null else decode(value) for value, null in zip(values, missing, strict=True)
        ]

    def _behind_cells(self, view: int, index: int, ends: list[int]) -> list[bytes]:
        """The bytes of a feature without a fixed width: from the end of the one before it to its
        own.
        """
        unpacker = self._unpacker
        layout = unpacker.views[view].layout
        number = layout.variable.index(index)
        before = [0] * len(ends)
        if number:
            field, cell = unpacker.place[unpacker.first[view] + layout.variable[number - 1]]
            before = self._lists[field][cell]
        begins = self._begins
        if begins is None:
            begins = np.arange(self._count)[:, None] * unpacker.stride + unpacker.begins
        bases = (begins[:, view] + unpacker.sizes[view]).tolist()
        return [
            self._data[base + begin : base + end]
            for base, begin, end in zip(bases, before, ends, strict=True)
        ]


class ViewValues:
    """What one view shows for the rows of a request at one moment."""

    def __init__(self, unpacked: Unpacked, view: int) -> None:
        self._unpacked, self._view = unpacked, view

    @cached_property
    def statuses(self) -> list[Status]:
        """Whether a row is shown, per row of the request."""
        return self._unpacked.statuses(self._view)

    @cached_property
    def events(self) -> list[int | None]:
        """Event times in microseconds, of rows too that are too old; None where there is none."""
        return self._unpacked.events(self._view)

    @cached_property
    def created(self) -> list[int | None]:
        """Created times in microseconds, likewise."""
        return self._unpacked.created(self._view)

    def values(self, index: int) -> list[Any]:
        """A feature's value per row, by its number in the view: as it was written, None where there
        is none.
        """
        return self._unpacked.values(self._view, index)

    def numbers(self, index: int) -> np.ndarray:
        """The same as float64, NaN where there is none; moments in microseconds. Only for numbers,
        booleans and moments.
        """
        return self._unpacked.numbers(self._view, index)


def _index(numbers: list[int]) -> Any:
    """An index of these numbers; a slice where it can be one, since that is written, and read, at
    once.
    """
    steps = {after - before for before, after in pairwise(numbers)}
    if not numbers or len(steps) > 1 or min(steps, default=1) < 1:
        return np.array(numbers, np.intp)
    return slice(numbers[0], numbers[-1] + 1, *steps)
