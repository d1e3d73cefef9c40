"""The types that a declared column may have, and what each of them is in DuckDB, Feast, Arrow and
JSON.

Sources, events, windows, requests and frames all read this one table.
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
MOST_DIGITS = 18
# A decimal of more digits than these has no double of its own.
_DOUBLE_DIGITS = 15


class UnknownColumnType(PunctualError):
    """A declared type that the platform does not carry from a source to a prediction."""


@dataclass(frozen=True)
class ColumnType:
    """A DuckDB type and its counterparts.

    `feast` names the Feast type of a feature, join key or request column of this type. Where it is
    empty (dates, times of day, decimals of more than 15 digits), Feast has no type that keeps the
    value, and the column may be an id, a measure or a label only. `digits` is how many digits an
    exact number has behind the point, None for all that is no exact number.
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
            return pa.decimal128(MOST_DIGITS, self.digits or 0)
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
# The types of request columns, by the name that Feast gives them.
_OF_FEAST = {
    "Bool": "BOOLEAN",
    "Int32": "INTEGER",
    "Int64": "BIGINT",
    "Float32": "FLOAT",
    "Float64": "DOUBLE",
    "String": "VARCHAR",
    "UnixTimestamp": "TIMESTAMPTZ",
}
KNOWN = (
    f"{', '.join(_TYPES)}, DECIMAL(digits, digits behind the point) of up to {MOST_DIGITS} digits"
)


@cache
def column_type(declared: str) -> ColumnType:
    """The type that a declaration names, in any case and by any of DuckDB's names for it.

    Raises `UnknownColumnType` with the types that there are.
    """
    text = " ".join(declared.upper().split())
    if match := re.fullmatch(r"(?:DECIMAL|NUMERIC|DEC)(?: ?\( ?(\d+) ?(?:, ?(\d+) ?)?\))?", text):
        return _decimal(declared, match[1], match[2])
    text = re.sub(r"^(VARCHAR|CHAR|BPCHAR|NVARCHAR) ?\( ?\d+ ?\)$", r"\1", text)
    found = _TYPES.get(_ALIASES.get(text, text))
    if found is None:
        raise UnknownColumnType(
            f"type '{declared}' is not one of {KNOWN}. Declare one of these; for a source's column"
            " VARCHAR takes every text, which the events' SQL can cast."
        )
    return found


def _decimal(declared: str, width: str | None, scale: str | None) -> ColumnType:
    """DuckDB's DECIMAL alone is DECIMAL(18, 3), and DECIMAL(9) is DECIMAL(9, 0)."""
    digits, behind = (int(width), int(scale or 0)) if width else (MOST_DIGITS, 3)
    if not 1 <= digits <= MOST_DIGITS or behind > digits:
        raise UnknownColumnType(
            f"type '{declared}' is a decimal of {digits} digits, {behind} of them behind the point;"
            f" expected 1 to {MOST_DIGITS} digits, so that sums of them are exact."
        )
    feast = "Float64" if digits <= _DOUBLE_DIGITS else ""
    return ColumnType(f"DECIMAL({digits}, {behind})", "decimal", feast, "decimal128", behind)


def type_of_feast(name: str) -> ColumnType | None:
    """The type of a join key or request column by the name of its Feast type, None for others."""
    return _TYPES.get(_OF_FEAST.get(name, ""))
