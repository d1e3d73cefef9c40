"""The fast reader gives what the store gives row by row, for few and many rows."""

import math
from datetime import datetime

import numpy as np
import pytest
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from hypothesis import given
from hypothesis import strategies as st

from punctual.errors import NotBuilt
from punctual.times import from_micros, micros
from stores.online import OnlineView, PackedDatabase, Reader
from stores.online.backends.sqlite import SqliteRecords
from stores.online.records import Rows

NUMBERS = OnlineView(
    "test",
    "numbers",
    (("driver", Int64),),
    (("a", Int32), ("b", Int64), ("c", Float32), ("d", Float64), ("e", Bool), ("f", UnixTimestamp)),
    ttl=30,
)
ANYTHING = OnlineView(
    "test",
    "anything",
    (("driver", Int64),),
    (("name", String), ("n", Int64), ("list", Array(Int64))),
)
PLACES = OnlineView("test", "places", (("place", String),), (("x", Float64), ("y", Float64)))

numbers = st.tuples(
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(width=32),
    st.none() | st.floats(),
    st.none() | st.booleans(),
    st.none() | st.integers(0, 2**48).map(from_micros),
)
anything = st.tuples(
    st.none() | st.text(max_size=5),
    st.none() | st.integers(-9, 9),
    st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
)
doubles = st.tuples(st.none() | st.floats(), st.floats())
moments = st.integers(0, 60)


