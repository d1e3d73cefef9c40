"""The bytes of a packed online record: one codec for every view, type and backend.

    record = format (1 byte) · schema (4) · row … · CRC-32 (4)
    row    = event (8) · created (8) · null bits · a cell per feature · what has no fixed width

Numbers, booleans and moments are cells of their own width at a fixed distance from the row's begin,
so that NumPy picks them from many records at once: nothing is parsed. Text, bytes and everything
nested stand behind the cells; their cell is where they end. All is little-endian. A record holds
several rows where some are not yet effective.
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

# What CRC-32 gives for any bytes that end with their own CRC-32: one pass checks without cutting.
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
    """How a type is kept: its cell in `struct`'s and NumPy's words, and the Arrow type that has it,
    or what makes bytes of a value.
    """

    cell: str
    field: str
    arrow: pa.DataType | None
    is_variable: bool = False
    decode: Callable[[Any], Any] | None = None
    encode: Callable[[Any], bytes] | None = None


def _json(value: Any) -> bytes:
    """Text is kept as it is: tables hold JSON so, and a number in it may be longer than
    MessagePack's.
    """
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _zoned(value: Any) -> bytes:
    """A moment, and its zone's name; minutes east of Greenwich where it has none, and for UTC."""
    moment: datetime = _utc(value)
    name = getattr(moment.tzinfo, "key", None) or getattr(moment.tzinfo, "zone", None)
    offset = moment.utcoffset() or timedelta(0)
    return _encode(
        [moment.astimezone(UTC), offset // timedelta(minutes=1) if name in (None, "UTC") else name]
    )


def _from_zoned(data: bytes) -> datetime:
    moment, zone = _decode(data)
    at: datetime = moment.astimezone(
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
    """The layout of one view's records. `schema` is a fingerprint of 32 bits: a record of another
    one is refused.
    """

    def __init__(self, types: Sequence[FeastType], schema: int) -> None:
        self.kinds = [_KINDS.get(type_, _NESTED) for type_ in types]
        self.schema = schema
        #: How many bytes the null bits take; the bit behind the features' says that the row is withdrawn.
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
        #: The length of a record of one row, where every row is equally long; else None.
        self.single = START + self._row.size + TAIL if not self.variable else None

    @cached_property
    def row_fields(self) -> np.dtype:
        """A row's fixed part as NumPy sees it: `event`, `created`, `nulls`, and a field per feature
        by its number.
        """
        cells = [(str(index), kind.field) for index, kind in enumerate(self.kinds)]
        return np.dtype(
            [("event", "<i8"), ("created", "<i8"), ("nulls", "u1", (self.null_bytes,)), *cells]
        )

    @property
    def offsets(self) -> dict[str, int]:
        """Where the fields of `row_fields` begin in a row."""
        return {name: field[1] for name, field in (self.row_fields.fields or {}).items()}

    @property
    def nothing(self) -> bytes:
        """A row that was withdrawn and has no value."""
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
        """The rows' bytes: a column per feature, in their order, and the times in microseconds.

        Raises Arrow's error where a column cannot be what its feature is declared to be.
        """
        fixed = np.zeros(len(events), self.row_fields)
        fixed["event"], fixed["created"] = events, created
        if withdrawn is not None:
            index = len(self.kinds)
            fixed["nulls"][:, index >> 3] |= withdrawn.astype(np.uint8) << (index & 7)
        behind: list[pa.Array] = []
        ends = np.zeros(len(events), np.int64)
        for index, (kind, column) in enumerate(zip(self.kinds, columns, strict=True)):
            cells = _cells(kind, column)
            if cells.null_count:
                missing = cells.is_null().to_numpy(zero_copy_only=False)
                fixed["nulls"][:, index >> 3] |= missing.astype(np.uint8) << (index & 7)
            if kind.is_variable:
                data = cells.cast(pa.large_binary()).fill_null(b"")
                behind.append(data)
                ends += pc.binary_length(data).to_numpy(zero_copy_only=False)
                fixed[str(index)] = ends
            else:
                fixed[str(index)] = _plain(cells)
        packed, size = fixed.tobytes(), self._row.size
        front = [packed[start : start + size] for start in range(0, len(packed), size)]
        if not behind:
            return front
        rest = (
            pc.binary_join_element_wise(*behind, pa.scalar(b"", pa.large_binary()))
            if len(behind) > 1
            else behind[0]
        )
        return [one + other for one, other in zip(front, rest.to_pylist(), strict=True)]

    def record(self, rows: Sequence[bytes]) -> bytes:
        """The record of rows' bytes."""
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
        """Raise `CorruptRecord` unless these are the bytes of a record of this layout."""
        if zlib.crc32(record) != INTACT or len(record) < START + self._row.size + TAIL:
            raise CorruptRecord(f"its checksum is wrong ({len(record)} bytes)")
        if not record.startswith(self.head):
            format_, schema = _HEAD.unpack_from(record)
            raise CorruptRecord(
                f"it is of format {format_} and schema {schema:08x}, expected {FORMAT} and"
                f" {self.schema:08x}"
            )

    def split(self, record: bytes) -> list[PackedRow]:
        """The record's rows in their order. Raises `CorruptRecord`."""
        return [
            PackedRow(event, created, record[start:stop])
            for event, created, start, stop in self._rows_of(record)
        ]

    def _rows_of(self, record: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Each row's two times, and where it begins and ends."""
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
            # What is behind the cells ends where the last feature of variable width does.
            length += int(self._row.unpack_from(record, offset)[3 + self.variable[-1]])
        if length > room:
            raise CorruptRecord(f"a row of it goes on behind its end ({len(record)} bytes)")
        return length

    def row_bounds_at(self, record: bytes, at: int) -> tuple[int, int] | None:
        """Where the newest row begins and ends that is effective at a moment (microseconds); None
        before the first.

        Raises `CorruptRecord`.
        """
        if len(record) == self.single:
            self.check(record)
            event, created = _TIMES.unpack_from(record, START)
            return (START, len(record) - TAIL) if event <= at and created <= at else None
        newest: tuple[int, int, int, int] | None = None
        for row in self._rows_of(record):
            if row[0] <= at and row[1] <= at and (newest is None or row[:2] > newest[:2]):
                newest = row
        return newest[2:] if newest else None

    def row_at(self, record: bytes, at: int) -> bytes | None:
        """The bytes of that row."""
        index = self.row_bounds_at(record, at)
        return record[slice(*index)] if index else None

    def times(self, row: bytes) -> tuple[int, int]:
        """Event and created time of a row, in microseconds."""
        event, created = _TIMES.unpack_from(row)
        return event, created

    def is_withdrawn(self, row: bytes) -> bool:
        """Whether the row says that there is none any more."""
        index = len(self.kinds)
        return bool(row[16 + (index >> 3)] >> (index & 7) & 1)

    def values(self, row: bytes) -> list[Any]:
        """A row's values: as they were written, None where null, moments aware."""
        _, _, nulls, *cells = self._row.unpack_from(row)
        for index, decode in self._decoded:
            cells[index] = decode(cells[index])
        start = self._row.size
        for index in self.variable:
            end = self._row.size + cells[index]
            kind = self.kinds[index]
            data = row[start:end]
            # Nothing is an empty text, or a null, whose bit says so.
            cells[index] = data if kind.decode is None else kind.decode(data) if data else ""
            start = end
        if nulls != self._no_nulls:
            bits = int.from_bytes(nulls, "little")
            for index in range(len(cells)):
                if bits >> index & 1:
                    cells[index] = None
        return cells


def _cells(kind: _Kind, column: pa.Array | list[Any]) -> pa.Array:
    """The column as an array of the kind's own Arrow type; nested values as MessagePack."""
    if kind.encode is not None:
        return _encoded(kind.encode, column)
    if isinstance(column, list):
        if pa.types.is_integer(kind.arrow) and any(isinstance(value, float) for value in column):
            raise pa.ArrowInvalid(
                "a number with a fraction where an integer is expected"
            )  # Arrow would cut it off
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
    """The value with naive moments in UTC, which is what tables hold, however deep they are."""
    if isinstance(value, datetime):
        return assume_utc(value)
    if isinstance(value, (list, tuple, set)):
        return [_utc(each) for each in value]
    return {name: _utc(each) for name, each in value.items()} if isinstance(value, dict) else value


def _plain(cells: pa.Array) -> np.ndarray:
    """The array's numbers, NaN or zero where null."""
    if pa.types.is_timestamp(cells.type):
        cells = cells.cast(pa.int64())
    if cells.null_count:
        cells = cells.fill_null(
            float("nan")
            if pa.types.is_floating(cells.type)
            else pa.scalar(0, pa.int64()).cast(cells.type)
        )
    return cells.to_numpy(zero_copy_only=False)
