"""The row of a packed record, and the version of the record format.

Kept apart from `record_format`, which imports Arrow and Feast: reading a watermark needs neither.
"""

from __future__ import annotations

from typing import NamedTuple

FORMAT = 2


class CorruptRecord(ValueError):
    """The bytes are not a record of this layout."""


class PackedRow(NamedTuple):
    """A row of a record: its two times in microseconds, and its bytes, which include the times."""

    event: int
    created: int
    data: bytes

    @property
    def effective(self) -> int:
        """The time from which the row may be shown, in microseconds."""
        return max(self.event, self.created)
