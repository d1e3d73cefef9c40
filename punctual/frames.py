"""Conversion of pandas and polars frames, DuckDB relations and mappings to Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from punctual.errors import InvalidRequest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def arrow_columns(rows: Any) -> dict[str, Any]:
    """The columns of a frame, or of rows as mappings, by name: each a `pa.ChunkedArray` or a list.

    A column is a list if its values have several types, which Arrow does not support. Named levels
    of a pandas index are columns. NaN, NaT and NA of pandas are nulls. Raises `InvalidRequest` for
    another kind of object and for repeated column names.
    """
    import pandas as pd
    import pyarrow as pa

    if isinstance(rows, pd.DataFrame):
        return _pandas_columns(rows)
    if type(rows).__module__.startswith("polars") and hasattr(rows, "to_arrow"):
        rows = rows.to_arrow()
    elif hasattr(rows, "to_arrow_table"):
        rows = rows.to_arrow_table()
    if isinstance(rows, pa.Table):
        refuse_repeated(rows.column_names)
        return dict(zip(rows.column_names, rows.columns, strict=True))
    return _mapping_columns(rows)


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """A pandas frame as Arrow. Raises `InvalidRequest` if a column has values of several types."""
    import pyarrow as pa

    frame = _with_index(frame)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        converted = {name: _column(frame[name]) for name in frame.columns}
        problems = [
            f"column '{name}' has values of several types: {_type_names(column)}; expected one type"
            for name, column in converted.items()
            if isinstance(column, list)
        ]
        raise InvalidRequest(f"{'; '.join(problems) or f'the frame: {error}'}.") from error


def refuse_repeated(names: Sequence[Any]) -> None:
    """Raise `InvalidRequest` if two columns have the same name."""
    if repeated := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise InvalidRequest(
            f"the rows have more than one column {', '.join(map(repr, repeated))};"
            " give each column a name of its own."
        )


def _pandas_columns(frame: pd.DataFrame) -> dict[str, Any]:
    frame = _with_index(frame)
    return {str(name): _column(frame[name]) for name in frame.columns}


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the named levels of its index as columns; refuses repeated names."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    unnamed = [level for level, name in enumerate(frame.index.names) if name not in named]
    if named:
        frame = frame.reset_index(level=unnamed, drop=True) if unnamed else frame
        frame = frame.reset_index()
    refuse_repeated(list(frame.columns))
    return frame


def _mapping_columns(rows: Any) -> dict[str, Any]:
    if isinstance(rows, (Mapping, str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidRequest(
            f"the rows came as {type(rows).__name__}; expected a pandas, polars or Arrow frame, or"
            " a list of mappings from columns to values."
        )
    listed = list(rows)
    for number, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise InvalidRequest(
                f"rows[{number}] is {type(row).__name__}; expected a mapping of columns to values."
            )
    names = dict.fromkeys(name for row in listed for name in row)
    return {name: _column([row.get(name) for row in listed]) for name in names}


def _column(values: Any) -> Any:
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return [_python_value(value) for value in values]
    if isinstance(array, pa.ChunkedArray):
        return array
    return pa.chunked_array([array])


def _python_value(value: Any) -> Any:
    """A NumPy scalar as a Python value, a null value of pandas as None."""
    import numpy as np
    import pandas as pd

    if value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _type_names(values: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(type(value).__name__ for value in values if value is not None))
