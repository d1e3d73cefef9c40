"""Reads a history's values: those of chosen rows out of its files, or a small history whole, before it is joined.

Each file is read once, and only the columns and row groups that are wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from punctual.errors import BrokenTable
from stores.offline.view_columns import given_out
from stores.offline.view_files import ADDRESS, FeatureColumn, History, address_of, address_parts
from stores.tables import WITHDRAWN

# A history is held with at most so many values (64 MB), rows for each entity row, and at least so many entity rows for each file.
MOST_CELLS = 8_000_000
MOST_ROWS = 12
ROWS_A_FILE = 16
# A text counts for so many values.
_CELLS_A_TEXT = 16
_HELD = "__held"


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
                pool.submit(_read, history, history.paths[place], history.features, rows[start:end])
            )
            # Reading far ahead of whoever takes the pieces would hold them all.
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def worth_holding(history: History, entity_rows: int) -> bool:
    """Whether the history is small, and nearly every file holds a row that is shown: to read all once is less than to open each twice."""
    if not history.stretch:
        return False
    types = [feature.type for feature in history.features]
    columns = (
        sum(
            1 if pa.types.is_primitive(type_) else _CELLS_A_TEXT
            for type_ in (*types, *history.key_types)
        )
        + 2
    )
    rows = history.stretch.rows
    return (
        rows * columns <= MOST_CELLS
        and rows <= MOST_ROWS * entity_rows
        and entity_rows >= ROWS_A_FILE * len(history.paths)
    )


def hold(connection: duckdb.DuckDBPyConnection, history: History) -> tuple[History, pa.Table]:
    """The history with its keys and times in the connection, and all its features, by row in order of files.

    Raises `BrokenTable` where a file cannot be read or holds a column of another type.
    """
    times = (
        {history.event}
        if history.stretch and history.stretch.is_regular
        else {history.event, history.created}
    )
    types = dict(zip(history.keys.values(), history.key_types, strict=True)) | dict.fromkeys(
        times, pa.timestamp("us")
    )
    if history.has_withdrawals:
        types[WITHDRAWN] = pa.bool_()
    columns = [
        *history.features,
        *(FeatureColumn(column, column, type_) for column, type_ in types.items()),
    ]
    pieces, addresses = [], []
    for place, path in enumerate(history.paths):
        (piece,) = _read(history, path, columns)
        pieces.append(piece)
        addresses.append(pa.array(address_of(place, np.arange(piece.num_rows))))
    table = pa.concat_tables(pieces)
    others = table.select(range(len(history.features), table.num_columns))
    connection.register(_HELD, others.append_column(ADDRESS, pa.chunked_array(addresses)))
    # One piece, since to take rows out of hundreds is slow.
    return replace(history, held=_HELD), table.select(range(len(history.features))).combine_chunks()


def _read(
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
