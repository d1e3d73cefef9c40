"""Reads values from a history's files: whole files, or selected rows.

Only the needed columns and row groups of a file are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from punctual.errors import BrokenTable
from stores.offline.view_columns import output_type
from stores.offline.view_files import FeatureColumn, History, split_addresses


def values_at(history: History, addresses: np.ndarray, *, threads: int) -> Iterator[pa.Table]:
    """The features of the rows at the addresses (int64, ascending, unique), in the same order.

    Each table has the rows of one file at most, with the names and types of the features. Memory
    holds the rows of a few files. Raises `BrokenTable` where a file cannot be read or has a column
    of another type.
    """
    file_indices, rows = split_addresses(addresses)
    used_files, starts = np.unique(file_indices, return_index=True)
    ends = [*starts[1:].tolist(), len(addresses)][: len(starts)]
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[list[pa.Table]]] = deque()
        for file, start, end in zip(used_files.tolist(), starts.tolist(), ends, strict=True):
            pending.append(pool.submit(_read_rows, history, history.paths[file], rows[start:end]))
            # Bounded, so that a slow consumer does not fill memory with pieces read ahead.
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def whole_files(
    history: History, paths: Sequence[str], columns: Sequence[FeatureColumn]
) -> Iterator[pa.Table]:
    """The given columns of all rows of the given files, in order.

    Raises `BrokenTable` where a file cannot be read or has a column of another type.
    """
    names = list(dict.fromkeys(column.column for column in columns))
    tables = []
    for path in paths:
        # Planning the read-ahead of a small file takes longer than reading it.
        with _opened(history, path, pre_buffer=False) as file:
            table = file.read(names, use_threads=False)
        _refuse_missing(history, path, names, table.column_names)
        tables.append((path, table))
    # Consecutive files with one schema are converted together.
    for _, group in groupby(tables, key=lambda each: each[1].schema):
        same_schema = list(group)
        rows = pa.concat_tables([table for _, table in same_schema])
        yield _with_output_types(history, same_schema[0][0], columns, rows)


def _read_rows(history: History, path: str, rows: np.ndarray) -> list[pa.Table]:
    """The features of the given rows (ascending) of a file, one table per row group."""
    names = list(dict.fromkeys(feature.column for feature in history.features))
    with _opened(history, path, pre_buffer=True) as file:
        _refuse_missing(history, path, names, file.schema_arrow.names)
        sizes = [
            file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
        ]
        first_rows = np.cumsum([0, *sizes])
        cuts = np.searchsorted(rows, first_rows)
        groups = [
            (group, low, high)
            for group, (low, high) in enumerate(pairwise(cuts.tolist()))
            if high > low
        ]
        read = (
            (
                file.read_row_group(group, names, use_threads=False),
                rows[low:high] - first_rows[group],
            )
            for group, low, high in groups
        )
        return [
            _with_output_types(history, path, history.features, _rows_of(*each)) for each in read
        ]


@contextmanager
def _opened(history: History, path: str, *, pre_buffer: bool) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, pre_buffer=pre_buffer) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{history.view}': {path} cannot be read: {error}.") from error


def _refuse_missing(history: History, path: str, names: list[str], existing: list[str]) -> None:
    if missing := [name for name in names if name not in existing]:
        raise BrokenTable(
            f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column."
        )


def _rows_of(group: pa.Table, rows: np.ndarray) -> pa.Table:
    return group if len(rows) == group.num_rows else group.take(pa.array(rows))


def _with_output_types(
    history: History, path: str, columns: Sequence[FeatureColumn], rows: pa.Table
) -> pa.Table:
    """The columns under the names and with the types of results."""
    arrays = []
    for column in columns:
        array = rows[column.column]
        if array.type != column.type:
            output_type(history.view, path, column.column, array.type, column.type)
            array = array.cast(column.type)
        arrays.append(array)
    return pa.table(arrays, names=[column.name for column in columns])
