"""The point-in-time join of a history that fits into memory.

Keys, times and features of each file are read at once, and NumPy finds the row that each entity row
sees. `asof` searches longer histories with DuckDB, without loading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.offline.row_values import whole_files
from stores.offline.view_files import FeatureColumn, History
from stores.tables import WITHDRAWN

# A history is loaded if it takes at most MOST_BYTES, has at most ROWS_PER_ENTITY_ROW, and has so
# few files that entity rows see a row of nearly every file.
MOST_BYTES = 450_000_000
ROWS_PER_ENTITY_ROW = 50
ENTITY_ROWS_PER_FILE = 16
_BYTES_PER_TEXT = 128
_SORT_BYTES_PER_ROW = 64
_TASKS_PER_THREAD = 4


def worth_loading(history: History, entity_rows: int) -> bool:
    """Whether loading the history is cheaper than searching its keys and reading some features.

    False for files without a manifest, whose number of rows is unknown.
    """
    if not history.statistics:
        return False
    rows = history.statistics.rows
    row_bytes = _SORT_BYTES_PER_ROW + sum(
        column.type.bit_width // 8 if pa.types.is_primitive(column.type) else _BYTES_PER_TEXT
        for column in _columns(history)
    )
    return (
        rows * row_bytes <= MOST_BYTES
        and rows <= ROWS_PER_ENTITY_ROW * entity_rows
        and entity_rows >= ENTITY_ROWS_PER_FILE * len(history.paths)
    )


def can_encode(keys: Sequence[pa.ChunkedArray], types: Sequence[pa.DataType]) -> bool:
    """Whether all keys are integers or text; other types need DuckDB's rules of comparison."""
    return all(
        (pa.types.is_integer(type_) and not pa.types.is_uint64(type_)) or _is_text(type_)
        for type_ in (*(key.type for key in keys), *types)
    )


def load_and_join(
    history: History,
    keys: Sequence[pa.ChunkedArray],
    prediction_times_us: np.ndarray,
    *,
    two_time: bool,
    ttl_us: int,
    threads: int,
) -> tuple[pa.Table, np.ndarray]:
    """All features of the history, and for each entity row the index of the row it sees (-1: none).

    `keys` are the entity rows' columns for `history.keys`. A `ttl_us` of 0 means no ttl.
    Raises `BrokenTable` where a file cannot be read or has a column of another type.
    """
    features, columns = _load(history, threads)
    event, created = _times(history, columns)
    if keys:
        codes, entity_codes = _key_codes([columns[name] for name in history.keys.values()], keys)
    else:
        codes, entity_codes = (
            np.zeros(len(event), np.int32),
            np.zeros(len(prediction_times_us), np.int32),
        )
    # Rows with a null event or created after `as_of` get the code of no entity.
    codes = np.where(pc.is_valid(columns[history.event]).to_numpy(), codes, -1)
    if history.as_of is not None:
        codes = np.where(created <= history.as_of, codes, -1)
    withdrawn = columns[WITHDRAWN].fill_null(False).to_numpy() if history.has_withdrawals else None
    # Frees memory for the sort.
    del columns
    shown = _newest_in_effect(
        event, created, codes, prediction_times_us, entity_codes, two_time=two_time
    )
    hidden = shown < 0
    if ttl_us:
        hidden |= event[shown] + ttl_us < prediction_times_us
    if withdrawn is not None:
        hidden |= withdrawn[shown]
    shown[hidden] = -1
    return features, shown


def _columns(history: History) -> list[FeatureColumn]:
    """The features, then the keys, the times and the withdrawal column."""
    types = dict(zip(history.keys.values(), history.key_types, strict=True))
    types[history.event] = pa.timestamp("us")
    if not (history.statistics and history.statistics.is_regular):
        types[history.created] = pa.timestamp("us")
    if history.has_withdrawals:
        types[WITHDRAWN] = pa.bool_()
    others = [FeatureColumn(column, column, type_) for column, type_ in types.items()]
    return [*history.features, *others]


