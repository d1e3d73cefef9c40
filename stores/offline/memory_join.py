"""The point-in-time join of a history that fits into memory.

Each file is read once, keys, times and features together, and NumPy finds the row that each entity
row sees. A longer history is searched by DuckDB without loading it, see `asof`.
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

# A history is loaded if it takes at most so many bytes, has at most so many rows for each entity
# row, and is in files of which nearly every one holds a row that an entity row sees.
MOST_BYTES = 450_000_000
ROWS_PER_ENTITY_ROW = 50
ENTITY_ROWS_PER_FILE = 16
_BYTES_OF_A_TEXT = 128
_BYTES_TO_SORT_A_ROW = 64
_TASKS_PER_THREAD = 4


def worth_loading(history: History, entity_rows: int) -> bool:
    """Whether loading the history is less work than to search its keys and read some features.

    False for files that no manifest describes: their size is not known before they are read.
    """
    if not history.statistics:
        return False
    rows = history.statistics.rows
    row_bytes = _BYTES_TO_SORT_A_ROW + sum(
        column.type.bit_width // 8 if pa.types.is_primitive(column.type) else _BYTES_OF_A_TEXT
        for column in _columns(history)
    )
    return (
        rows * row_bytes <= MOST_BYTES
        and rows <= ROWS_PER_ENTITY_ROW * entity_rows
        and entity_rows >= ENTITY_ROWS_PER_FILE * len(history.paths)
    )


def can_encode(keys: Sequence[pa.ChunkedArray], types: Sequence[pa.DataType]) -> bool:
    """Whether all keys are integers or texts; other types are compared by DuckDB's rules alone."""
    return all(
        (pa.types.is_integer(type_) and not pa.types.is_uint64(type_)) or _is_text(type_)
        for type_ in (*(key.type for key in keys), *types)
    )


def load_and_join(
    history: History,
    keys: Sequence[pa.ChunkedArray],
    moments_us: np.ndarray,
    *,
    two_time: bool,
    ttl_us: int,
    threads: int,
) -> tuple[pa.Table, np.ndarray]:
    """All features of the history, and for each entity row the row of them it sees (-1 for none).

    `keys` are the entity rows' columns for `history.keys`. A `ttl_us` of 0 is no ttl.
    Raises `BrokenTable` where a file cannot be read or has a column of another type.
    """
    features, columns = _load(history, threads)
    event, created = _times(history, columns)
    if keys:
        codes, entity_codes = _key_codes([columns[name] for name in history.keys.values()], keys)
    else:
        codes, entity_codes = np.zeros(len(event), np.int32), np.zeros(len(moments_us), np.int32)
    # A row without an event, or created too late, belongs to no entity.
    codes = np.where(pc.is_valid(columns[history.event]).to_numpy(), codes, -1)
    if history.as_of is not None:
        codes = np.where(created <= history.as_of, codes, -1)
    withdrawn = columns[WITHDRAWN].fill_null(False).to_numpy() if history.has_withdrawals else None
    # The sort needs their memory.
    del columns
    shown = _newest_in_effect(event, created, codes, moments_us, entity_codes, two_time=two_time)
    hidden = shown < 0
    if ttl_us:
        hidden |= event[shown] + ttl_us < moments_us
    if withdrawn is not None:
        hidden |= withdrawn[shown]
    shown[hidden] = -1
    return features, shown


def _columns(history: History) -> list[FeatureColumn]:
    """The features, then the keys, the times and the mark of withdrawals."""
    types = dict(zip(history.keys.values(), history.key_types, strict=True))
    types[history.event] = pa.timestamp("us")
    if not (history.statistics and history.statistics.is_regular):
        types[history.created] = pa.timestamp("us")
    if history.has_withdrawals:
        types[WITHDRAWN] = pa.bool_()
    others = [FeatureColumn(column, column, type_) for column, type_ in types.items()]
    return [*history.features, *others]


def _load(history: History, threads: int) -> tuple[pa.Table, pa.Table]:
    """The features of all rows in order of their files, and the other columns."""
    columns, paths = _columns(history), history.paths
    # A task of several files, since threads that take turns file by file wait for each other.
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
    """A number for each combination of keys, of the history's rows and of the entity rows.

    -1 where a key is null, and for combinations that no entity row has.
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
    """Each value's place among the entity rows' values; -1 for null and for what is not there."""
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
    moments: np.ndarray,
    entity_codes: np.ndarray,
    *,
    two_time: bool,
) -> np.ndarray:
    """For each entity row the row of its code that is in effect at its moment and has the greatest
    event, ties to the greatest created, then to the last row; -1 for none.
    """
    rows = len(event)
    by_rank = np.lexsort((created, event))
    effective = (np.maximum(event, created) if two_time else event)[by_rank]
    by_effect = np.argsort(effective, kind="stable")
    in_effect = _places(effective[by_effect], moments, side="right")
    codes = codes[by_rank[by_effect]]
    by_code = _stable_order(codes)
    # A code has a range of numbers of its own, in which a row has its place in order of effect.
    base = np.repeat(np.arange(-1, codes.max(initial=-1) + 1) * rows, np.bincount(codes + 1))
    base_of_entity = entity_codes.astype(np.int64) * rows
    entered = base + by_code
    last = _places(entered, base_of_entity + in_effect, side="left") - 1
    # The greatest rank so far of a code, in the same ranges; where no row was overtaken, its own.
    is_overtaken = bool(np.any(effective[1:] < effective[:-1]))
    greatest = np.maximum.accumulate(base + by_effect[by_code]) if is_overtaken else entered
    rank = greatest[last] - base_of_entity if rows else last
    seen = (entity_codes >= 0) & (last >= 0) & (rank >= 0)
    return np.where(seen, by_rank[np.where(seen, rank, 0)] if rows else -1, -1)


def _places(
    ascending: np.ndarray, values: np.ndarray, *, side: Literal["left", "right"]
) -> np.ndarray:
    """`np.searchsorted`, which is several times as fast for values in order."""
    order = np.argsort(values)
    places = np.empty(len(values), np.int64)
    places[order] = np.searchsorted(ascending, values[order], side=side)
    return places


def _stable_order(codes: np.ndarray) -> np.ndarray:
    """The positions that sort the codes (-1 and more); NumPy sorts 16 bits in linear time."""
    unsigned = (codes + 1).astype(np.uint32)
    order = np.argsort(unsigned.astype(np.uint16), kind="stable")
    if unsigned.max(initial=0) >> 16:
        order = order[np.argsort((unsigned >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
