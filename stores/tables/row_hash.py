"""The identity of data: a hash of a set of rows that does not depend on how they are stored."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def canonical_hash(rows: pa.Table) -> str:
    """SHA-256 of a multiset of rows, independent of row order, files, chunks and compression.

    Column names and types are part of the hash, the order of columns is not. Rows are sorted by
    all columns, nulls last.
    """
    names = sorted(rows.column_names)
    rows = pa.table([_canonical(rows[name]) for name in names], names=names)
    rows = (
        rows.take(pc.sort_indices(_sortable(rows), [(name, "ascending") for name in names]))
        if names
        else rows
    )
    digest = hashlib.sha256(str(rows.schema).encode())
    digest.update(rows.num_rows.to_bytes(8, "little"))
    for column in rows.columns:
        values = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        digest.update(np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes())
        digest.update(_value_bytes(values))
    return digest.hexdigest()


def _canonical(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values in one form per type: no dictionaries, microseconds, one zero and one NaN."""
    type_ = values.type
    if pa.types.is_dictionary(type_):
        return _canonical(values.cast(type_.value_type))
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return values.cast(pa.string())
    if pa.types.is_timestamp(type_):
        return values.cast(pa.timestamp("us", type_.tz))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        # Parquet gives the items of a list another field name, which is part of the type.
        return values.cast(pa.list_(type_.value_type))
    if pa.types.is_float32(type_) or pa.types.is_float64(type_):
        return pc.if_else(
            pc.is_nan(values), pa.scalar(float("nan"), type_), pc.add(values, pa.scalar(0.0, type_))
        )
    return values


def _sortable(rows: pa.Table) -> pa.Table:
    """The rows with columns of types that Arrow cannot sort converted to text."""
    not_sortable = (pa.types.is_nested, pa.types.is_float16, pa.types.is_binary_view)
    for number, column in enumerate(rows.schema):
        if any(is_type(column.type) for is_type in not_sortable):
            text = [
                None if value is None else repr(value) for value in rows[column.name].to_pylist()
            ]
            rows = rows.set_column(number, column.name, pa.array(text, pa.string()))
    return rows


def _value_bytes(values: pa.Array) -> bytes:
    """The values as bytes; every null has the same bytes."""
    type_ = values.type
    if pa.types.is_float32(type_) or pa.types.is_float64(type_):
        return bytes(
            values.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64).tobytes()
        )
    if pa.types.is_boolean(type_):
        return bytes(values.fill_null(False).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_integer(type_) or pa.types.is_timestamp(type_):
        return bytes(
            values.cast(pa.int64(), safe=False)
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
            .tobytes()
        )
    return repr(values.to_pylist()).encode()
