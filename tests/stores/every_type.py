"""Every Feast value type, with a value that both stores return unchanged."""

from datetime import UTC, datetime

from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map,
    PdfBytes,
    Set,
    String,
    Struct,
    UnixTimestamp,
    Uuid,
)

BIG = 2**53 + 1  # the first whole number that no float is
MOMENT = datetime(1969, 7, 20, 20, 17, 40, tzinfo=UTC)
EVERY_TYPE = {
    "int32": (Int32, -(2**31)),
    "int64": (Int64, BIG),
    "float32": (Float32, 0.5),
    "float64": (Float64, 0.1),
    "bool": (Bool, False),
    "moment": (UnixTimestamp, MOMENT),
    "string": (String, "Ærøskøbing ✈"),
    "empty": (String, ""),
    "bytes": (Bytes, b"\x00\xff"),
    "pdf": (PdfBytes, b"%PDF"),
    "image": (ImageBytes, b""),
    "uuid": (Uuid, "4f0e7c1e-1b0e-4a53-9d63-3d9f1a5cf3b0"),
    "decimal": (Decimal, "0.1000"),
    "json": (Json, '{"a": [1, null, "x"]}'),
    "map": (Map, {"a": "b", "c": ""}),
    "struct": (Struct({"gate": String, "minutes": Int64}), {"gate": "B7", "minutes": BIG}),
    "int32s": (Array(Int32), [1, -3]),
    "int64s": (Array(Int64), [BIG]),
    "float32s": (Array(Float32), [0.5]),
    "float64s": (Array(Float64), [0.1, 2.0]),
    "strings": (Array(String), ["a", ""]),
    "bytess": (Array(Bytes), [b"a", b""]),
    "bools": (Array(Bool), [True, False]),
    "moments": (Array(UnixTimestamp), [MOMENT]),
    "maps": (Array(Map), [{"a": "b"}, {"c": "d"}]),
    "structs": (Array(Struct({"gate": String})), [{"gate": "B7"}]),
    "int64_set": (Set(Int64), [BIG]),
    "string_set": (Set(String), ["a"]),
    "lists": (Array(Array(Int64)), [[BIG], [1]]),
}
