"""Rows of a frame or a list, converted to the types that the feature store declares."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from inference.json_types import json_type, problem_text
from punctual.column_types import ColumnType
from punctual.errors import InvalidRequest, NaiveTimestamp
from punctual.frames import arrow_columns

# An error about many rows names the first ones.
_MOST_PROBLEMS = 20
_EXACT_FLOATS = 2.0**53
# Column kinds that are accepted for a declared kind, because the conversion is exact.
_WIDENED = {"float": ("integer", "decimal"), "decimal": ("integer",), "integer": ("decimal",)}


def typed_rows(
    rows: Any,
    types: Mapping[str, ColumnType | None],
    *,
    needed: Sequence[str],
    optional: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows as dictionaries of their columns in `types`, each value in its type.

    `rows` is a pandas, polars or Arrow frame, a DuckDB relation, or a sequence of mappings. The
    levels of a named pandas index are columns. Integers may be floats, because pandas converts
    integer columns with nulls to floats; NaN, NaT and NA are null. Other columns are left out.
    Raises `InvalidRequest` with every problem: a missing `needed` column, an unknown column whose
    name resembles a missing `optional` one, a value of a wrong type; `NaiveTimestamp` for a
    timestamp column without a time zone.
    """
    given = arrow_columns(rows)
    if not given:
        return []
    problems = _column_problems(list(given), needed, optional)
    columns: dict[str, list[Any]] = {}
    found: list[tuple[int, str]] = []
    for name, type_ in types.items():
        if name in given:
            columns[name], wrong = _typed(name, given[name], type_)
            found += [(row, f"rows[{row}].{name} {problem}") for row, problem in wrong]
    problems += [text for _, text in sorted(found, key=lambda each: each[0])]
    if problems:
        shown = problems[:_MOST_PROBLEMS]
        more = len(problems) - len(shown)
        text = "; ".join(shown) + (f"; and {more:,} more" if more else "")
        raise InvalidRequest(text if text.endswith("?") else f"{text}.")
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _column_problems(
    given: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> list[str]:
    existing = f"the rows have {', '.join(map(str, given))}"
    known = {*needed, *optional}
    unknown = {str(name).lower(): name for name in given if name not in known}
    problems = []
    for name in (*needed, *optional):
        if name in given:
            continue
        close = difflib.get_close_matches(name.lower(), list(unknown), n=1, cutoff=0.75)
        if name in needed:
            guess = f" Is it '{unknown[close[0]]}'? Rename it." if close else ""
            problems.append(f"column '{name}' is missing; {existing}.{guess}".rstrip("."))
        elif close:
            problems.append(f"column '{unknown[close[0]]}' is unknown. Did you mean '{name}'?")
    return problems


def _typed(
    name: str, column: Any, type_: ColumnType | None
) -> tuple[list[Any], list[tuple[int, str]]]:
    """A column's values in its type, and the row and problem of each value of a wrong type."""
    if type_ is None:
        return (column if isinstance(column, list) else column.to_pylist()), []
    if isinstance(column, list):
        return _one_by_one(column, type_)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.to_pylist(), []
    if type_.kind == "timestamp" and pa.types.is_timestamp(column.type) and not column.type.tz:
        raise NaiveTimestamp(
            f"column '{name}' has no time zone; give one, for example pd.to_datetime(…, utc=True)."
        )
    cast = _cast(column, type_)
    return _one_by_one(column.to_pylist(), type_) if cast is None else (cast.to_pylist(), [])


def _cast(column: pa.ChunkedArray, type_: ColumnType) -> pa.ChunkedArray | None:
    """The column in its type; None if its values must be validated one by one."""
    have = column.type
    if type_.kind == "timestamp" and pa.types.is_timestamp(have):
        whole = pc.floor_temporal(column, unit="microsecond") if have.unit == "ns" else column
        return whole.cast(type_.arrow)
    if type_.kind == "integer" and pa.types.is_floating(have):
        column = _whole(column)
    if type_.kind == "date" and pa.types.is_timestamp(have):
        # pandas represents dates as timestamps at midnight.
        return _try_cast(column, type_.arrow)
    if _kind(column.type) not in (type_.kind, *_WIDENED.get(type_.kind, ())):
        return None
    return _try_cast(column, type_.arrow)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as integers if all floats are whole numbers, else unchanged."""
    missing = pc.is_null(column, nan_is_null=True)
    whole = pc.and_(
        pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), _EXACT_FLOATS)
    )
    if pc.all(pc.or_kleene(whole, missing)).as_py() is False:
        return column
    return pc.if_else(missing, pa.scalar(None, column.type), column).cast(pa.int64())


def _try_cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return column.cast(type_)
    except pa.ArrowException:
        return None


def _kind(type_: pa.DataType) -> str:
    kinds = {
        "boolean": (pa.types.is_boolean,),
        "integer": (pa.types.is_integer,),
        "float": (pa.types.is_floating,),
        "decimal": (pa.types.is_decimal,),
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "date": (pa.types.is_date,),
        "time": (pa.types.is_time,),
        "timestamp": (pa.types.is_timestamp,),
    }
    return next(
        (kind for kind, tests in kinds.items() if any(test(type_) for test in tests)), str(type_)
    )


def _one_by_one(
    values: Sequence[Any], type_: ColumnType
) -> tuple[list[Any], list[tuple[int, str]]]:
    """Values validated one by one, as the server does for a request."""
    check = TypeAdapter(json_type(type_)).validate_python
    typed: list[Any] = []
    wrong: list[tuple[int, str]] = []
    for row, value in enumerate(values):
        if value is None:
            typed.append(None)
            continue
        if type_.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            typed.append(check(value))
        except ValidationError as error:
            typed.append(None)
            wrong.append((row, problem_text(error.errors(include_url=False)[0], ())))
    return typed, wrong
