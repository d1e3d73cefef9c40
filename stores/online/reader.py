"""Reads features by entity key into columns and matrices, without Feast.

The records of all views are read together and unpacked together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

from stores.online.batch_layout import BatchLayout
from stores.online.record_batch import Unpacked, ViewValues, unpack
from stores.online.records import PackedDatabase
from stores.online.view import OnlineView

Keys = Mapping[Any, Sequence[bytes | None]]


class Reader:
    """Reads some views by entity key; threads may share it.

    Each view comes with the name of its key in the mapping that `read` takes. Views with the same
    name are read by the same keys.
    """

    def __init__(
        self, database: PackedDatabase, views: Sequence[tuple[OnlineView, Hashable]]
    ) -> None:
        self.database = database
        self.views = [view for view, _ in views]
        self._groups: dict[Hashable, list[OnlineView]] = {}
        for view, key in views:
            self._groups.setdefault(key, []).append(view)
        # Records are read and unpacked in the order of the groups.
        order = sorted(
            range(len(views)), key=lambda number: [*self._groups].index(views[number][1])
        )
        self._position = {number: index for index, number in enumerate(order)}
        self._layout = BatchLayout([self.views[number] for number in order])

    def read(self, keys: Keys, at: int) -> list[ViewValues]:
        """The values of each view at `at` (microseconds), in the given order of the views.

        A null key is `NOT_FOUND`. Raises `NotBuilt` for a view that was never filled.
        """
        return self.by_view(self.unpacked(keys, at))

    def unpacked(self, keys: Keys, at: int) -> Unpacked:
        """The values of all views together at `at` (microseconds); errors as in `read`."""
        return unpack(self._layout, self.database, self._records(keys), at)

    def by_view(self, unpacked: Unpacked) -> list[ViewValues]:
        """The part of each view, in the given order of the views."""
        return [ViewValues(unpacked, self._position[number]) for number in range(len(self.views))]

    def column(self, view: int, index: int) -> int:
        """The matrix column of a feature, by the position of its view and its index in the view."""
        return self._layout.first[self._position[view]] + index

    def not_found(self, rows: int) -> list[ViewValues]:
        """The values of views without records: `NOT_FOUND` in every row."""
        records: list[bytes | None] = [None] * (rows * len(self.views))
        return self.by_view(unpack(self._layout, self.database, records, 0))

    def _records(self, keys: Keys) -> list[bytes | None]:
        """The records, row by row and group by group; a key of several rows is read once."""
        if not self.views:
            return []
        distinct: list[Sequence[bytes | None]] = []
        for name in self._groups:
            given = keys[name]
            distinct.append(list(dict.fromkeys(given)) if len(given) > 1 else given)
        answers = self.database.records.read_records(
            list(zip(distinct, self._groups.values(), strict=True))
        )
        found: list[Sequence[tuple[bytes | None, ...]]] = []
        for name, unique, rows in zip(self._groups, distinct, answers, strict=True):
            given = keys[name]
            if len(unique) < len(given):
                by_key = dict(zip(unique, rows, strict=True))
                rows = [by_key[key] for key in given]
            found.append(rows)
        if len(found) == 1:
            return list(chain.from_iterable(found[0]))
        return list(chain.from_iterable(chain.from_iterable(zip(*found, strict=True))))
