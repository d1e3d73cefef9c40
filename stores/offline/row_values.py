"""Reads the values of a history's files: whole files, or chosen rows of them.

Of each file only the columns and row groups that are wanted are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from punctual.errors import BrokenTable
from stores.offline.view_columns import given_out
from stores.offline.view_files import FeatureColumn, History, address_parts


def gather(history: History, addresses: np.ndarray, *, threads: int) -> Iterator[pa.Table]:
    """The features of the rows at the addresses (int64, ascending, each once), in that order, a file or less at a time.

    Columns are called as the features are and have their types. Holds the rows of a few files at once.
    Raises `BrokenTable` where a file cannot be read or holds a column of another type.
    """
    places, rows = address_parts(addresses)
    wanted, starts = np.unique(places, return_index=True)
    ends = [*starts[1:].tolist(), len(addresses)][: len(starts)]
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[pa.Table]]] = deque()
        for place, start, end in zip(wanted.tolist(), starts.tolist(), ends, strict=True):
            waiting.append(
                pool.submit(read_file, history, history.paths[place], history.features, rows[start:end])
            )
            # Reading far ahead of whoever takes the pieces would hold them all.
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def read_file(
    history: History, path: str, columns: Sequence[FeatureColumn], rows: np.ndarray | None = None
) -> list[pa.Table]:
    """Columns of a file, by row group: of some rows (ascending), else of all."""
    names = list(dict.fromkeys(column.column for column in columns))
    try:
        # Of a small file, to plan the reading ahead takes longer than the reading.
        with pq.ParquetFile(path, pre_buffer=rows is not None) as file:
            there = set(file.schema_arrow.names)  # made anew whenever it is asked for
            missing = [name for name in names if name not in there]
            if missing:
                raise BrokenTable(
                    f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column."
                )
            if rows is None:
                return [_given_out(history, path, columns, file.read(names, use_threads=False))]
            sizes = [
                file.metadata.row_group(group).num_rows
                for group in range(file.metadata.num_row_groups)
            ]
            edges = np.cumsum([0, *sizes])
            cuts = np.searchsorted(rows, edges)
            groups = [
                (group, low, high)
                for group, (low, high) in enumerate(pairwise(cuts.tolist()))
                if high > low
            ]
            read = (
                (
                    file.read_row_group(group, names, use_threads=False),
                    rows[low:high] - edges[group],
                )
                for group, low, high in groups
            )
            return [_given_out(history, path, columns, _chosen(*each)) for each in read]
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{history.view}': {path} cannot be read: {error}.") from error


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
