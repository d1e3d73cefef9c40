"""The positions of the values of several views in a batch of records that are laid end to end.

The position of a value is the start of its row plus the value's offset in the view's layout. All
values of one type are read with one NumPy index.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stores.online.record_format import START, Layout
from stores.online.view import OnlineView

INT64, UINT32, BYTE = np.dtype("<i8"), np.dtype("<u4"), np.dtype("u1")


class Cells:
    """The cells of one type in the rows of several views."""

    def __init__(self, field: str | np.dtype) -> None:
        self.type = np.dtype(field)
        self._cells: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, view: int, offset: int) -> int:
        """Add the cell at an offset in a view's row; returns its position among the cells."""
        self._cells.append((view, offset))
        return len(self._cells) - 1

    def finish(self, starts: np.ndarray) -> None:
        """Compute the index arrays, once all cells are added.

        `starts` are the row starts of the views in one entity's records of one row each.
        """
        self.views, self.offsets = np.array(self._cells, np.intp).reshape(-1, 2).T
        self.positions = starts[self.views] + self.offsets


class BatchLayout:
    """The positions of heads, times, null bits and values in the records of some views.

    Threads may share it. A request has `rows` rows, each with one record per view.
    """

    def __init__(self, views: Sequence[OnlineView]) -> None:
        self.views = views
        layouts = [view.layout for view in views]
        #: By view: the record that replaces a missing one, whose row is withdrawn.
        self.absent = [layout.record([layout.withdrawn_row]) for layout in layouts]
        self.lengths = list(map(len, self.absent))
        #: Follows the last record, so that reads from a truncated one stay within the buffer.
        self.padding = bytes(max(self.lengths, default=8))
        #: If all records are as long as the absent ones: the row starts in the records of one
        #: request row, and the distance to those of the next.
        self.starts = np.cumsum([START, *self.lengths[:-1]])
        self.stride = sum(self.lengths)
        self._checksums: dict[int, int] = {}
        self.heads = np.array(
            [int.from_bytes(layout.head, "little") for layout in layouts], np.int64
        )
        self.sizes = np.array([layout.row_fields.itemsize for layout in layouts], np.intp)
        self.ttls = np.array([view.ttl for view in views], np.int64)
        self.has_ttl = bool(self.ttls.any())
        #: The position of each view's first feature among all features.
        self.first = np.cumsum([0, *(len(layout.kinds) for layout in layouts)]).tolist()
        #: By feature: the position of its view.
        self.view_of = np.repeat(np.arange(len(views)), [len(layout.kinds) for layout in layouts])
        #: The features' cells by type, and by feature its type and position among those cells.
        self.cells: dict[str, Cells] = {}
        self.cell_of: list[tuple[str, int]] = []
        #: The records' heads, then the rows' event times, then their created times.
        self.times = Cells(INT64)
        #: The bytes of null bits; `null_bits` and `withdrawn_bits` are positions among their bits.
        self.nulls = Cells(BYTE)
        #: The cell with the length of the variable part, for views that have one.
        self.ends = Cells(UINT32)
        self._add_cells(layouts)

    def _add_cells(self, layouts: Sequence[Layout]) -> None:
        null_bits: list[int] = []
        withdrawn_bits: list[int] = []
        #: By view: the position of its cell in `ends`; -1 for rows of fixed length.
        self.ends_of = np.full(len(layouts), -1)
        for view, layout in enumerate(layouts):
            offsets = layout.offsets
            for index, kind in enumerate(layout.kinds):
                cells = self.cells.setdefault(kind.field, Cells(kind.field))
                self.cell_of.append((kind.field, cells.add(view, offsets[str(index)])))
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
            each.finish(self.starts)
        #: By type: an index of the features.
        self.features = {
            field: _index([number for number, (of, _) in enumerate(self.cell_of) if of == field])
            for field in self.cells
        }
        self.null_bits, self.withdrawn_bits = _index(null_bits), np.array(withdrawn_bits, np.intp)

    def checksum(self, rows: int) -> int:
        """The CRC-32 of `rows` request rows of intact records that are as long as the absent ones.

        It does not depend on their contents: a CRC is linear, and a record that ends with its own
        CRC cancels its contribution, so that only its length and the CRC before it count.
        """
        known = self._checksums.get(rows)
        if known is None:
            row, known = b"".join(self.absent), 0
            for _ in range(rows):
                known = zlib.crc32(row, known)
            known = self._checksums[rows] = zlib.crc32(self.padding, known)
        return known


def _index(numbers: list[int]) -> Any:
    """A NumPy index of these numbers; a slice if they are evenly spaced, since that is faster."""
    steps = {after - before for before, after in pairwise(numbers)}
    if not numbers or len(steps) > 1 or min(steps, default=1) < 1:
        return np.array(numbers, np.intp)
    return slice(numbers[0], numbers[-1] + 1, *steps)
