"""The entity rows of a point-in-time join: read from any kind of frame, with their prediction
times, and their keys as a table for SQL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from punctual.errors import InvalidRequest, NaiveTimestamp
from punctual.frames import arrow_table
from stores.tables import EVENT, quoted

if TYPE_CHECKING:
    import polars as pl

EntityFrame: TypeAlias = (
    "pd.DataFrame | pa.Table | pl.DataFrame | duckdb.DuckDBPyRelation | Path | str"
)
NaiveTimestamps = Literal["refuse", "utc"]

ENTITIES = "__entities"
ROW = "__row"
PREDICTION_TIME = "__prediction_time"
_FRAME = "__frame"


class EntityRows:
    """Entity rows in the order of their frame.

    A pandas, Arrow or polars frame is not copied. A Parquet file, SQL text or a DuckDB relation is
    loaded into DuckDB, which may spill it, or into memory with `in_memory`. `prepare` makes the SQL
    table `__entities`: `__row` (from 0), `__prediction_time` (microseconds since 1970, UTC) and key
    columns.
    """

    def __init__(
        self,
        connection: Callable[[], duckdb.DuckDBPyConnection],
        frame: EntityFrame,
        *,
        naive: NaiveTimestamps,
        in_memory: bool = False,
    ) -> None:
        """Read the frame; `connection` is called only when DuckDB is needed.

        Raises `InvalidRequest` for an object that is not a frame or has no prediction time,
        `NaiveTimestamp` for times without a zone.
        """
        self._connection = connection
        self._prepared: tuple[tuple[str, pa.DataType], ...] | None = None
        self._arrow = _in_memory(frame)
        if self._arrow is None:
            reader = self._reader(frame)
            if in_memory:
                self._arrow = reader.read_all()
            else:
                self._load(reader)
        names = self.schema.names
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InvalidRequest(
                f"entity rows have more than one column '{repeated[0]}'; rename all but one."
            )
        self.prediction_times = prediction_times_of(
            self._columns([time_column(self.schema)]), naive=naive
        )

    @property
    def rows(self) -> int:
        """The number of entity rows."""
        return len(self.prediction_times)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the frame."""
        return self._schema if self._arrow is None else self._arrow.schema

    def slices(self, rows: int) -> Iterator[pa.Table]:
        """The frame in pieces of at most `rows` rows, in order."""
        if self._arrow is not None:
            for start in range(0, self.rows, rows):
                yield self._arrow.slice(start, rows)
            return
        for start in range(0, self.rows, rows):
            yield self._columns(
                self.schema.names, f"WHERE rowid >= {start} AND rowid < {start + rows}"
            )

    def whole(self) -> pa.Table:
        """The whole frame as one Arrow table."""
        return self._columns(self.schema.names) if self._arrow is None else self._arrow

    def keys(
        self, names: Sequence[str], types: Sequence[pa.DataType], *, of: str
    ) -> list[pa.ChunkedArray]:
        """The named columns, converted for comparison with keys of `types`; `of` names the view.

        Raises `InvalidRequest` for a missing column and for values that the key's type cannot hold.
        """
        for name in names:
            if name not in self.schema.names:
                raise InvalidRequest(
                    f"{of} is keyed by '{name}'; the entity rows have no such column."
                )
        return [
            _as_key(self._columns([name])[name], type_, name, of)
            for name, type_ in zip(names, types, strict=True)
        ]

    def prepare(self, keys: Sequence[str], types: Sequence[pa.DataType], *, of: str = "") -> None:
        """Create `__entities` with the prediction times and the named columns, which are numbered
        (see `key_column`).

        Other columns of the frame are left out, since SQL does not distinguish `Driver` from
        `driver`. Raises what `keys` raises.
        """
        if self._prepared == tuple(zip(keys, types, strict=True)):
            return
        columns: dict[str, Any] = {
            ROW: np.arange(self.rows),
            PREDICTION_TIME: self.prediction_times,
        }
        for number, column in enumerate(self.keys(keys, types, of=of)):
            columns[f"__key{number}"] = column
        connection = self._connection()
        connection.register("__given", pa.table(columns))
        connection.execute(f"CREATE OR REPLACE TABLE {ENTITIES} AS FROM __given")
        connection.unregister("__given")
        self._prepared = tuple(zip(keys, types, strict=True))

    def _reader(self, frame: EntityFrame) -> pa.RecordBatchReader:
        if isinstance(frame, duckdb.DuckDBPyRelation):
            return frame.to_arrow_reader(200_000)
        if isinstance(frame, Path) or (
            isinstance(frame, str) and frame.endswith(".parquet") and "\n" not in frame.strip()
        ):
            try:
                return pads.dataset(frame, format="parquet").scanner().to_reader()
            except (OSError, pa.ArrowException) as error:
                raise InvalidRequest(
                    f"the file {frame} cannot be read as entity rows: {error}."
                ) from error
        if isinstance(frame, str):
            return self._read(frame, "the SQL text")
        raise InvalidRequest(
            f"entity rows came as {type(frame).__name__}; expected a pandas, polars or Arrow"
            " frame, a DuckDB relation,"
            " the path of a Parquet file, or SQL."
        )

    def _load(self, reader: pa.RecordBatchReader) -> None:
        """Load a stream into DuckDB with its columns numbered."""
        self._schema = reader.schema
        numbered = pa.schema(
            [field.with_name(f"c{number}") for number, field in enumerate(reader.schema)]
        )
        # A second cursor: the reader may belong to this connection, whose next statement ends it.
        source = pa.RecordBatchReader.from_batches(
            numbered, (pa.record_batch(batch.columns, schema=numbered) for batch in reader)
        )
        cursor = self._connection().cursor()
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.register("__read", source)
        cursor.execute(f"CREATE TABLE {_FRAME} AS FROM __read")
        cursor.close()

    def _read(self, select: str, what: str) -> pa.RecordBatchReader:
        try:
            relation = self._connection().sql(select)
            if relation is None:
                raise InvalidRequest(f"{what} returns no rows; expected a SELECT of entity rows.")
            return relation.to_arrow_reader(200_000)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise InvalidRequest(f"{what} cannot be read as entity rows: {error}.") from error

    def _columns(self, names: list[str], where: str = "") -> pa.Table:
        if self._arrow is not None:
            return self._arrow.select(names)
        if not names:
            return pa.table({})
        numbers = ", ".join(f"c{self.schema.get_field_index(name)}" for name in names)
        table = (
            self._connection()
            .sql(f"SELECT {numbers} FROM {_FRAME} {where} ORDER BY rowid")
            .to_arrow_table()
        )
        return table.cast(
            pa.schema(
                [
                    self.schema.field(name).with_name(f"c{self.schema.get_field_index(name)}")
                    for name in names
                ]
            )
        ).rename_columns(names)


