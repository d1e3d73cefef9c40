"""Checks the columns of a view's files against the columns that the view declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.types import Array, Set, from_feast_to_pyarrow_type

from punctual.errors import BrokenTable, InvalidDeclaration
from stores.offline.entity_rows import comparable_kind
from stores.tables import (
    CREATED,
    EVENT,
    WITHDRAWN,
)


def declared_schema(view: FeatureView) -> pa.Schema:
    """The declared columns of the view's table, and the two time columns."""
    columns = [
        (field.name, in_zone(arrow_type(field.dtype), None))
        for field in view.schema
        if field.name != DUMMY_ENTITY_ID
    ]
    return pa.schema([*columns, (EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))])


def refuse_reserved_feature(view: FeatureView) -> None:
    """Raise `InvalidDeclaration` for a feature named `is_withdrawn`, the withdrawal column."""
    if any(field.name == WITHDRAWN for field in view.schema):
        raise InvalidDeclaration(
            f"view '{view.name}'",
            [
                f"'{WITHDRAWN}' is reserved for the column that marks withdrawn rows"
                " (Table.publish); rename the feature."
            ],
        )


def output_type(
    view: str, path: str, column: str, found: pa.DataType, declared: pa.DataType
) -> pa.DataType:
    """The type of a column in results, with times in UTC.

    The declared type if it is as wide as the file's type (`found`) or wider, else the file's type.

    Raises `BrokenTable` where the file's type does not fit the declared one.
    """
    plain = in_zone(found.value_type if pa.types.is_dictionary(found) else found, "UTC")
    if plain == declared or pa.types.is_null(plain):
        return declared
    if pa.types.is_null(declared) or pa.types.is_map(declared) or pa.types.is_struct(declared):
        return plain
    kind = comparable_kind(declared)
    if comparable_kind(plain) == kind:
        if kind in ("text", "bytes") or (
            kind in ("integer", "number") and plain.bit_width <= declared.bit_width
        ):
            return declared
        if kind == "timestamp":
            return plain
        if kind == "list":
            return pa.list_(output_type(view, path, column, plain.value_type, declared.value_type))
    raise BrokenTable(
        f"view '{view}' declares column '{column}' as {declared}; in {path} it is {found}. Build"
        " the table again."
    )


def in_zone(type_: pa.DataType, zone: str | None) -> pa.DataType:
    """The type with all timestamps in it set to a time zone, or to none."""
    if pa.types.is_timestamp(type_):
        return pa.timestamp(type_.unit, zone)
    if pa.types.is_map(type_):
        return pa.map_(in_zone(type_.key_type, zone), in_zone(type_.item_type, zone))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(in_zone(field.type, zone)) for field in type_])
    if pa.types.is_list(type_):
        return pa.list_(in_zone(type_.value_type, zone))
    return type_


def arrow_type(type_: Any) -> pa.DataType:
    """The Arrow type for a type of Feast; null for the few types without one."""
    if isinstance(type_, (Array, Set)):
        return pa.list_(arrow_type(type_.base_type))
    try:
        return from_feast_to_pyarrow_type(type_)
    except ValueError:
        return pa.binary() if "BYTES" in type_.to_value_type().name else pa.null()


def schema_of(view: FeatureView, path: str) -> pa.Schema:
    """The columns of a Parquet file. Raises `BrokenTable` where it cannot be read."""
    try:
        return pq.read_schema(path).remove_metadata()
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(
            f"view '{view.name}': {path} cannot be read as Parquet: {error}."
        ) from error


def check_columns(
    view: FeatureView,
    path: str,
    schema: pa.Schema,
    features: Sequence[str],
    *,
    keys: Sequence[str],
    times: Sequence[str],
) -> None:
    """Raise `BrokenTable` where a column is missing, ambiguous in SQL or no valid timestamp."""
    missing = [
        name for name in dict.fromkeys([*keys, *features, *times]) if name not in schema.names
    ]
    if missing:
        raise BrokenTable(
            f"view '{view.name}' declares {', '.join(missing)}, which {path} does not have. "
            "Build the table again after changing its definition: punctual features build."
        )
    # Keys and times are read by SQL, which would take the first of two columns that differ only in
    # case; features are read by exact name.
    for name in (*keys, *times):
        same_in_sql = [other for other in schema.names if other.lower() == name.lower()]
        if len(same_in_sql) > 1:
            raise BrokenTable(
                f"view '{view.name}', file {path}: columns {', '.join(same_in_sql)} differ only"
                f" in case; rename all but '{name}'."
            )
    for name in times:
        if not pa.types.is_timestamp(schema.field(name).type):
            raise BrokenTable(
                f"view '{view.name}', file {path}: column '{name}' is {schema.field(name).type};"
                " expected a timestamp."
            )
    for name in dict.fromkeys((*keys, *times)):
        type_ = schema.field(name).type
        if pa.types.is_timestamp(type_) and type_.unit == "ns":
            _refuse_fractions_of_microseconds(view, path, name)


def _refuse_fractions_of_microseconds(view: FeatureView, path: str, column: str) -> None:
    """Raise `BrokenTable` where nanosecond times are not whole microseconds.

    DuckDB 1.5 truncates such times, which would show rows too early; DuckDB 2 rounds them.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[column]):
                fractions = (
                    batch[0].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) % 1_000
                )
                if fractions.any():
                    finer = batch[0][int(fractions.argmax())]
                    raise BrokenTable(
                        f"view '{view.name}', file {path}: column '{column}' has {finer}, which is"
                        " not a whole microsecond; round the times up to microseconds."
                    )
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{view.name}': {path} cannot be read: {error}.") from error
