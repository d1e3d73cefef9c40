"""Reads the values of chosen rows out of a history's files: each file once, and only the columns and row groups that are wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import BrokenTable
from stores.history import History, address_parts, given_out


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
            waiting.append(pool.submit(_rows_of, history, history.paths[place], rows[start:end]))
            # Reading far ahead of whoever takes the pieces would hold them all.
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _rows_of(history: History, path: str, rows: np.ndarray) -> list[pa.Table]:
    """The features of some rows of a file, by row group."""
    columns = list(dict.fromkeys(feature.column for feature in history.features))
    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)  # made anew whenever it is asked for
            missing = [name for name in columns if name not in there]
            if missing:
                raise BrokenTable(f"view '{history.view}' declares {', '.join(missing)}; {path} has no such column.")
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            edges = np.cumsum([0, *sizes])
            cuts = np.searchsorted(rows, edges)
            return [
                _given_out(history, path, file.read_row_group(group, columns=columns, use_threads=False), rows[low:high] - edges[group])
                for group, (low, high) in enumerate(pairwise(cuts.tolist()))
                if high > low
            ]
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{history.view}': {path} cannot be read: {error}.") from error


def _given_out(history: History, path: str, group: pa.Table, rows: np.ndarray) -> pa.Table:
    chosen = group if len(rows) == group.num_rows else group.take(pa.array(rows))
    columns = []
    for feature in history.features:
        column = chosen[feature.column]
        if column.type != feature.type:
            given_out(history.view, path, feature.column, column.type, feature.type)
            column = column.cast(feature.type)
        columns.append(column)
    return pa.table(columns, names=[feature.name for feature in history.features])
