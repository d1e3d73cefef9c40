"""Feast's response messages for the values of the online store, written in protobuf's wire format.

A response has a message for every value of every row. Creating these one by one in Python costs
more than the whole read; writing their bytes lets protobuf parse the response once.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String
from google.protobuf.timestamp_pb2 import Timestamp

from stores.online.record_batch import ViewValues
from stores.online.records import Status
from stores.online.view import OnlineView

_LENGTH_DELIMITED = 2


def _field(message: Any, name: str, wire_type: int = _LENGTH_DELIMITED) -> bytes:
    """A field's tag; one byte, since all field numbers used here are below 16."""
    return bytes([message.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type])


_VECTOR = GetOnlineFeaturesResponse.FeatureVector
_RESULT = _field(GetOnlineFeaturesResponse, "results")
_VALUES = _field(_VECTOR, "values")
_STATUSES = _field(_VECTOR, "statuses")
_TIMES = _field(_VECTOR, "event_timestamps")
_NULL = _VALUES + b"\x00"
_STATUS_BYTES = {name: bytes([number]) for name, number in FieldStatus.items()}


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _delimited(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _fixed(name: str, wire_type: int, format_: str) -> Callable[[Any], bytes]:
    pack = struct.Struct(format_).pack
    head = _field(Value, name, wire_type)
    head = _VALUES + bytes([len(head) + struct.calcsize(format_)]) + head
    return lambda value: head + pack(value)


def _integer(name: str) -> Callable[[Any], bytes]:
    head = _field(Value, name, 0)

    def write(value: Any) -> bytes:
        number = _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        return _VALUES + bytes((len(number) + 1,)) + head + number

    return write


def _text(value: str) -> bytes:
    return _VALUES + _delimited(_STRING + _delimited(value.encode()))


_STRING = _field(Value, "string_val")
_WRITE: dict[FeastType, Callable[[Any], bytes]] = {
    Float64: _fixed("double_val", 1, "<d"),
    Float32: _fixed("float_val", 5, "<f"),
    Bool: _fixed("bool_val", 0, "<?"),
    Int32: _integer("int32_val"),
    Int64: _integer("int64_val"),
    String: _text,
}


def results(view: OnlineView, features: Sequence[str], shown: ViewValues) -> bytes:
    """The response's `results` for some features of a view.

    One vector per feature, with a value, a status and an event time per row.
    """
    statuses = shown.statuses
    tail = (
        _STATUSES
        + _delimited(b"".join(_STATUS_BYTES[status] for status in statuses))
        + _times(shown.events)
    )
    indices = {name: index for index, name in enumerate(view.features)}
    vectors = []
    for name in features:
        index = indices[name]
        vector = _values(view.typed_features[index][1], shown.values(index), statuses) + tail
        vectors.append(_RESULT + _delimited(vector))
    return b"".join(vectors)


def _values(type_: FeastType, values: Sequence[Any], statuses: Sequence[Status]) -> bytes:
    write = _WRITE.get(type_)
    if write is not None:
        return b"".join([_NULL if value is None else write(value) for value in values])
    # Feast's own conversion covers the other types.
    present = [value for value, status in zip(values, statuses, strict=True) if status == "PRESENT"]
    messages = iter(
        python_values_to_proto_values(present, type_.to_value_type()) if present else []
    )
    return b"".join(
        _VALUES + _delimited(next(messages).SerializeToString()) if status == "PRESENT" else _NULL
        for status in statuses
    )


def _times(events: Sequence[int | None]) -> bytes:
    written: dict[int | None, bytes] = {}
    for event in events:
        if event not in written:
            moment = (
                Timestamp()
                if event is None
                else Timestamp(seconds=event // 1_000_000, nanos=event % 1_000_000 * 1000)
            )
            written[event] = _TIMES + _delimited(moment.SerializeToString())
    return b"".join([written[event] for event in events])
