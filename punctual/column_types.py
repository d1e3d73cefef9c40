"""The types that a declared column may have, with their DuckDB, Feast and Arrow counterparts.

Sources, events, windows, requests and frames all use this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from punctual.errors import PunctualError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["boolean", "integer", "decimal", "float", "text", "date", "time", "timestamp"]
MAX_DIGITS = 18
# A double represents every decimal of up to 15 digits, and not every longer one.
_DOUBLE_DIGITS = 15


class UnknownColumnType(PunctualError):
    """A declared type that the platform does not support."""


@dataclass(frozen=True)
class ColumnType:
    """A DuckDB type and its counterparts.

    `feast` is the name of the Feast type of a feature, join key or request column of this type. It
    is empty if Feast has no type that represents every value exactly (dates, times of day, decimals
    of more than 15 digits): such a column may only be an id, a measure or a label. `digits` is the
    number of digits after the decimal point of an integer or decimal, None for other kinds. `low`
    and `high` are the bounds of an integer, 0 for other kinds.
    """

    duckdb: str
    kind: Kind
    feast: str
    arrow_name: str
    digits: int | None = None
    low: int = 0
    high: int = 0

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type; timestamps are microseconds in UTC."""
        import pyarrow as pa

        if self.kind == "timestamp":
            return pa.timestamp("us", "UTC")
        if self.kind == "decimal":
            return pa.decimal128(MAX_DIGITS, self.digits or 0)
        if self.kind == "time":
            return pa.time64("us")
        return pa.type_for_alias(self.arrow_name)

    @property
    def is_exact(self) -> bool:
        """Whether sums of this type do not depend on the order of rows: integers and decimals."""
        return self.digits is not None


def _integer(name: str, bits: int, *, signed: bool = True) -> ColumnType:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return ColumnType(name, "integer", "Int64", f"{'' if signed else 'u'}int{bits}", 0, low, high)


_TYPES: Mapping[str, ColumnType] = {
    each.duckdb: each
    for each in (
        ColumnType("BOOLEAN", "boolean", "Bool", "bool"),
        _integer("TINYINT", 8),
        _integer("SMALLINT", 16),
        _integer("INTEGER", 32),
        _integer("BIGINT", 64),
        _integer("UTINYINT", 8, signed=False),
        _integer("USMALLINT", 16, signed=False),
        _integer("UINTEGER", 32, signed=False),
        ColumnType("FLOAT", "float", "Float32", "float32"),
        ColumnType("DOUBLE", "float", "Float64", "float64"),
        ColumnType("VARCHAR", "text", "String", "string"),
        ColumnType("DATE", "date", "", "date32"),
        ColumnType("TIME", "time", "", "time64"),
        ColumnType("TIMESTAMP", "timestamp", "UnixTimestamp", "timestamp"),
        ColumnType("TIMESTAMPTZ", "timestamp", "UnixTimestamp", "timestamp"),
    )
}
_ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("BOOL", "LOGICAL"), "BOOLEAN"),
    **dict.fromkeys(("INT1",), "TINYINT"),
    **dict.fromkeys(("INT2", "SHORT", "INT16"), "SMALLINT"),
    **dict.fromkeys(("INT", "INT4", "SIGNED", "INT32"), "INTEGER"),
    **dict.fromkeys(("INT8", "LONG", "INT64"), "BIGINT"),
    "UINT8": "UTINYINT",
    "UINT16": "USMALLINT",
    "UINT32": "UINTEGER",
    **dict.fromkeys(("REAL", "FLOAT4"), "FLOAT"),
    **dict.fromkeys(("FLOAT8", "DOUBLE PRECISION"), "DOUBLE"),
    **dict.fromkeys(("TEXT", "STRING", "CHAR", "BPCHAR", "NVARCHAR"), "VARCHAR"),
    **dict.fromkeys(("DATETIME", "TIMESTAMP_US", "TIMESTAMP WITHOUT TIME ZONE"), "TIMESTAMP"),
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
    "TIME WITHOUT TIME ZONE": "TIME",
}
# The types of request columns, by the name of the Feast type.
_OF_FEAST = {
    "Bool": "BOOLEAN",
    "Int32": "INTEGER",
    "Int64": "BIGINT",
    "Float32": "FLOAT",
    "Float64": "DOUBLE",
    "String": "VARCHAR",
    "UnixTimestamp": "TIMESTAMPTZ",
}
KNOWN_TYPES = (
    f"{', '.join(_TYPES)}, DECIMAL(digits, digits after the point) of up to {MAX_DIGITS} digits"
)


@cache
def column_type(declared: str) -> ColumnType:
    """The type with a declared name: any of DuckDB's names for it, in upper or lower case.

    Raises `UnknownColumnType`, which lists the supported types.
    """
    text = " ".join(declared.upper().split())
    if match := re.fullmatch(r"(?:DECIMAL|NUMERIC|DEC)(?: ?\( ?(\d+) ?(?:, ?(\d+) ?)?\))?", text):
        return _decimal(declared, match[1], match[2])
    text = re.sub(r"^(VARCHAR|CHAR|BPCHAR|NVARCHAR) ?\( ?\d+ ?\)$", r"\1", text)
    found = _TYPES.get(_ALIASES.get(text, text))
    if found is None:
        raise UnknownColumnType(
            f"type '{declared}' is not one of {KNOWN_TYPES}. Declare one of these; a source's"
            " column can be VARCHAR, which accepts every text and which the events' SQL can cast."
        )
    return found


def _decimal(declared: str, width: str | None, scale: str | None) -> ColumnType:
    """A decimal type. As in DuckDB, DECIMAL is DECIMAL(18, 3) and DECIMAL(9) is DECIMAL(9, 0)."""
    digits, after_point = (int(width), int(scale or 0)) if width else (MAX_DIGITS, 3)
    if not 1 <= digits <= MAX_DIGITS or after_point > digits:
        raise UnknownColumnType(
            f"type '{declared}' is a decimal of {digits} digits, {after_point} of them after the"
            f" point; expected 1 to {MAX_DIGITS} digits, so that sums of them are exact."
        )
    feast = "Float64" if digits <= _DOUBLE_DIGITS else ""
    name = f"DECIMAL({digits}, {after_point})"
    return ColumnType(name, "decimal", feast, "decimal128", after_point)


def type_of_feast(name: str) -> ColumnType | None:
    """The type of a join key or request column by its Feast type; None if it is not supported."""
    return _TYPES.get(_OF_FEAST.get(name, ""))
