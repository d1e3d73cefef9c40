"""The columns that a view declares, beside those that its files have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.types import Array, Set, from_feast_to_pyarrow_type

from punctual.errors import BrokenTable, InvalidDeclaration
from stores.offline.entity_rows import kind_of
from stores.tables import (
    CREATED,
    EVENT,
    WITHDRAWN,
)


def declared_schema(view: FeatureView) -> pa.Schema:
    """The columns of the view's table with the types that the view declares, and both times."""
    columns = [
        (field.name, in_zone(arrow_type(field.dtype), None))
        for field in view.schema
        if field.name != DUMMY_ENTITY_ID
    ]
    return pa.schema([*columns, (EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))])


def refuse_mark(view: FeatureView) -> None:
    """Raise `InvalidDeclaration` where a feature has the name of the column that withdraws rows,
    which would be taken for it.
    """
    if any(field.name == WITHDRAWN for field in view.schema):
        raise InvalidDeclaration(
            f"view '{view.name}'",
            [
                f"'{WITHDRAWN}' is the column of tables that marks withdrawals (Table.publish);"
                " call it otherwise."
            ],
        )


def given_out(
    view: str, path: str, column: str, found: pa.DataType, declared: pa.DataType
) -> pa.DataType:
    """The type in which a column of a file is given out: the declared one where that is only wider,
    else the file's; times in UTC.

    Raises `BrokenTable` where the file's type is not what the view declares.
    """
    plain = in_zone(found.value_type if pa.types.is_dictionary(found) else found, "UTC")
    if plain == declared or pa.types.is_null(plain):
        return declared
    if pa.types.is_null(declared) or pa.types.is_map(declared) or pa.types.is_struct(declared):
        return plain
    kind = kind_of(declared)
    if kind_of(plain) == kind:
        if kind in ("text", "bytes") or (
            kind in ("integer", "number") and plain.bit_width <= declared.bit_width
        ):
            return declared
        if kind == "timestamp":
            return plain
        if kind == "list":
            return pa.list_(given_out(view, path, column, plain.value_type, declared.value_type))
    raise BrokenTable(
        f"view '{view}' declares column '{column}' as {declared}; in {path} it is {found}. Build"
        " the table again."
    )


def in_zone(type_: pa.DataType, zone: str | None) -> pa.DataType:
    """The type with all times in it in a zone, or in none."""
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
    """Feast's Arrow type for one of its own; null for the few that it has none for."""
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
    """Raise where a file lacks a column, or has keys or times that SQL would take for others."""
    missing = [
        name for name in dict.fromkeys([*keys, *features, *times]) if name not in schema.names
    ]
    if missing:
        raise BrokenTable(
            f"view '{view.name}' declares {', '.join(missing)}, which {path} does not have. "
            "Build the table again after changing its definition: punctual features build."
        )
    # Features are read by their exact names; keys and times in SQL, which would take the first of
    # two that differ in case.
    for name in (*keys, *times):
        alike = [other for other in schema.names if other.lower() == name.lower()]
        if len(alike) > 1:
            raise BrokenTable(
                f"view '{view.name}', file {path}: columns {', '.join(alike)} differ only in case;"
                f" rename all but '{name}'."
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
            _refuse_parts_of_microseconds(view, path, name)


def _refuse_parts_of_microseconds(view: FeatureView, path: str, column: str) -> None:
    """Raise where a column of nanoseconds is not of whole microseconds: cut, its rows would be
    shown too early; DuckDB 2 rounds them.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[column]):
                parts = (
                    batch[0].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) % 1_000
                )
                if parts.any():
                    finer = batch[0][int(parts.argmax())]
                    raise BrokenTable(
                        f"view '{view.name}', file {path}: column '{column}' has {finer}, which is"
                        " no whole microsecond;"
                        " round its times up to microseconds."
                    )
    except (OSError, pa.ArrowException) as error:
        raise BrokenTable(f"view '{view.name}': {path} cannot be read: {error}.") from error
