"""The bytes of a packed online record: one codec for every view, type and backend.

    record = format (1 byte) · schema (4) · row … · CRC-32 (4)
    row    = event (8) · created (8) · null bits · a cell per feature · variable part

Numbers, booleans and timestamps are cells of their own width at a fixed offset in the row, so that
NumPy reads them from many records at once without parsing. Text, bytes and nested values are in the
variable part; their cell is the offset of their end in it. All numbers are little-endian. A record
holds several rows if some are not yet effective.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.types import (
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    PdfBytes,
    String,
    UnixTimestamp,
    ZonedTimestamp,
)

from punctual.times import assume_utc, from_micros, micros
from stores.online.packed_row import FORMAT, CorruptRecord, PackedRow

# The CRC-32 of any bytes that end with their own CRC-32, so that a check needs no slice.
INTACT = zlib.crc32(b"\x00\x00\x00\x00")
_HEAD = struct.Struct("<BI")
_TIMES = struct.Struct("<qq")
_CRC = struct.Struct("<I")
TAIL = _CRC.size
START = _HEAD.size

Column = pa.Array | list[Any]
Times = np.ndarray | Sequence[int]

_FIRST, _LAST = micros(datetime.min.replace(tzinfo=UTC)), micros(datetime.max.replace(tzinfo=UTC))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True)
class _Kind:
    """The encoding of a type.

    `cell` and `field` are the cell's `struct` and NumPy formats. The values come from an array of
    the Arrow type, or from `encode` for each value.
    """

    cell: str
    field: str
    arrow: pa.DataType | None
    is_variable: bool = False
    decode: Callable[[Any], Any] | None = None
    encode: Callable[[Any], bytes] | None = None


def _json(value: Any) -> bytes:
    """JSON text as it is: its numbers may have more digits than MessagePack's."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _zoned(value: Any) -> bytes:
    """A timestamp with its zone's name, or minutes east of Greenwich if unnamed or UTC."""
    timestamp: datetime = _utc(value)
    name = getattr(timestamp.tzinfo, "key", None) or getattr(timestamp.tzinfo, "zone", None)
    offset = timestamp.utcoffset() or timedelta(0)
    return _encode(
        [
            timestamp.astimezone(UTC),
            offset // timedelta(minutes=1) if name in (None, "UTC") else name,
        ]
    )


def _from_zoned(data: bytes) -> datetime:
    timestamp, zone = _decode(data)
    at: datetime = timestamp.astimezone(
        ZoneInfo(zone) if isinstance(zone, str) else timezone(timedelta(minutes=zone))
    )
    return at


_NESTED = _Kind(
    "I", "<u4", None, is_variable=True, decode=_decode, encode=lambda value: _encode(_utc(value))
)
_RAW = _Kind("I", "<u4", pa.binary(), is_variable=True)
_KINDS: dict[FeastType, _Kind] = {
    Int32: _Kind("i", "<i4", pa.int32()),
    Int64: _Kind("q", "<i8", pa.int64()),
    Float32: _Kind("f", "<f4", pa.float32()),
    Float64: _Kind("d", "<f8", pa.float64()),
    Bool: _Kind("?", "?", pa.bool_()),
    UnixTimestamp: _Kind("q", "<i8", pa.timestamp("us", "UTC"), decode=from_micros),
    String: _Kind(
        "I", "<u4", pa.string(), is_variable=True, decode=lambda data: str(data, "utf-8")
    ),
    Json: _Kind(
        "I", "<u4", None, is_variable=True, decode=lambda data: str(data, "utf-8"), encode=_json
    ),
    ZonedTimestamp: _Kind("I", "<u4", None, is_variable=True, decode=_from_zoned, encode=_zoned),
    Bytes: _RAW,
    PdfBytes: _RAW,
    ImageBytes: _RAW,
}


