"""The row of a packed record, and the number of the records' format.

They are apart from `record_format`, which imports Arrow and Feast's types: how far a view is online
is said without reading a record.
"""

from __future__ import annotations

from typing import NamedTuple

FORMAT = 2


class CorruptRecord(ValueError):
    """Bytes that are no record of this layout."""


class PackedRow(NamedTuple):
    """A row as a record holds it: its two times in microseconds, and all of its bytes."""

    event: int
    created: int
    data: bytes

    @property
    def effective(self) -> int:
        """The moment from which the row may be shown."""
        return max(self.event, self.created)
