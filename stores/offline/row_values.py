"""Reads the values of a history's files: whole files, or chosen rows of them.

Of each file only the columns and row groups that are wanted are read.
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
from stores.offline.view_columns import given_out
from stores.offline.view_files import FeatureColumn, History, address_parts


def gather(history: History, addresses: np.ndarray, *, threads: int) -> Iterator[pa.Table]:
    """The features of the rows at the addresses (int64, ascending, each once), in that order, a
    file or less at a time.

    Columns are called as the features are and have their types. Holds the rows of a few files at
    once. Raises `BrokenTable` where a file cannot be read or holds a column of another type.
    """
    places, rows = address_parts(addresses)
    wanted, starts = np.unique(places, return_index=True)
    ends = [*starts[1:].tolist(), len(addresses)][: len(starts)]
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[pa.Table]]] = deque()
        for place, start, end in zip(wanted.tolist(), starts.tolist(), ends, strict=True):
            waiting.append(pool.submit(_read, history, history.paths[place], rows[start:end]))
            # Reading far ahead of whoever takes the pieces would hold them all.
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def whole_files(
    history: History, paths: Sequence[str], columns: Sequence[FeatureColumn]
) -> Iterator[pa.Table]:
    """All rows of some columns of some files, in order.

    Raises `BrokenTable` where a file cannot be read or holds a column of another type.
    """
    names = list(dict.fromkeys(column.column for column in columns))
    tables = []
    for path in paths:
        # Of a small file, to plan the reading ahead takes longer than the reading.
        with _opened(history, path, pre_buffer=False) as file:
            table = file.read(names, use_threads=False)
        _refuse_missing(history, path, names, table.column_names)
        tables.append((path, table))
    # Files of one schema are looked at once.
    for _, group in groupby(tables, key=lambda each: each[1].schema):
        alike = list(group)
        rows = pa.concat_tables([table for _, table in alike])
        yield _given_out(history, alike[0][0], columns, rows)


def _read(history: History, path: str, rows: np.ndarray) -> list[pa.Table]:
    """The features of some rows (ascending) of a file, by row group."""
    names = list(dict.fromkeys(feature.column for feature in history.features))
    with _opened(history, path, pre_buffer=True) as file:
        _refuse_missing(history, path, names, file.schema_arrow.names)
        sizes = [
            file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
        ]
        edges = np.cumsum([0, *sizes])
        cuts = np.searchsorted(rows, edges)
        groups = [
            (group, low, high)
            for group, (low, high) in enumerate(pairwise(cuts.tolist()))
            if high > low
        ]
        read = (
            (file.read_row_group(group, names, use_threads=False), rows[low:high] - edges[group])
            for group, low, high in groups
        )
        return [_given_out(history, path, history.features, _chosen(*each)) for each in read]


@contextmanager
def _opened(history: History, path: str, *, pre_buffer: bool) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, pre_buffer=pre_buffer) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{history.view}': {path} cannot be read: {error}.") from error


def _refuse_missing(history: History, path: str, names: list[str], there: list[str]) -> None:
    if missing := [name for name in names if name not in there]:
        raise BrokenTable(
            f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column."
        )


def _chosen(group: pa.Table, rows: np.ndarray) -> pa.Table:
    return group if len(rows) == group.num_rows else group.take(pa.array(rows))


def _given_out(
    history: History, path: str, columns: Sequence[FeatureColumn], rows: pa.Table
) -> pa.Table:
    """The columns with the types in which they are given out."""
    arrays = []
    for column in columns:
        array = rows[column.column]
        if array.type != column.type:
            given_out(history.view, path, column.column, array.type, column.type)
            array = array.cast(column.type)
        arrays.append(array)
    return pa.table(arrays, names=[column.name for column in columns])
