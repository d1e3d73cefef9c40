"""The codec of online records: lossless to the bit, and nothing else passes for a record."""

import math
import struct
import zlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from feast import types as feast
from hypothesis import assume, given
from hypothesis import strategies as st

from punctual.errors import InvalidRequest
from punctual.times import from_micros, micros
from stores.online.entity_keys import EntityKeys
from stores.online.packed_row import CorruptRecord
from stores.online.record_format import INTACT, START, TAIL, Layout

INT64 = st.integers(-(2**63), 2**63 - 1)
# Python's whole range; both ends and microseconds before 1970 are tried often.
MOMENTS = st.one_of(
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from(
        [
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            from_micros(-1),
            from_micros(0),
        ]
    ),
)
ZONES = st.sampled_from(
    [UTC, ZoneInfo("UTC"), ZoneInfo("Europe/Paris"), timezone(timedelta(hours=-7, minutes=-30))]
)
# Not at the ends of the range, where the time does not exist in another zone.
ZONED = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES)
TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["", "\x00", "✈" * 3000]))
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | TEXT,
    lambda each: st.lists(each) | st.dictionaries(TEXT, each),
    max_leaves=4,
)
NUMBERS32 = st.floats(width=32) | st.sampled_from(
    [math.nan, -0.0, math.inf, -math.inf, 1.401298464324817e-45]
)
NUMBERS = st.floats() | st.sampled_from([math.nan, -0.0, math.inf, -math.inf, 5e-324])
UUIDS = st.uuids()
DECIMALS = st.decimals(allow_nan=False)
RAW = st.binary(max_size=12) | st.sampled_from([b"", b"\x00" * 5000])

SCALARS = {
    feast.Int32: st.integers(-(2**31), 2**31 - 1),
    feast.Int64: INT64,
    feast.Float32: NUMBERS32,
    feast.Float64: NUMBERS,
    feast.Bool: st.booleans(),
    feast.UnixTimestamp: MOMENTS,
    feast.String: TEXT,
    feast.Bytes: RAW,
    feast.PdfBytes: RAW,
    feast.ImageBytes: RAW,
    feast.Json: TEXT,
    feast.ZonedTimestamp: ZONED,
    feast.Uuid: UUIDS,
    feast.TimeUuid: UUIDS,
    feast.Decimal: DECIMALS,
}


def lists_of(values):
    return st.lists(st.none() | values, max_size=4)


NESTED = {
    feast.Map: st.dictionaries(TEXT, JSON, max_size=3),
    feast.ScalarMap: st.dictionaries(INT64, JSON, max_size=3),
    feast.Struct({"a": feast.Int64, "b": feast.Array(feast.String)}): st.fixed_dictionaries(
        {"a": INT64, "b": lists_of(TEXT)}
    ),
    **{
        feast.Array(type_): lists_of(values)
        for type_, values in SCALARS.items()
        if type_ not in (feast.ZonedTimestamp, feast.Json)
    },
    feast.Set(feast.Int64): st.sets(INT64, max_size=4),
    feast.Set(feast.String): st.sets(TEXT, max_size=4),
    feast.Array(feast.Array(feast.Float64)): lists_of(lists_of(NUMBERS)),
}
TYPES = SCALARS | NESTED


def as_kept(value):
    """What remains of a value that MessagePack has no type for: sets, UUIDs and decimals."""
    if isinstance(value, (list, set)):
        return [as_kept(each) for each in value]
    if isinstance(value, dict):
        return {name: as_kept(each) for name, each in value.items()}
    return str(value) if isinstance(value, (UUID, Decimal)) else value