def _load(history: History, threads: int) -> tuple[pa.Table, pa.Table]:
    """The features of all rows in order of the files, and the other columns."""
    columns, paths = _columns(history), history.paths
    # Several files per task: with one file each, threads wait for each other.
    step = -(-len(paths) // (_TASKS_PER_THREAD * threads))
    with ThreadPoolExecutor(threads) as pool:
        tasks = pool.map(
            lambda start: whole_files(history, paths[start : start + step], columns),
            range(0, len(paths), step),
        )
        table = pa.concat_tables(chain.from_iterable(tasks))
    count = len(history.features)
    return table.select(range(count)), table.select(range(count, table.num_columns))


def _times(history: History, columns: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rows' event and created timestamps in microseconds; 0 for an event that is null."""
    event = columns[history.event].cast(pa.int64())
    event_us = event.fill_null(0).to_numpy()
    if history.statistics and history.statistics.is_regular:
        return event_us, event_us + history.statistics.min_lag
    created = pc.coalesce(columns[history.created].cast(pa.int64()), event)
    return event_us, created.fill_null(0).to_numpy()


def _key_codes(
    history_keys: Sequence[pa.ChunkedArray], entity_keys: Sequence[pa.ChunkedArray]
) -> tuple[np.ndarray, np.ndarray]:
    """A code for each combination of keys, for the history's rows and for the entity rows.

    -1 where a key is null or no entity row has the combination.
    """
    codes = entity_codes = np.zeros(0, np.int32)
    for number, (key, entity_key) in enumerate(zip(history_keys, entity_keys, strict=True)):
        type_ = pa.large_string() if _is_text(key.type) else pa.int64()
        new, entity_new = _codes(key.cast(type_), entity_key.cast(type_))
        if number:
            count = int(entity_new.max(initial=0)) + 1
            pairs, entity_pairs = (
                np.where((one < 0) | (other < 0), -1, one.astype(np.int64) * count + other)
                for one, other in ((codes, new), (entity_codes, entity_new))
            )
            new, entity_new = _codes(
                pa.array(pairs, mask=pairs < 0), pa.array(entity_pairs, mask=entity_pairs < 0)
            )
        codes, entity_codes = new, entity_new
    return codes, entity_codes


def _codes(
    values: pa.Array | pa.ChunkedArray, entity_values: pa.Array | pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """Each value's index among the distinct entity values; -1 for null and for other values."""
    known = pc.unique(entity_values).drop_null()
    codes, entity_codes = (
        pc.index_in(column, value_set=known).fill_null(-1).to_numpy()
        for column in (values, entity_values)
    )
    return codes, entity_codes


def _newest_in_effect(
    event: np.ndarray,
    created: np.ndarray,
    codes: np.ndarray,
    prediction_times: np.ndarray,
    entity_codes: np.ndarray,
    *,
    two_time: bool,
) -> np.ndarray:
    """For each entity row the index of the newest row that is in effect; -1 for none.

    Of the rows with the entity row's code that took effect by its prediction time, the one with the
    greatest event, ties to the greatest created, then to the last row.
    """
    rows = len(event)
    by_rank = np.lexsort((created, event))
    effective = (np.maximum(event, created) if two_time else event)[by_rank]
    by_effect = np.argsort(effective, kind="stable")
    in_effect = _search_sorted(effective[by_effect], prediction_times, side="right")
    codes = codes[by_rank[by_effect]]
    by_code = _stable_order(codes)
    # Each code has its own range of numbers; within it, rows are numbered in order of effect.
    base = np.repeat(np.arange(-1, codes.max(initial=-1) + 1) * rows, np.bincount(codes + 1))
    base_of_entity = entity_codes.astype(np.int64) * rows
    entered = base + by_code
    last = _search_sorted(entered, base_of_entity + in_effect, side="left") - 1
    # The running maximum of the rank within a code, in the same ranges; if no row is overtaken, it
    # is the row's own rank.
    is_overtaken = bool(np.any(effective[1:] < effective[:-1]))
    greatest = np.maximum.accumulate(base + by_effect[by_code]) if is_overtaken else entered
    rank = greatest[last] - base_of_entity if rows else last
    is_seen = (entity_codes >= 0) & (last >= 0) & (rank >= 0)
    return np.where(is_seen, by_rank[np.where(is_seen, rank, 0)] if rows else -1, -1)


def _search_sorted(
    ascending: np.ndarray, values: np.ndarray, *, side: Literal["left", "right"]
) -> np.ndarray:
    """`np.searchsorted` of unordered values, sorted first because that is several times as fast."""
    order = np.argsort(values)
    indices = np.empty(len(values), np.int64)
    indices[order] = np.searchsorted(ascending, values[order], side=side)
    return indices


def _stable_order(codes: np.ndarray) -> np.ndarray:
    """The order that sorts the codes (at least -1); NumPy sorts 16-bit integers in linear time."""
    unsigned = (codes + 1).astype(np.uint32)
    order = np.argsort(unsigned.astype(np.uint16), kind="stable")
    if unsigned.max(initial=0) >> 16:
        order = order[np.argsort((unsigned >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
