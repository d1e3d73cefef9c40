"""How many rows go into one file, and which files are merged, so that files follow the volume of a
table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from stores.tables.manifest import DataFile

# A file has at most so many rows, and so many bytes, in memory while it is written and on disk when
# files are merged.
MAX_FILE_ROWS = 1 << 18
MAX_FILE_BYTES = 1 << 26
BATCH_ROWS = 1 << 15
# So many files of one level are merged into one of a higher level.
FANOUT = 8


def file_batches(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows of a reader in their order, cut into what one file holds; whole batches only."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        if not batch.num_rows:
            continue
        if waiting and (
            rows + batch.num_rows > MAX_FILE_ROWS or size + batch.nbytes > MAX_FILE_BYTES
        ):
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting)


@dataclass(frozen=True)
class _Run:
    """Neighbouring files that are to become one."""

    files: tuple[DataFile, ...]
    rows: int
    bytes: int

    @property
    def is_full(self) -> bool:
        """Whether it is at least half of what a file may be; it is then never merged again."""
        return 2 * self.rows >= MAX_FILE_ROWS or 2 * self.bytes >= MAX_FILE_BYTES

    @property
    def level(self) -> int:
        """How often `FANOUT` goes into the rows."""
        return (self.rows.bit_length() - 1) // (FANOUT.bit_length() - 1)


def merges(files: Sequence[DataFile]) -> list[tuple[DataFile, ...]]:
    """The runs of files, next to each other in `created_timestamp`, that are worth merging now.

    Fewer than `FANOUT` files of a level remain, and a merged file is of a higher level than the
    files it replaces. Where files arrive in order of `created_timestamp`, n rows are therefore in
    O(log n) files that are not full, and O(n log n) rows are written in all.
    """
    in_order = sorted(files, key=lambda file: (file.min_created, file.min_event, file.path))
    runs = [_Run((file,), file.rows, file.bytes) for file in in_order]
    while (found := _worth_merging(runs)) is not None:
        runs[found] = _packed(runs[found])
    return [run.files for run in runs if len(run.files) > 1]


def _worth_merging(runs: list[_Run]) -> slice | None:
    """The first `FANOUT` or more neighbours of one level; smaller ones before the last of them
    count with them.
    """
    start = 0
    for is_full, group in groupby(runs, key=lambda run: run.is_full):
        levels = [run.level for run in group]
        stop = start + len(levels)
        while not is_full and levels:
            top = max(levels)
            count = len(levels) - levels[::-1].index(top)
            if count >= FANOUT:
                return slice(start, start + count)
            start, levels = start + count, levels[count:]
        start = stop
    return None


def _packed(runs: list[_Run]) -> list[_Run]:
    """The same files in runs that each fit into one file."""
    packed = [runs[0]]
    for run in runs[1:]:
        last = packed[-1]
        rows, size = last.rows + run.rows, last.bytes + run.bytes
        if rows > MAX_FILE_ROWS or size > MAX_FILE_BYTES:
            packed.append(run)
        else:
            packed[-1] = _Run(last.files + run.files, rows, size)
    return packed
