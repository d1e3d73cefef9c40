"""Answers that we serialize equal the protobuf messages that Feast would build."""

import math
import struct
from datetime import UTC, datetime

import pytest
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    Struct,
    UnixTimestamp,
)
from google.protobuf.timestamp_pb2 import Timestamp

from stores.online import OnlineView
from stores.online.feast_response import results

VALUES = {
    Int32: [0, 1, 127, 128, -1, -(2**31), 2**31 - 1],
    Int64: [0, 300, -1, 2**53 + 1, -(2**63), 2**63 - 1],
    Float32: [0.0, -0.0, 0.5, math.inf, math.nan],
    Float64: [0.1, -0.0, 5e-324, -math.inf, math.nan],
    Bool: [True, False],
    String: ["", "O'Hare ✈", "x" * 300],
    Bytes: [b"", b"\x00\xff"],
    UnixTimestamp: [datetime(2013, 6, 1, 12, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)],
    Array(Int64): [[], [1, 2**53 + 1]],
    Array(String): [["a", ""]],
    Set(Int64): [[1, 2]],
    Json: ['{"a": [1]}'],
    Map: [{"a": "b"}],
    Struct({"gate": String}): [{"gate": "B7"}],
}


class Given:
    """The values of a view, as literal rows."""

    def __init__(self, columns, statuses, events):
        self.columns, self.statuses, self.events = columns, statuses, events

    def values(self, place):
        return self.columns[place]


@pytest.mark.parametrize("type_", VALUES, ids=str)
def test_an_answer_equals_the_message_that_feast_would_make(type_):
    known = VALUES[type_]
    values = [*known, None, None, None]
    statuses = ["PRESENT"] * (len(known) + 1) + ["NOT_FOUND", "OUTSIDE_MAX_AGE"]
    events = [*range(-1, len(known)), None, 1_700_000_000_000_001]
    view = OnlineView("test", "v", (("driver", Int64),), (("first", Float64), ("it", type_)))
    response = GetOnlineFeaturesResponse()
    response.MergeFromString(
        results(view, ["it", "first"], Given([[None] * len(values), values], statuses, events))
    )

    assert len(response.results) == 2
    found = response.results[0]
    expected = [*protos(known, type_), Value(), Value(), Value()]
    assert [bits(value) for value in found.values] == [bits(value) for value in expected]
    assert list(found.statuses) == [FieldStatus.Value(status) for status in statuses]
    times = [Timestamp() for _ in events]
    for time, event in zip(times, events, strict=True):
        if event is not None:
            time.FromMicroseconds(event)
    assert list(found.event_timestamps) == times
    assert [value.WhichOneof("val") for value in response.results[1].values] == [None] * len(values)


def protos(values, type_):
    # Feast reads NaN as null; a published NaN stays NaN, offline and online.
    if type_ in (Float32, Float64):
        return [
            Value(double_val=value) if type_ == Float64 else Value(float_val=value)
            for value in values
        ]
    return python_values_to_proto_values(values, type_.to_value_type())


def bits(value):
    """A value that compares by its bits: NaN equals itself, and 0.0 differs from -0.0."""
    kind = value.WhichOneof("val")
    if kind in ("double_val", "float_val"):
        return kind, struct.pack("<d", getattr(value, kind))
    return kind, value