def exact(value):
    """A form in which values are equal only if their types and bits are."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, datetime):
        return micros(value), value.utcoffset()
    if isinstance(value, (list, tuple)):
        return [exact(each) for each in value]
    if isinstance(value, dict):
        return {name: exact(each) for name, each in value.items()}
    return type(value).__name__, value


@st.composite
def tables(draw, rows=(1, 3)):
    """Types of 0 to 40 features, and rows `(event, created, withdrawn, *values)` with nulls."""
    types = draw(
        st.lists(st.sampled_from(list(TYPES)), max_size=40)
        | st.lists(st.sampled_from([feast.Int64, feast.Bool]), max_size=3)
    )
    row = st.tuples(INT64, INT64, st.booleans(), *(st.none() | TYPES[type_] for type_ in types))
    return types, [draw(row) for _ in range(draw(st.integers(*rows)))]


def rows_of(layout, rows):
    columns = [[row[3 + place] for row in rows] for place in range(len(layout.kinds))]
    return layout.rows(
        columns,
        *([row[place] for row in rows] for place in (0, 1)),
        np.array([row[2] for row in rows]),
    )


@given(tables(), st.integers(0, 2**32 - 1))
def test_a_record_decodes_to_the_encoded_rows(table, schema):
    types, rows = table
    layout = Layout(types, schema)
    packed = rows_of(layout, rows)
    record = layout.record(packed)
    split = layout.split(record)
    assert [row[:2] for row in split] == [row[:2] for row in rows]
    assert [row.data for row in split] == packed
    assert [layout.is_withdrawn(row) for row in packed] == [row[2] for row in rows]
    assert [exact(layout.values(row)) for row in packed] == [
        exact([as_kept(value) for value in row[3:]]) for row in rows
    ]
    assert layout.records(packed) == [layout.record([row]) for row in packed]
    if layout.one_row_length is not None:
        assert {len(one) for one in layout.records(packed)} == {layout.one_row_length}


@given(tables(), INT64)
def test_the_newest_row_that_is_effective_is_shown(table, at):
    types, rows = table
    layout = Layout(types, 7)
    effective = [row for row in rows if max(row[:2]) <= at]
    shown = layout.row_at(layout.record(rows_of(layout, rows)), at)
    assert (shown and layout.times(shown)) == (
        max(effective, key=lambda row: row[:2])[:2] if effective else None
    )


@given(tables(rows=(3, 3)))
def test_a_numpy_column_equals_the_single_values(table):
    types, rows = table
    types = [type_ for type_ in types if not Layout([type_], 1).variable]
    layout = Layout(types, 7)
    rows = [
        row[:3]
        + tuple(value for value, type_ in zip(row[3:], table[0], strict=True) if type_ in types)
        for row in rows
    ]
    fields = np.frombuffer(b"".join(rows_of(layout, rows)), layout.row_fields)
    assert [fields["event"].tolist(), fields["created"].tolist()] == [
        [row[place] for row in rows] for place in (0, 1)
    ]
    for place, type_ in enumerate(types):
        missing = (fields["nulls"][:, place >> 3] >> (place & 7) & 1).astype(bool).tolist()
        assert missing == [row[3 + place] is None for row in rows]
        there = [row[3 + place] for row in rows if row[3 + place] is not None]
        found = fields[str(place)][~np.array(missing)].tolist()
        assert exact(found) == exact(
            list(map(micros, there)) if type_ == feast.UnixTimestamp else there
        )


@given(tables(), st.data())
def test_any_flipped_bit_and_any_cut_is_refused(table, data):
    types, rows = table
    layout = Layout(types, 7)
    record = layout.record(rows_of(layout, rows))
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    flipped = bytearray(record)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    # CRC-32 accepts one cut in four billion.
    assume(zlib.crc32(cut) != INTACT)
    for damaged in (
        bytes(flipped),
        cut,
        record[len(cut) + 1 :],
        record + b"\x00",
        b"",
        b"\x00" * 4,
    ):
        for read in (layout.check, layout.split, lambda record: layout.row_at(record, 2**63 - 1)):
            with pytest.raises(CorruptRecord):
                read(damaged)


@given(tables(), st.binary(max_size=80))
def test_bytes_with_a_valid_checksum_are_a_record_or_refused(table, body):
    types, _ = table
    layout = Layout(types, 7)
    for front in (body, layout.head + body):
        record = front + zlib.crc32(front).to_bytes(4, "little")
        try:
            assert b"".join(row.data for row in layout.split(record)) == record[START:-TAIL]
        except CorruptRecord:
            continue


@given(tables(), tables(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_record_of_another_schema_is_refused(table, other, schema, another):
    assume(schema != another)
    layout = Layout(table[0], schema)
    record = layout.record(rows_of(layout, table[1]))
    with pytest.raises(CorruptRecord, match="schema"):
        Layout(table[0], another).row_at(record, 0)
    with pytest.raises(CorruptRecord):
        Layout(other[0], another).split(record)


ARROW = [
    (feast.Int64, pa.int32(), [1, None, -5]),
    (feast.Int64, pa.dictionary(pa.int8(), pa.int64()), [1, None, 1]),
    (feast.Float64, pa.float32(), [0.5, None, -0.0]),
    (feast.String, pa.large_string(), ["", None, "✈"]),
    (feast.String, pa.dictionary(pa.int32(), pa.string()), ["x", None, "x"]),
    (feast.Bytes, pa.large_binary(), [b"", None, b"\x00"]),
    (
        feast.UnixTimestamp,
        pa.timestamp("us"),
        [datetime(1969, 12, 31, 23, 59, 59, 999999), None, datetime(2013, 6, 1)],
    ),
    (
        feast.UnixTimestamp,
        pa.timestamp("ns", "Europe/Paris"),
        [datetime(1969, 6, 1, tzinfo=UTC), None, datetime(2013, 6, 1, tzinfo=UTC)],
    ),
    (feast.UnixTimestamp, pa.timestamp("s"), [datetime(1, 1, 1), None, datetime(9999, 12, 31)]),
    (
        feast.ZonedTimestamp,
        pa.timestamp("us", "UTC"),
        [datetime(1969, 6, 1, tzinfo=UTC), None, datetime(2013, 6, 1, tzinfo=UTC)],
    ),
    (feast.Array(feast.Int64), pa.large_list(pa.int64()), [[], None, [1, None, 2**62]]),
    (
        feast.Array(feast.UnixTimestamp),
        pa.list_(pa.timestamp("us")),
        [[], None, [datetime(2013, 6, 1, 0, 0, 0, 1)]],
    ),
    (feast.Map, pa.map_(pa.string(), pa.string()), [{}, None, {"a": "b", "c": None}]),
    (
        feast.Array(feast.Map),
        pa.list_(pa.map_(pa.string(), pa.string())),
        [[], None, [{"a": "b"}, {}]],
    ),
    (
        feast.Struct({"a": feast.Int64}),
        pa.struct([("a", pa.int64())]),
        [{"a": 1}, None, {"a": None}],
    ),
]


@pytest.mark.parametrize(
    ("type_", "arrow", "values"), ARROW, ids=[f"{type_} of {arrow}" for type_, arrow, _ in ARROW]
)
def test_arrow_columns_encode_as_their_single_values(type_, arrow, values):
    layout = Layout([type_], 7)
    column = pa.array(
        [
            list(value.items()) if pa.types.is_map(arrow) and value is not None else value
            for value in values
        ],
        arrow,
    )
    if arrow == pa.list_(pa.map_(pa.string(), pa.string())):
        column = pa.array(
            [value and [list(each.items()) for each in value] for value in values], arrow
        )
    packed = layout.rows([column], [1, 2, 3], [1, 2, 3])
    assert packed == layout.rows([values], [1, 2, 3], [1, 2, 3])
    # A slice of a longer column, as in a batch of rows.
    assert layout.rows([column.slice(1)], [2, 3], [2, 3]) == packed[1:]
    assert layout.values(packed[1]) == [None]


@pytest.mark.parametrize(
    ("type_", "column"),
    [
        (feast.Int64, [1.5]),
        (feast.Int64, ["1"]),
        (feast.Int32, [2**31]),
        (feast.Int32, pa.array([2**31])),
        (feast.Int64, pa.array([1.5])),
        (feast.String, [1]),
        (feast.Bytes, [7]),
        (feast.UnixTimestamp, pa.array([2**62], pa.timestamp("us"))),
        (feast.UnixTimestamp, pa.array([1], pa.timestamp("ns"))),
        (feast.Array(feast.Int64), [[2**64]]),
        (feast.Map, [{"a": object()}]),
        (feast.ZonedTimestamp, [1]),
    ],
)
def test_a_value_of_another_type_is_refused_when_written(type_, column):
    with pytest.raises((pa.ArrowException, OverflowError)):
        Layout([type_], 7).rows([column], [1], [1])


KEYS = {
    feast.Int32: st.integers(-(2**31), 2**31 - 1),
    feast.Int64: INT64,
    feast.UnixTimestamp: st.datetimes(
        datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)
    ),
    feast.Bool: st.booleans(),
    feast.String: st.text(max_size=6) | st.text("\x00\x01\xff", max_size=6),
    feast.Bytes: st.binary(max_size=6)
    | st.lists(st.sampled_from([0, 1, 255]), max_size=6).map(bytes),
    feast.Float64: st.floats(allow_nan=False),
    feast.Float32: st.floats(width=32, allow_nan=False),
    feast.Uuid: UUIDS,
}
_ARROW_KEYS = {
    feast.Int32: [pa.int32(), pa.int64()],
    feast.Int64: [pa.int64(), pa.dictionary(pa.int32(), pa.int64())],
    feast.UnixTimestamp: [pa.timestamp("us"), pa.timestamp("us", "Europe/Paris")],
    feast.Bool: [pa.bool_()],
    feast.String: [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())],
    feast.Bytes: [pa.binary(), pa.large_binary()],
    feast.Float64: [pa.float64()],
    feast.Float32: [pa.float32()],
    feast.Uuid: [pa.string()],
}


@st.composite
def keys(draw):
    """A view's keys and some of their values, without nulls."""
    types = draw(st.lists(st.sampled_from(list(KEYS)), min_size=1, max_size=3))
    rows = draw(st.lists(st.tuples(*(KEYS[type_] for type_ in types)), min_size=1, max_size=6))
    return EntityKeys([f"key_{number}" for number in range(len(types))], types), rows


