"""The records of a request as arrays: the values of all views at one time, without a Python loop.

The records are laid end to end. Cells are read through views of the buffer that have an element at
every byte offset.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from stores.online.batch_layout import INT64, UINT32, BatchLayout, Cells
from stores.online.packed_row import CorruptRecord
from stores.online.record_format import INTACT, START, TAIL
from stores.online.records import PackedDatabase, Status

# The bits of a record's head in its first eight bytes.
_HEAD_BITS = (1 << 8 * START) - 1
# Below this many records a Python loop is faster than NumPy.
_FEW = 40


def unpack(
    layout: BatchLayout, database: PackedDatabase, records: Sequence[bytes | None], at: int
) -> Unpacked:
    """The values of records at `at` (microseconds); a record per row and view, row by row.

    Corrupt records are counted in the database.
    """
    unpacked = Unpacked(layout, records, at)
    for view, count in unpacked.damaged.items():
        database.corrupt[layout.views[view].name] += count
    return unpacked


class Unpacked:
    """The values of all views for the rows of a request at one time.

    Arrays are rows x views or rows x features.
    """

    def __init__(self, layout: BatchLayout, records: Sequence[bytes | None], at: int) -> None:
        self._layout = layout
        views = len(layout.views)
        self._count = len(records) // max(views, 1)
        if None in records:
            absent = layout.absent * self._count
            records = [
                other if record is None else record
                for record, other in zip(records, absent, strict=True)
            ]
        self._data = b"".join([*records, layout.padding])  # type: ignore[list-item]
        #: The starts of the chosen rows; None if all records are as long as the absent ones.
        self._starts: np.ndarray | None = None
        #: Which records are damaged; None if none is.
        self._damaged: np.ndarray | None = None
        in_effect: np.ndarray | None = None
        lengths = list(map(len, records))  # type: ignore[arg-type]
        alike = lengths == layout.lengths * self._count and zlib.crc32(
            self._data
        ) == layout.checksum(self._count)
        times = self._cell_values(layout.times) if alike else None
        if times is None or not (times[:, :views] & _HEAD_BITS == layout.heads).all():
            choose = self._choose_one_by_one if len(records) < _FEW else self._choose
            in_effect = choose(records, at)  # type: ignore[arg-type]
            times = self._cell_values(layout.times)
        self._events, self._created = times[:, views : 2 * views], times[:, 2 * views :]
        self._judge(in_effect, at)

    def _cell_values(self, cells: Cells) -> np.ndarray:
        """The cells of the chosen rows, rows x cells."""
        stride = self._layout.stride
        if self._starts is None:
            return np.ndarray((self._count, stride), cells.type, self._data, 0, (stride, 1))[
                :, cells.positions
            ]
        return self._window(cells.type)[self._starts[:, cells.views] + cells.offsets]

    def _window(self, type_: np.dtype) -> np.ndarray:
        """The data as an array of a type with an element at every byte offset."""
        return np.ndarray((len(self._data) - type_.itemsize + 1,), type_, self._data, 0, (1,))

    def _choose_one_by_one(self, records: Sequence[bytes], at: int) -> np.ndarray:
        """Set the start of each record's newest effective row; returns which records have one."""
        layouts = [view.layout for view in self._layout.views] * self._count
        starts, in_effect, damaged = [], [], []
        start = 0
        for record, layout in zip(records, layouts, strict=True):
            try:
                bounds = layout.row_bounds_at(record, at)
                damaged.append(False)
            except CorruptRecord:
                bounds = None
                damaged.append(True)
            starts.append(start + (bounds[0] if bounds else START))
            in_effect.append(bounds is not None)
            start += len(record)
        return self._chosen(np.array(starts), np.array(damaged), np.array(in_effect))

    def _chosen(self, starts: np.ndarray, damaged: np.ndarray, in_effect: np.ndarray) -> np.ndarray:
        shape = (self._count, len(self._layout.views))
        self._starts = starts.reshape(shape)
        if damaged.any():
            self._damaged = damaged.reshape(shape)
        return in_effect.reshape(shape)

    def _choose(self, records: Sequence[bytes], at: int) -> np.ndarray:
        """`_choose_one_by_one` for many records: the first rows of all, then the second rows, …"""
        layout, count = self._layout, len(records)
        views = np.tile(np.arange(len(layout.views)), self._count)
        ends = np.fromiter(map(len, records), np.intp, count).cumsum()
        record_starts = np.concatenate([[0], ends[:-1]])
        longs = self._window(INT64)
        damaged = np.fromiter(map(zlib.crc32, records), np.uint32, count) != INTACT
        damaged |= longs[record_starts] & _HEAD_BITS != layout.heads[views]
        ends -= TAIL
        starts, in_effect = record_starts + START, np.zeros(count, bool)
        cursor, active = starts.copy(), np.flatnonzero(~damaged)
        while len(active):
            here = cursor[active]
            stops = here + self._lengths(here, views[active])
            if (beyond := stops > ends[active]).any():
                damaged[active[beyond]] = True
                active, here, stops = active[~beyond], here[~beyond], stops[~beyond]
            event, created, best = longs[here], longs[here + 8], starts[active]
            newer = (event > longs[best]) | (event == longs[best]) & (created > longs[best + 8])
            better = (np.maximum(event, created) <= at) & (newer | ~in_effect[active])
            starts[active[better]], in_effect[active[better]] = here[better], True
            cursor[active] = stops
            active = active[stops < ends[active]]
        return self._chosen(starts, damaged, in_effect & ~damaged)

    def _lengths(self, starts: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The lengths of rows."""
        layout = self._layout
        lengths = layout.sizes[views]
        if len(layout.ends):
            cells = layout.ends_of[views]
            ending = np.flatnonzero(cells >= 0)
            lengths[ending] += self._window(UINT32)[
                starts[ending] + layout.ends.offsets[cells[ending]]
            ]
        return lengths

    def _judge(self, in_effect: np.ndarray | None, at: int) -> None:
        """Decide which rows are shown: effective, not withdrawn, not older than the ttl."""
        layout = self._layout
        found = np.maximum(self._events, self._created) <= at
        if in_effect is not None:
            found &= in_effect
        nulls = self._cell_values(layout.nulls)
        self._nulls = (
            np.unpackbits(nulls, axis=1, bitorder="little").view(bool) if nulls.any() else None
        )
        if self._nulls is not None:
            found &= ~self._nulls[:, layout.withdrawn_bits]
        self._found = self._present = found
        if layout.has_ttl:
            self._present = found & ~((layout.ttls > 0) & (self._events + layout.ttls < at))
        self._is_whole = bool(self._present.all())

    @property
    def damaged(self) -> dict[int, int]:
        """The number of damaged records, by the position of their view."""
        if self._damaged is None:
            return {}
        return {
            view: count for view, count in enumerate(self._damaged.sum(axis=0).tolist()) if count
        }

    def statuses(self, view: int) -> list[Status]:
        """A view's status, per row of the request."""
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
        """The event times of a view's rows in microseconds; None without a row."""
        return self._times(self._events, view)

    def created(self, view: int) -> list[int | None]:
        """The created times of a view's rows in microseconds; None without a row."""
        return self._times(self._created, view)

    def _times(self, times: np.ndarray, view: int) -> list[int | None]:
        values: list[int | None] = times[:, view].tolist()
        if not self._is_whole:
            values = [
                value if found else None
                for value, found in zip(values, self._found[:, view].tolist(), strict=True)
            ]
        return values

    @cached_property
    def _missing(self) -> np.ndarray | None:
        """Which features have no value, rows x features; None if all have one."""
        layout = self._layout
        missing = None if self._nulls is None else self._nulls[:, layout.null_bits]
        if not self._is_whole:
            hidden = ~self._present[:, layout.view_of]
            missing = hidden if missing is None else missing | hidden
        return missing

    @cached_property
    def matrix(self) -> np.ndarray:
        """All features as float64, rows x features.

        NaN stands for a missing value or one that is not a number. Timestamps are in microseconds.
        """
        layout = self._layout
        matrix = np.empty((self._count, len(layout.cell_of)))
        for field, cells in layout.cells.items():
            matrix[:, layout.features[field]] = (
                np.nan if cells.type == UINT32 else self._cell_values(cells)
            )
        if self._missing is not None:
            matrix[self._missing] = np.nan
        return matrix

    def numbers(self, view: int, index: int) -> np.ndarray:
        """A feature's matrix column, by the position of its view and its index in the view."""
        return self.matrix[:, self._layout.first[view] + index]  # type: ignore[no-any-return]

    @cached_property
    def _lists(self) -> dict[str, list[list[Any]]]:
        return {
            field: self._cell_values(cells).T.tolist()
            for field, cells in self._layout.cells.items()
        }

    @cached_property
    def _missing_lists(self) -> list[list[bool] | None]:
        """Per feature which rows have no value; None if all have one."""
        if self._missing is None:
            return [None] * len(self._layout.cell_of)
        missing: list[list[bool]] = self._missing.T.tolist()
        return [each if any(each) else None for each in missing]

    def values(self, view: int, index: int) -> list[Any]:
        """A feature's values per row as they were written, None if missing.

        The feature is given by the position of its view and its index in the view.
        """
        layout = self._layout
        kind = layout.views[view].layout.kinds[index]
        feature = layout.first[view] + index
        missing = self._missing_lists[feature]
        field, number = layout.cell_of[feature]
        values = self._lists[field][number]
        if kind.is_variable:
            values = self._variable_values(view, index, values)
        if missing is None:
            return list(map(kind.decode, values)) if kind.decode else values
        decode = kind.decode
        if decode is None:
            return [None if null else value for value, null in zip(values, missing, strict=True)]
        return [
            None if null else decode(value) for value, null in zip(values, missing, strict=True)
        ]

    def _variable_values(self, view: int, index: int, ends: list[int]) -> list[bytes]:
        """The bytes of a feature of variable length: from the end of the one before to its own."""
        layout = self._layout
        variable = layout.views[view].layout.variable
        number = variable.index(index)
        before = [0] * len(ends)
        if number:
            field, cell = layout.cell_of[layout.first[view] + variable[number - 1]]
            before = self._lists[field][cell]
        starts = self._starts
        if starts is None:
            starts = np.arange(self._count)[:, None] * layout.stride + layout.starts
        bases = (starts[:, view] + layout.sizes[view]).tolist()
        return [
            self._data[base + start : base + end]
            for base, start, end in zip(bases, before, ends, strict=True)
        ]


class ViewValues:
    """The values of one view for the rows of a request at one time."""

    def __init__(self, unpacked: Unpacked, view: int) -> None:
        self._unpacked, self._view = unpacked, view

    @cached_property
    def statuses(self) -> list[Status]:
        """The status, per row of the request."""
        return self._unpacked.statuses(self._view)

    @cached_property
    def events(self) -> list[int | None]:
        """Event times in microseconds, also of rows older than the ttl; None without a row."""
        return self._unpacked.events(self._view)

    @cached_property
    def created(self) -> list[int | None]:
        """Created times in microseconds; None without a row."""
        return self._unpacked.created(self._view)

    def values(self, index: int) -> list[Any]:
        """A feature's values per row as they were written, by its index; None if missing."""
        return self._unpacked.values(self._view, index)

    def numbers(self, index: int) -> np.ndarray:
        """The values of a number, boolean or timestamp feature as float64, NaN if missing.

        Timestamps are in microseconds.
        """
        return self._unpacked.numbers(self._view, index)
