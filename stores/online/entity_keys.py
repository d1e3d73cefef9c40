"""Entity keys as bytes that sort as the keys do, so that records can be stored in key order."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
from feast.types import (
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    TimeUuid,
    UnixTimestamp,
    Uuid,
)

from punctual.errors import InvalidRequest
from punctual.times import assume_utc, micros

_SIGN = 1 << 63
_pack = struct.Struct(">Q").pack
_encode = msgspec.msgpack.Encoder().encode


def _integer(value: Any) -> bytes:
    if value is True or value is False:
        raise TypeError("expected an integer")
    return _pack(value.__index__() + _SIGN)


def _number(value: Any, form: str) -> bytes:
    """A float of the given struct format; 1 equals 1.0, and -0.0 equals 0.0."""
    if value is True or value is False or isinstance(value, str):
        raise TypeError("expected a number")
    packed = struct.pack(form, float(value) + 0.0)
    bits = int.from_bytes(packed, "big")
    sign = 1 << 8 * len(packed) - 1
    # Inverting the bits of negative floats and setting the sign bit of others sorts both.
    return (2 * sign - 1 - bits if bits & sign else bits + sign).to_bytes(len(packed), "big")


def _uuid(value: Any) -> bytes:
    return (value if isinstance(value, UUID) else UUID(value)).bytes


def _moment(value: Any) -> bytes:
    if not isinstance(value, datetime):
        raise TypeError("expected a datetime")
    return _pack(micros(assume_utc(value)) + _SIGN)


def _boolean(value: Any) -> bytes:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError("expected a boolean")
    return b"\x01" if value else b"\x00"


_PARTS: dict[FeastType, Callable[[Any], bytes]] = {
    Int32: _integer,
    Int64: _integer,
    UnixTimestamp: _moment,
    Bool: _boolean,
    Float32: lambda value: _number(value, ">f"),
    Float64: lambda value: _number(value, ">d"),
    Uuid: _uuid,
    TimeUuid: _uuid,
    String: lambda value: str.encode(value, "utf-8"),
    Bytes: lambda value: b"".join((value,)),  # raises TypeError unless the value is bytes
}
# The errors that a value of another type than its key's raises.
_WRONG_TYPE = (TypeError, ValueError, AttributeError, struct.error, OverflowError)
_FIXED = (Int32, Int64, UnixTimestamp, Bool, Float32, Float64, Uuid, TimeUuid)


class EntityKeys:
    """The encoder of a view's keys, from its join keys, sorted by name, and their types."""

    def __init__(self, names: Sequence[str], types: Sequence[FeastType]) -> None:
        self.names = tuple(names)
        self.types = tuple(types)
        # Other types are encoded without loss, but their bytes do not sort as the values do.
        self._parts = [_PARTS.get(type_, _encode) for type_ in types]
        # A part of variable length needs a terminator, unless it is the last.
        self._is_terminated = [
            type_ not in _FIXED and index < len(types) - 1 for index, type_ in enumerate(types)
        ]

    @property
    def is_integer(self) -> bool:
        """Whether a key is one integer: 8 bytes, big-endian, its value plus 2^63."""
        return len(self._parts) == 1 and self._parts[0] in (_integer, _moment)

    def encode(self, values: Sequence[Any]) -> bytes | None:
        """The key of one entity; None if a part is null.

        Raises `InvalidRequest` if a value is not of its key's type.
        """
        key = b""
        for index, value in enumerate(values):
            if value is None:
                return None
            try:
                part = self._parts[index](value)
            except _WRONG_TYPE as error:
                raise InvalidRequest(
                    f"join key '{self.names[index]}' = {value!r} ({type(value).__name__}) is not"
                    f" of type {self.types[index]}."
                ) from error
            key += (
                part.replace(b"\x00", b"\x00\xff") + b"\x00\x00"
                if self._is_terminated[index]
                else part
            )
        return key

    def encode_all(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The keys of many entities, from a column per join key; faster than `encode` for each."""
        try:
            if not any(None in values for values in columns):
                return self._encode_all(columns)
        except _WRONG_TYPE:
            pass  # `encode` names the value that is wrong
        return [self.encode(values) for values in zip(*columns, strict=True)]

    def _encode_all(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        if self._parts == [_integer] and set(map(type, columns[0])) == {int}:
            packed = struct.pack(f">{len(columns[0])}Q", *[value + _SIGN for value in columns[0]])
            return [packed[start : start + 8] for start in range(0, len(packed), 8)]
        parts = [list(map(part, values)) for part, values in zip(self._parts, columns, strict=True)]
        for index, is_terminated in enumerate(self._is_terminated):
            if is_terminated:
                parts[index] = [
                    part.replace(b"\x00", b"\x00\xff") + b"\x00\x00" for part in parts[index]
                ]
        return list(map(b"".join, zip(*parts, strict=True)))

    def encode_columns(self, columns: Sequence[pa.Array]) -> list[bytes | None]:
        """The keys of many entities, from an Arrow column per join key."""
        if (
            self._parts == [_integer]
            and pa.types.is_signed_integer(columns[0].type)
            and not columns[0].null_count
        ):
            biased = columns[0].cast(pa.int64()).to_numpy(zero_copy_only=False).view(
                np.uint64
            ) + np.uint64(_SIGN)
            packed = biased.astype(">u8").tobytes()
            return [packed[start : start + 8] for start in range(0, len(packed), 8)]
        if len(columns) == 1 and pa.types.is_string(columns[0].type) and self.types[0] is String:
            return columns[0].cast(pa.binary()).to_pylist()
        return self.encode_all([column.to_pylist() for column in columns])