class Layout:
    """The layout of one view's records; records with another 32-bit `schema` are refused."""

    def __init__(self, types: Sequence[FeastType], schema: int) -> None:
        self.kinds = [_KINDS.get(type_, _NESTED) for type_ in types]
        self.schema = schema
        #: The number of bytes of null bits. The bit after the features' marks a withdrawn row.
        self.null_bytes = len(self.kinds) // 8 + 1
        self._no_nulls = bytes(self.null_bytes)
        self._withdrawn = 1 << len(self.kinds)
        self.head = _HEAD.pack(FORMAT, schema)
        cells = "".join(kind.cell for kind in self.kinds)
        self._row = struct.Struct(f"<qq{self.null_bytes}s{cells}")
        self.variable = [index for index, kind in enumerate(self.kinds) if kind.is_variable]
        self._decoded = [
            (index, kind.decode)
            for index, kind in enumerate(self.kinds)
            if kind.decode and not kind.is_variable
        ]
        #: The length of a record of one row if all rows have the same length, else None.
        self.one_row_length = START + self._row.size + TAIL if not self.variable else None

    @cached_property
    def row_fields(self) -> np.dtype:
        """The NumPy type of a row's fixed part: `event`, `created`, `nulls`, and "0", "1", … per
        feature.
        """
        cells = [(str(index), kind.field) for index, kind in enumerate(self.kinds)]
        return np.dtype(
            [("event", "<i8"), ("created", "<i8"), ("nulls", "u1", (self.null_bytes,)), *cells]
        )

    @property
    def offsets(self) -> dict[str, int]:
        """The offsets of the fields of `row_fields` in a row."""
        return {name: field[1] for name, field in (self.row_fields.fields or {}).items()}

    @property
    def withdrawn_row(self) -> bytes:
        """A withdrawn row without values."""
        nulls = (2 * self._withdrawn - 1).to_bytes(self.null_bytes, "little")
        return bytes(_TIMES.size) + nulls + bytes(self._row.size - _TIMES.size - self.null_bytes)

    # From values to bytes.

    def rows(
        self,
        columns: Sequence[pa.Array | list[Any]],
        events: Times,
        created: Times,
        withdrawn: np.ndarray | None = None,
    ) -> list[bytes]:
        """The bytes of rows, from a column per feature and the times in microseconds.

        Raises `pa.ArrowException` if a column does not fit its feature's declared type.
        """
        fixed = np.zeros(len(events), self.row_fields)
        fixed["event"], fixed["created"] = events, created
        if withdrawn is not None:
            bit = len(self.kinds)
            fixed["nulls"][:, bit >> 3] |= withdrawn.astype(np.uint8) << (bit & 7)
        variable: list[pa.Array] = []
        ends = np.zeros(len(events), np.int64)
        for index, (kind, column) in enumerate(zip(self.kinds, columns, strict=True)):
            cells = _cells(kind, column)
            if cells.null_count:
                missing = cells.is_null().to_numpy(zero_copy_only=False)
                fixed["nulls"][:, index >> 3] |= missing.astype(np.uint8) << (index & 7)
            if kind.is_variable:
                data = cells.cast(pa.large_binary()).fill_null(b"")
                variable.append(data)
                ends += pc.binary_length(data).to_numpy(zero_copy_only=False)
                fixed[str(index)] = ends
            else:
                fixed[str(index)] = _plain(cells)
        packed, size = fixed.tobytes(), self._row.size
        fixed_parts = [packed[start : start + size] for start in range(0, len(packed), size)]
        if not variable:
            return fixed_parts
        variable_parts = (
            pc.binary_join_element_wise(*variable, pa.scalar(b"", pa.large_binary()))
            if len(variable) > 1
            else variable[0]
        )
        return [
            fixed_part + variable_part
            for fixed_part, variable_part in zip(
                fixed_parts, variable_parts.to_pylist(), strict=True
            )
        ]

    def record(self, rows: Sequence[bytes]) -> bytes:
        """One record of several rows."""
        body = self.head + (rows[0] if len(rows) == 1 else b"".join(rows))
        return body + zlib.crc32(body).to_bytes(4, "little")

    def records(self, rows: Sequence[bytes]) -> list[bytes]:
        """A record for each row."""
        head, checksum = self.head, zlib.crc32
        bodies = [head + row for row in rows]
        checksums = np.fromiter(map(checksum, bodies), "<u4", len(bodies)).tobytes()
        return [
            body + checksums[start : start + TAIL]
            for body, start in zip(bodies, range(0, len(checksums), TAIL), strict=True)
        ]

    # From bytes to values.

    def check(self, record: bytes) -> None:
        """Raise `CorruptRecord` unless the bytes are an intact record of this layout."""
        if zlib.crc32(record) != INTACT or len(record) < START + self._row.size + TAIL:
            raise CorruptRecord(f"its checksum is wrong ({len(record)} bytes)")
        if not record.startswith(self.head):
            format_, schema = _HEAD.unpack_from(record)
            raise CorruptRecord(
                f"its format is {format_} and its schema {schema:08x}, expected {FORMAT} and"
                f" {self.schema:08x}"
            )

    def split(self, record: bytes) -> list[PackedRow]:
        """The record's rows, in order. Raises `CorruptRecord`."""
        return [
            PackedRow(event, created, record[start:stop])
            for event, created, start, stop in self._rows_of(record)
        ]

    def _rows_of(self, record: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Event time, created time, start and end of each row."""
        self.check(record)
        start, end = START, len(record) - TAIL
        while start < end:
            stop = start + self._length(record, start)
            event, created = _TIMES.unpack_from(record, start)
            yield event, created, start, stop
            start = stop

    def _length(self, record: bytes, offset: int) -> int:
        room = len(record) - TAIL - offset
        length = self._row.size
        if self.variable and length <= room:
            # The last variable cell is the length of the variable part.
            length += int(self._row.unpack_from(record, offset)[3 + self.variable[-1]])
        if length > room:
            raise CorruptRecord(f"a row extends beyond the end of the record ({len(record)} bytes)")
        return length

    def row_bounds_at(self, record: bytes, at: int) -> tuple[int, int] | None:
        """Start and end of the newest row that is effective at `at` (microseconds).

        None if none is yet effective. Raises `CorruptRecord`.
        """
        if len(record) == self.one_row_length:
            self.check(record)
            event, created = _TIMES.unpack_from(record, START)
            return (START, len(record) - TAIL) if event <= at and created <= at else None
        newest: tuple[int, int, int, int] | None = None
        for row in self._rows_of(record):
            if row[0] <= at and row[1] <= at and (newest is None or row[:2] > newest[:2]):
                newest = row
        return newest[2:] if newest else None

    def row_at(self, record: bytes, at: int) -> bytes | None:
        """The newest row that is effective at `at`, as `row_bounds_at` finds it."""
        bounds = self.row_bounds_at(record, at)
        return record[slice(*bounds)] if bounds else None

    def times(self, row: bytes) -> tuple[int, int]:
        """The event and created times of a row, in microseconds."""
        event, created = _TIMES.unpack_from(row)
        return event, created

    def is_withdrawn(self, row: bytes) -> bool:
        """Whether the row withdraws the entity's earlier rows."""
        bit = len(self.kinds)
        return bool(row[_TIMES.size + (bit >> 3)] >> (bit & 7) & 1)

    def values(self, row: bytes) -> list[Any]:
        """A row's values as they were written; None for null, timestamps aware."""
        _, _, nulls, *cells = self._row.unpack_from(row)
        for index, decode in self._decoded:
            cells[index] = decode(cells[index])
        start = self._row.size
        for index in self.variable:
            end = self._row.size + cells[index]
            kind = self.kinds[index]
            data = row[start:end]
            # No bytes are an empty text, or a null, which the null bits below replace.
            cells[index] = data if kind.decode is None else kind.decode(data) if data else ""
            start = end
        if nulls != self._no_nulls:
            bits = int.from_bytes(nulls, "little")
            for index in range(len(cells)):
                if bits >> index & 1:
                    cells[index] = None
        return cells


def _cells(kind: _Kind, column: pa.Array | list[Any]) -> pa.Array:
    """The column as an array of the kind's Arrow type, or encoded value by value."""
    if kind.encode is not None:
        return _encoded(kind.encode, column)
    if isinstance(column, list):
        if pa.types.is_integer(kind.arrow) and any(isinstance(value, float) for value in column):
            # Arrow would truncate them.
            raise pa.ArrowInvalid("a float where an integer is expected")
        return pa.array(column, kind.arrow)
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = column.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    cells = column if column.type == kind.arrow else column.cast(kind.arrow)
    if kind.decode is from_micros and len(cells) > cells.null_count:
        first, last = pc.min_max(cells.cast(pa.int64())).as_py().values()
        if first < _FIRST or last > _LAST:
            raise pa.ArrowInvalid("a timestamp is not between the years 1 and 9999")
    return cells


def _encoded(encode: Callable[[Any], bytes], column: pa.Array | list[Any]) -> pa.Array:
    try:
        values = column if isinstance(column, list) else column.to_pylist(maps_as_pydicts="strict")
        return pa.array(
            [None if value is None else encode(value) for value in values], pa.large_binary()
        )
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise pa.ArrowInvalid(f"{type(error).__name__}: {error}") from error


def _utc(value: Any) -> Any:
    """The value with naive timestamps, nested ones too, taken for UTC, as in tables."""
    if isinstance(value, datetime):
        return assume_utc(value)
    if isinstance(value, (list, tuple, set)):
        return [_utc(each) for each in value]
    return {name: _utc(each) for name, each in value.items()} if isinstance(value, dict) else value


def _plain(cells: pa.Array) -> np.ndarray:
    """The array as numbers; NaN or zero for null."""
    if pa.types.is_timestamp(cells.type):
        cells = cells.cast(pa.int64())
    if cells.null_count:
        cells = cells.fill_null(
            float("nan")
            if pa.types.is_floating(cells.type)
            else pa.scalar(0, pa.int64()).cast(cells.type)
        )
    return cells.to_numpy(zero_copy_only=False)
