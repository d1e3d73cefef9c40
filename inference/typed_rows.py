"""Rows as a notebook holds them, a frame or a list, in the types that the feature store declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from punctual.errors import InvalidRequest, NaiveTimestamp

_ARROW = {
    "String": pa.string(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "Bool": pa.bool_(),
    "UnixTimestamp": pa.timestamp("us", "UTC"),
}


def typed_rows(
    rows: pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
    request_columns: Mapping[str, str],
    more: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows as dictionaries of keys, request columns (both name to Feast type) and the `more` columns that there are.

    A frame's integers with gaps are integers again; other columns are left out. Raises `InvalidRequest` where a
    request column is missing or a value is of another type, `NaiveTimestamp` for a moment without a zone.
    """
    if isinstance(rows, pd.DataFrame):
        rows = pa.Table.from_pandas(rows, preserve_index=False)
    table = rows if isinstance(rows, pa.Table) else _table(rows)
    columns: dict[str, list[Any]] = {}
    for name, kind in {**keys, **request_columns}.items():
        if name in table.column_names:
            columns[name] = _cast(name, table[name], kind).to_pylist()
        elif name in request_columns:
            raise InvalidRequest(
                f"column '{name}' is missing; the rows have {', '.join(table.column_names)}."
            )
    columns.update(
        {
            name: table[name].to_pylist()
            for name in more
            if name in table.column_names and name not in columns
        }
    )
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidRequest(f"the rows mix types in a column: {error}.") from error


def _cast(name: str, column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """The column in its declared type; texts are not read as numbers, nor numbers written as texts."""
    have, want = column.type, _ARROW.get(kind)
    if want is None or pa.types.is_null(have):
        return column
    if pa.types.is_timestamp(have) and have.tz is None:
        raise NaiveTimestamp(
            f"column '{name}' has no time zone; give one, for example pd.to_datetime(…, utc=True)."
        )
    alike = all(
        is_kind(have) == is_kind(want)
        for is_kind in (_is_text, pa.types.is_timestamp, pa.types.is_boolean)
    )
    try:
        if alike:
            return column.cast(want)
        problem = ""
    except pa.ArrowInvalid as error:
        problem = f" ({error})"
    raise InvalidRequest(f"column '{name}' is {have}; expected {want}{problem}.")


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)
