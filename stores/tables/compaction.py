"""Splits rows into files and selects files to merge, so that their number follows the row count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from stores.tables.manifest import DataFile

# The limits of a file. Bytes are counted in memory when rows are split into files, and on disk when
# files are merged.
MAX_FILE_ROWS = 1 << 18
MAX_FILE_BYTES = 1 << 26
BATCH_ROWS = 1 << 15
# The number of files of one level that are merged into one file of a higher level.
FANOUT = 8


def file_batches(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows of a reader in order, one table per file; the reader's batches are not split."""
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
    """Consecutive files to be merged into one."""

    files: tuple[DataFile, ...]
    rows: int
    bytes: int

    @property
    def is_full(self) -> bool:
        """Whether the run has at least half the limit of a file; it is then never merged again."""
        return 2 * self.rows >= MAX_FILE_ROWS or 2 * self.bytes >= MAX_FILE_BYTES

    @property
    def level(self) -> int:
        """The logarithm of the number of rows to base `FANOUT`, rounded down."""
        return (self.rows.bit_length() - 1) // (FANOUT.bit_length() - 1)


def merges(files: Sequence[DataFile]) -> list[tuple[DataFile, ...]]:
    """The runs of files, consecutive in `created_timestamp`, to merge in this commit.

    Fewer than `FANOUT` files of a level remain, and a merged file is of a higher level than the
    files it replaces. If files arrive in order of `created_timestamp`, n rows are therefore in
    O(log n) files that are not full, and O(n log n) rows are written in total.
    """
    in_order = sorted(files, key=lambda file: (file.min_created, file.min_event, file.path))
    runs = [_Run((file,), file.rows, file.bytes) for file in in_order]
    while (found := _next_merge(runs)) is not None:
        runs[found] = _packed(runs[found])
    return [run.files for run in runs if len(run.files) > 1]


def _next_merge(runs: list[_Run]) -> slice | None:
    """The first `FANOUT` or more consecutive runs up to the last one of the highest level.

    Runs of lower levels among them count as well; full runs separate sequences.
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
    """The same files, in runs that do not exceed the limits of a file."""
    packed = [runs[0]]
    for run in runs[1:]:
        last = packed[-1]
        rows, size = last.rows + run.rows, last.bytes + run.bytes
        if rows > MAX_FILE_ROWS or size > MAX_FILE_BYTES:
            packed.append(run)
        else:
            packed[-1] = _Run(last.files + run.files, rows, size)
    return packed