@given(keys())
def test_encoded_keys_are_equal_and_ordered_as_their_values(some):
    entity_keys, rows = some
    encoded = [entity_keys.encode(row) for row in rows]
    for one, key in zip(rows, encoded, strict=True):
        for other, another in zip(rows, encoded, strict=True):
            assert (one == other, one < other) == (key == another, key < another)
    assert {len(key) for key in encoded} == {8} or not entity_keys.is_integer


@given(keys(), st.data())
def test_key_columns_are_encoded_as_their_single_values(some, data):
    entity_keys, rows = some
    rows = [
        *rows,
        *(
            [None if place == gone else value for place, value in enumerate(rows[0])]
            for gone in range(len(rows[0]))
        ),
    ]
    rows = rows[: data.draw(st.integers(1, len(rows)))]
    columns = []
    for place, type_ in enumerate(entity_keys.types):
        arrow = data.draw(st.sampled_from(_ARROW_KEYS[type_]))
        values = [row[place] for row in rows]
        columns.append(
            pa.array([str(value) if isinstance(value, UUID) else value for value in values], arrow)
        )
    expected = [entity_keys.encode(row) for row in rows]
    assert entity_keys.encode_columns(columns) == expected
    assert entity_keys.encode_all(list(zip(*rows, strict=True))) == expected


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (feast.Int64, "7"),
        (feast.Int64, 7.0),
        (feast.Int64, True),
        (feast.Int64, np.True_),
        (feast.Int64, math.nan),
        (feast.Int64, 2**63),
        (feast.Int64, -(2**63) - 1),
        (feast.String, 7),
        (feast.String, b"7"),
        (feast.String, "\ud800"),
        (feast.Bytes, "7"),
        (feast.Bytes, 7),
        (feast.Bool, 1),
        (feast.UnixTimestamp, 7),
        (feast.UnixTimestamp, "2013-06-01"),
        (feast.Float64, "1"),
        (feast.Float64, True),
        (feast.Uuid, "7"),
        (feast.Uuid, 7),
    ],
)
def test_a_key_of_another_type_is_refused_by_its_name(type_, value):
    with pytest.raises(InvalidRequest, match=r"join key 'driver' = .* is not of type"):
        EntityKeys(["driver"], [type_]).encode([value])
    with pytest.raises(InvalidRequest, match=r"join key 'driver' = .* is not of type"):
        EntityKeys(["driver"], [type_]).encode_all([[value]])


