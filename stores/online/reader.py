"""From entity keys to columns and matrices, without Feast and in one pass: all views are looked up
together and unpacked together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

from stores.online.record_batch import Unpacked, Unpacker, ViewValues
from stores.online.records import PackedDatabase
from stores.online.view import OnlineView

Keys = Mapping[Any, Sequence[bytes | None]]


class Reader:
    """Reads some views by the keys that callers have; safe among threads.

    A view comes with the name of its key: what `read` is given keys by. Views of one key share it.
    """

    def __init__(
        self, database: PackedDatabase, views: Sequence[tuple[OnlineView, Hashable]]
    ) -> None:
        self.database = database
        self.views = [view for view, _ in views]
        self._groups: dict[Hashable, list[OnlineView]] = {}
        for view, key in views:
            self._groups.setdefault(key, []).append(view)
        # Records come, and are unpacked, group by group.
        order = sorted(
            range(len(views)), key=lambda number: [*self._groups].index(views[number][1])
        )
        self._place = {number: index for index, number in enumerate(order)}
        self._unpacker = Unpacker([self.views[number] for number in order])

    def read(self, keys: Keys, at: int) -> list[ViewValues]:
        """What each view shows at a moment (microseconds), in the views' order; a null key is not
        found.

        Raises `NotBuilt` for a view that was never filled.
        """
        return self.shown(self.unpacked(keys, at))

    def unpacked(self, keys: Keys, at: int) -> Unpacked:
        """What `read` shows, of all views together."""
        return self._unpacker.unpack(self.database, self._look(keys), at)

    def shown(self, unpacked: Unpacked) -> list[ViewValues]:
        """Each view's part."""
        return [ViewValues(unpacked, self._place[number]) for number in range(len(self.views))]

    def column(self, view: int, index: int) -> int:
        """In which column of the unpacked matrix a feature is, by the number of its view and its
        own in that.
        """
        return self._unpacker.first[self._place[view]] + index

    def nothing(self, rows: int) -> list[ViewValues]:
        """What views show that hold nothing."""
        return self.shown(
            self._unpacker.unpack(self.database, [None] * (rows * len(self.views)), 0)
        )

    def _look(self, keys: Keys) -> list[bytes | None]:
        """The records, row by row, group by group; what several rows have in common is fetched
        once.
        """
        if not self.views:
            return []
        asked: list[Sequence[bytes | None]] = []
        for name in self._groups:
            given = keys[name]
            asked.append(list(dict.fromkeys(given)) if len(given) > 1 else given)
        answers = self.database.records.read_records(
            list(zip(asked, self._groups.values(), strict=True))
        )
        found: list[Sequence[tuple[bytes | None, ...]]] = []
        for name, unique, rows in zip(self._groups, asked, answers, strict=True):
            given = keys[name]
            if len(unique) < len(given):
                by_key = dict(zip(unique, rows, strict=True))
                rows = [by_key[key] for key in given]
            found.append(rows)
        if len(found) == 1:
            return list(chain.from_iterable(found[0]))
        return list(chain.from_iterable(chain.from_iterable(zip(*found, strict=True))))