def key_column(number: int) -> str:
    """The quoted name of a key column in `__entities`."""
    return quoted(f"__key{number}")


def time_column(schema: pa.Schema) -> str:
    """The column of the prediction times: `event_timestamp`, else the only timestamp, as in Feast.

    Raises `InvalidRequest` if neither exists.
    """
    if EVENT in schema.names:
        return EVENT
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(times) != 1:
        raise InvalidRequest(
            f"entity rows need a column '{EVENT}', or one timestamp under another name; they have"
            f" the columns {', '.join(schema.names)}."
        )
    return times[0]


def prediction_times_of(
    entities: pa.Table, *, naive: NaiveTimestamps = "refuse"
) -> pa.ChunkedArray:
    """The prediction times as microseconds since 1970 in UTC.

    Nanoseconds are rounded down, which changes no comparison with whole microseconds. Raises
    `InvalidRequest` where the column or a value is missing, `NaiveTimestamp` for times without a
    zone unless `naive` is `utc`.
    """
    name = time_column(entities.schema)
    type_ = entities.schema.field(name).type
    if not pa.types.is_timestamp(type_) or (type_.tz is None and naive == "refuse"):
        raise NaiveTimestamp(
            f"entity column '{name}' is {type_}; expected timestamps with a time zone, such as"
            " pd.to_datetime(…, utc=True)."
        )
    prediction_times = entities[name]
    if prediction_times.null_count:
        raise InvalidRequest(
            f"{prediction_times.null_count} of {len(prediction_times)} entity rows have no {name};"
            " every row needs a prediction time."
        )
    in_utc = prediction_times.cast(pa.timestamp(type_.unit))
    if type_.unit == "ns":
        in_utc = pc.floor_temporal(in_utc, unit="microsecond")
    return in_utc.cast(pa.timestamp("us")).cast(pa.int64())


def _in_memory(frame: EntityFrame) -> pa.Table | None:
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pd.DataFrame):
        return arrow_table(frame)
    if type(frame).__module__.startswith("polars") and hasattr(frame, "to_arrow"):
        return frame.to_arrow()  # type: ignore[operator]
    return None


def _as_key(column: pa.ChunkedArray, type_: pa.DataType, name: str, of: str) -> pa.ChunkedArray:
    """An entity key column converted for comparison with a view's key column of type `type_`.

    Times come out in UTC without a zone. Raises `InvalidRequest` where the types do not compare.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    given = column.type
    if pa.types.is_null(given):
        return column.cast(type_)
    if pa.types.is_timestamp(given) and pa.types.is_timestamp(type_):
        return column.cast(pa.timestamp(given.unit))
    if pa.types.is_floating(given) and pa.types.is_integer(type_):
        # pandas turns integers among nulls into floats, which are exact up to 2^53.
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), 2.0**53))
        if pc.all(pc.or_kleene(whole, pc.is_null(column, nan_is_null=True))).as_py() is not False:
            return pc.if_else(pc.is_nan(column), pa.scalar(None, given), column).cast(pa.int64())
    if pa.types.is_decimal(given) and pa.types.is_integer(type_):
        with contextlib.suppress(pa.ArrowException):  # fractions are refused below
            return column.cast(pa.int64())
    if comparable_kind(given) != comparable_kind(type_):
        raise InvalidRequest(
            f"{of} is keyed by '{name}', which is {type_}; the entity rows have it as {given}."
            " Cast the column."
        )
    return column


def comparable_kind(type_: pa.DataType) -> str:
    """The kind of a type; values are comparable with values of the same kind only."""
    kinds = {
        "integer": (pa.types.is_integer,),
        "number": (pa.types.is_floating, pa.types.is_decimal),
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "bytes": (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        ),
        "timestamp": (pa.types.is_timestamp,),
        "list": (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    }
    return next(
        (kind for kind, tests in kinds.items() if any(test(type_) for test in tests)), str(type_)
    )