@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        (feast.Int64, 7, np.int32(7)),
        (feast.String, "x", np.str_("x")),
        (feast.Bytes, b"x", bytearray(b"x")),
        (feast.Bool, True, np.True_),
        (feast.Float64, 1, 1.0),
        (feast.Float64, 0.0, -0.0),
        (feast.Float32, 0.1, float(np.float32(0.1))),
        (
            feast.UnixTimestamp,
            datetime(2013, 6, 1),
            datetime(2013, 6, 1, 2, tzinfo=ZoneInfo("Europe/Paris")),
        ),
        (feast.Uuid, UUID(int=5), str(UUID(int=5)).upper()),
    ],
)
def test_a_key_is_encoded_the_same_from_every_form(type_, one, other):
    entity_keys = EntityKeys(["driver"], [type_])
    assert entity_keys.encode([one]) == entity_keys.encode([other])
    assert entity_keys.encode_all([[one, other, None]]) == [
        *entity_keys.encode_all([[one, other]]),
        None,
    ]
    assert entity_keys.encode_all([[one, other]]) == [entity_keys.encode([one])] * 2


def test_an_integer_key_beyond_int64_is_refused():
    with pytest.raises(InvalidRequest):
        EntityKeys(["driver"], [feast.Int64]).encode_columns([pa.array([2**63], pa.uint64())])