def rows(keys, values):
    """Rows of a few entities, some of them withdrawn."""
    return st.lists(
        st.tuples(
            st.sampled_from(keys), moments, moments, values, st.sampled_from([False] * 9 + [True])
        ),
        max_size=30,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


def filled(folder, written):
    database = PackedDatabase(SqliteRecords(folder / f"{len(list(folder.glob('*.db')))}.db"))
    for view, offered in written.items():
        database.records.writable_generations(view)
        events, created = [row[1] for row in offered], [row[2] for row in offered]
        columns = [[row[3][place] for row in offered] for place in range(len(view.features))]
        withdrawn = np.array([row[4] for row in offered], bool)
        packed = view.layout.rows(
            columns, np.array(events, np.int64), np.array(created, np.int64), withdrawn
        )
        database.write(
            view, Rows([view.key(row[0]) for row in offered], events, created, packed), now=20
        )
    return database


def number(value):
    return (
        math.nan
        if value is None
        else micros(value)
        if isinstance(value, datetime)
        else float(value)
    )


@given(
    rows(range(12), numbers),
    rows(range(12), anything),
    rows("abcd", doubles),
    st.lists(
        st.tuples(st.none() | st.integers(0, 14), st.none() | st.sampled_from("abcdef")),
        min_size=1,
        max_size=20,
    ),
    st.integers(20, 100),
)
def test_the_reader_shows_what_is_shown_row_by_row(folder, first, second, third, asked, at):
    database = filled(folder, {NUMBERS: first, ANYTHING: second, PLACES: third})
    drivers, places = (
        [NUMBERS.key(driver) for driver, _ in asked],
        [PLACES.key(place) for _, place in asked],
    )
    views = [(NUMBERS, "driver"), (PLACES, "place"), (ANYTHING, "driver")]
    shown = Reader(database, views).read({"driver": drivers, "place": places}, at)
    for (view, _), keys, found in zip(views, (drivers, places, drivers), shown, strict=True):
        expected = database.read(view, keys, at)
        assert found.statuses == [row.status for row in expected]
        assert found.events == [row.event for row in expected]
        assert found.created == [row.created for row in expected]
        for place, (_, type_) in enumerate(view.typed_features):
            values = [row.values[place] for row in expected]
            assert list(map(repr, found.values(place))) == list(map(repr, values))
            if type_ not in (String, Array(Int64)):
                np.testing.assert_array_equal(
                    found.numbers(place), [number(value) for value in values]
                )
    reader = Reader(database, views[:2])
    matrix = reader.unpacked({"driver": drivers, "place": places}, at).matrix
    matrix = matrix[
        :,
        [
            reader.column(view, place)
            for view in (0, 1)
            for place in range(len(views[view][0].features))
        ],
    ]
    columns = [
        shown[view].numbers(place)
        for view in (0, 1)
        for place in range(len(views[view][0].features))
    ]
    np.testing.assert_array_equal(matrix, np.column_stack(columns))
    database.close()


@pytest.mark.parametrize("count", [1, 4, 20, 60])
def test_a_damaged_record_is_invalid_among_the_others(tmp_path, count):
    database = filled(
        tmp_path,
        {PLACES: [(f"{number}", 1, 1, (number, number), False) for number in range(count)]},
    )
    generation, keys = (
        database.records.generation(PLACES),
        [PLACES.key(f"{number}") for number in range(count)],
    )
    (record,) = database.records.get(generation, keys[-1:])
    database.records.put(generation, keys[-1:], [record], [record[:20] + b"?" + record[21:]])
    (shown,) = Reader(database, [(PLACES, "place")]).read({"place": keys}, 50)
    assert shown.statuses == ["PRESENT"] * (count - 1) + ["INVALID"]
    assert shown.values(0) == [*map(float, range(count - 1)), None]
    assert database.corrupt == {"places": 1}
    matrix = Reader(database, [(PLACES, "place")]).unpacked({"place": keys}, 50).matrix
    np.testing.assert_array_equal(
        matrix, [*([number, number] for number in range(count - 1)), [math.nan, math.nan]]
    )


@pytest.mark.parametrize("count", [1, 10, 60])
@pytest.mark.parametrize(
    "damage",
    [lambda record: record[:9], lambda _: b"", lambda _: bytes(4), lambda record: record + b"\x00"],
)
def test_a_record_of_another_length_is_invalid_at_any_position(tmp_path, count, damage):
    database = filled(
        tmp_path,
        {PLACES: [(f"{number}", 1, 1, (number, number), False) for number in range(count)]},
    )
    generation, keys = (
        database.records.generation(PLACES),
        [PLACES.key(f"{number}") for number in range(count)],
    )
    for number in {0, count // 2, count - 1}:
        (record,) = database.records.get(generation, [keys[number]])
        database.records.put(generation, [keys[number]], [record], [damage(record)])
        (shown,) = Reader(database, [(PLACES, "place")]).read({"place": keys}, 50)
        assert shown.statuses == [row.status for row in database.read(PLACES, keys, 50)]
        assert shown.statuses[number] == "INVALID"
        assert shown.values(0) == [row.values[0] for row in database.read(PLACES, keys, 50)]


def test_many_records_with_rows_published_ahead_are_read_as_one_by_one(tmp_path):
    written = [
        (
            number % 40,
            5 * (number % 7),
            20 + number % 11,
            (number, -number, None, 0.5, True, None),
            False,
        )
        for number in range(200)
    ]
    database = filled(tmp_path, {NUMBERS: written})
    keys = [NUMBERS.key(number) for number in range(45)] * 2
    for at in (20, 24, 30, 55):
        (shown,) = Reader(database, [(NUMBERS, "driver")]).read({"driver": keys}, at)
        expected = database.read(NUMBERS, keys, at)
        assert [shown.statuses, shown.events] == [
            [row.status for row in expected],
            [row.event for row in expected],
        ]
        assert shown.values(1) == [row.values[1] for row in expected]


def test_views_that_were_never_filled_are_named(tmp_path):
    database = filled(tmp_path, {PLACES: []})
    with pytest.raises(NotBuilt, match="view 'anything' is not in the online store"):
        Reader(database, [(PLACES, "place"), (ANYTHING, "driver")]).read(
            {"place": [b"a"], "driver": [None]}, 50
        )


def test_no_views_give_no_values(tmp_path):
    reader = Reader(PackedDatabase(SqliteRecords(tmp_path / "nobody.db")), [])
    assert reader.read({}, 50) == []
    assert reader.unpacked({}, 50).matrix.size == 0
