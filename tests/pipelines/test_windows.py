"""Windowed features and latest events against their definitions, computed by plain loops.

Histories have late events, corrections and withdrawals, and are built at once and in steps.
"""

import statistics
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from feast import Entity, ValueType
from hypothesis import given
from hypothesis import strategies as st

from pipelines.windows.feature_rows import feature_rows
from punctual.events import Events
from punctual.times import from_micros, micros
from punctual.windows import (
    count,
    declaration_of,
    latest_feature_view,
    mean,
    share,
    std,
    sum_of,
    windowed_feature_view,
)
from stores.tables import Table, canonical_hash, connect

START = micros(datetime(2013, 6, 1, tzinfo=UTC))
MINUTE = 60_000_000
TIMES = ("event_timestamp", "created_timestamp")
READY = 10_000_000  # a row may be used ten seconds after its grid time
DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
CITY = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)

TRIPS = Events(
    name="trips",
    sources=(),
    id=("trip",),
    columns={
        "trip": "BIGINT",
        "driver": "BIGINT",
        "city": "VARCHAR",
        "cents": "BIGINT",
        "fee": "DECIMAL(9, 2)",
        "is_late": "BOOLEAN",
    },
    sql="",
)
COLUMNS = {
    "trip": pa.int64(),
    "driver": pa.int64(),
    "city": pa.string(),
    "cents": pa.int64(),
    "fee": pa.decimal128(9, 2),
    "is_late": pa.bool_(),
}
SCHEMA = pa.schema(
    [
        *COLUMNS.items(),
        *((time, pa.timestamp("us")) for time in TIMES),
        ("is_withdrawn", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Version:
    """A version of a trip, or its withdrawal, known from `known` on.

    Times are microseconds after the start.
    """

    trip: int
    known: int
    event: int
    driver: int | None
    city: str | None
    cents: int | None
    fee: Decimal | None
    is_late: bool | None
    is_withdrawn: bool = False


def as_ingested(versions):
    """The versions as ingest publishes them: a withdrawal has the values of what it withdraws."""
    newest, history = {}, []
    for version in sorted(versions, key=lambda version: version.known):
        before = newest.get(version.trip)
        if version.is_withdrawn:
            if before is None or before.is_withdrawn:
                continue
            version = replace(before, known=version.known, is_withdrawn=True)
        newest[version.trip] = version
        history.append(version)
    return history


def rows_of(history):
    """The rows of a history.

    A version with another event time comes with a withdrawal of the version that it replaces.
    """
    newest, rows = {}, []
    for version in history:
        before = newest.get(version.trip)
        moved = before is not None and before.event != version.event
        if moved and not before.is_withdrawn:
            rows.append(replace(before, known=version.known, is_withdrawn=True))
        rows.append(version)
        newest[version.trip] = version
    return rows


# Half minutes and their neighbours by a microsecond, on a grid of minutes, so that entries,
# exits and knowledge times meet grid times.
moments = st.builds(
    lambda half, beside: half * MINUTE // 2 + beside,
    st.integers(1, 14),
    st.sampled_from([-1, 0, 0, 1]),
)
versions = st.builds(
    Version,
    trip=st.integers(1, 4),
    known=moments,
    event=moments,
    driver=st.sampled_from([1, 2, None]),
    city=st.sampled_from(["Oslo", "Bergen", None]),
    cents=st.sampled_from([None, 0, -7, 2**40 + 1]),
    fee=st.sampled_from([None, Decimal("0.10"), Decimal("-3.33"), Decimal("9999999.99")]),
    is_late=st.sampled_from([None, False, True]),
    is_withdrawn=st.sampled_from([False, False, True]),
)
histories = st.lists(
    versions, max_size=9, unique_by=lambda version: (version.trip, version.known)
).map(as_ingested)
runs = st.lists(moments, max_size=4).map(lambda moments: [*sorted(set(moments)), 10 * MINUTE])
KEYS = {"driver": (DRIVER,), "driver_city": (DRIVER, CITY)}


def windowed(name):
    return declaration_of(
        windowed_feature_view(
            name=f"{name}_trips",
            entities=list(KEYS[name]),
            events=TRIPS,
            every=timedelta(minutes=1),
            available_after=timedelta(seconds=10),
            features=[
                count(over=("1m", "3m"), description="Trips"),
                sum_of("cents", over=("1m", "2m"), description="Cents"),
                mean("cents", over=("3m",), description="Mean cents"),
                std("cents", over=("3m",), description="Deviation of cents"),
                sum_of("fee", over=("2m",), description="Fees"),
                mean("fee", over=("2m",), description="Mean fee"),
                std("fee", over=("2m",), description="Deviation of fees"),
                share("is_late", over=("1m", "3m"), description="Share of late trips"),
            ],
            description="Trips",
        )
    )


def latest(name):
    return declaration_of(
        latest_feature_view(
            name=f"{name}_last_trip",
            entities=list(KEYS[name]),
            events=TRIPS,
            every=timedelta(minutes=1),
            available_after=timedelta(seconds=10),
            fields={"cents": "Cents", "trip": "Trip"},
            description="The last trip",
        )
    )


@pytest.fixture(scope="module")
def connection():
    with connect() as connection:
        yield connection


@pytest.fixture
def build(tmp_path_factory, connection):
    """Builds a view over a history in runs at the given times; returns its rows.

    `lost_before_last` removes the first file of events before the last run.
    """

    def build(declared, history, runs, *, lost_before_last=False):
        folder = tmp_path_factory.mktemp("tables")
        events = Table.for_definition(folder, "trips", TRIPS.fingerprint, TRIPS.id)
        table = Table.for_definition(
            folder, declared.name, declared.fingerprint, declared.join_keys
        )
        since = None
        for run in runs:
            until = from_micros(START + run)
            new = [
                version
                for version in rows_of(sorted(history, key=lambda version: version.known))
                if (since is None or START + version.known > micros(since)) and version.known <= run
            ]
            columns = [[getattr(version, name) for version in new] for name in COLUMNS]
            columns += [
                [START + version.event for version in new],
                [START + version.known for version in new],
                [version.is_withdrawn for version in new],
            ]
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
            ]
            connection.register("__events", pa.table(arrays, schema=SCHEMA))
            events.publish(connection, "FROM __events", until)
            if lost_before_last and run == runs[-1]:
                (folder / events.files()[0].path).unlink()
            rows = feature_rows(connection, declared, events, since, until)
            if rows is None:
                table.manifest.commit(table.version, [], until)
            else:
                table.publish(connection, rows, until)
            since = until
        return table.read()

    return build


def known_at(history, grid_time):
    """The newest version of each trip known at a grid time, without withdrawn trips."""
    newest = {}
    for version in sorted(history, key=lambda version: version.known):
        if version.known <= grid_time:
            newest[version.trip] = version
    return [version for version in newest.values() if not version.is_withdrawn]


def key_of(version, declared):
    return tuple(getattr(version, name) for name in declared.join_keys)


def in_window(history, declared, key, grid_time, minutes):
    """The newest versions known at the grid time g whose event time is in (g - window, g]."""
    return [
        version
        for version in known_at(history, grid_time)
        if key_of(version, declared) == key
        and grid_time - minutes * MINUTE < version.event <= grid_time
    ]


def by_hand(history, declared, key, grid_time):
    """The features of a key at a grid time, each by its plain formula."""
    trips = {
        minutes: in_window(history, declared, key, grid_time, minutes) for minutes in (1, 2, 3)
    }

    def values(measure, minutes):
        return [
            value for version in trips[minutes] if (value := getattr(version, measure)) is not None
        ]

    def of(function, measure, minutes):
        return function(values(measure, minutes)) if values(measure, minutes) else None

    def average(numbers):
        return float(sum(numbers)) / float(len(numbers))

    def deviation(numbers):
        return pytest.approx(
            float(statistics.pstdev(numbers)), rel=1e-12
        )  # all else is equal to the last bit

    return {
        "trips_count_1m": len(trips[1]),
        "trips_count_3m": len(trips[3]),
        "cents_sum_1m": of(sum, "cents", 1),
        "cents_sum_2m": of(sum, "cents", 2),
        "cents_mean_3m": of(average, "cents", 3),
        "cents_std_3m": of(deviation, "cents", 3),
        "fee_sum_2m": of(lambda fees: float(sum(fees)), "fee", 2),
        "fee_mean_2m": of(average, "fee", 2),
        "fee_std_2m": of(deviation, "fee", 2),
        "is_late_share_1m": of(average, "is_late", 1),
        "is_late_share_3m": of(average, "is_late", 3),
    }


@given(histories, runs, st.sampled_from(list(KEYS)))
def test_a_window_contains_the_newest_versions_known_at_each_grid_time(build, history, runs, name):
    declared = windowed(name)
    rows = build(declared, history, [10 * MINUTE])
    expected = {}
    for key in {
        key_of(version, declared) for version in history if None not in key_of(version, declared)
    }:
        for number in range(11):
            now, before = (
                [in_window(history, declared, key, (number - back) * MINUTE, m) for m in (1, 2, 3)]
                for back in (0, 1)
            )
            if now != before:
                expected[(*key, number)] = by_hand(history, declared, key, number * MINUTE)
    found = {}
    for row in rows.to_pylist():
        event, created = (micros(row.pop(time).replace(tzinfo=UTC)) - START for time in TIMES)
        assert created == event + READY
        found[(*(row.pop(key) for key in declared.join_keys), event // MINUTE)] = row
    assert found == expected
    assert canonical_hash(build(declared, history, runs)) == canonical_hash(rows)


@given(histories, runs, st.sampled_from(list(KEYS)))
def test_the_latest_event_is_the_newest_known_event(build, history, runs, name):
    declared = latest(name)
    rows = build(declared, history, [10 * MINUTE])
    told = [
        (
            tuple(row[key] for key in declared.join_keys),
            *(micros(row[time].replace(tzinfo=UTC)) - START for time in TIMES),
            row,
        )
        for row in rows.to_pylist()
    ]
    for key in {
        key_of(version, declared) for version in history if None not in key_of(version, declared)
    }:
        for number in range(11):
            for at in (
                number * MINUTE + READY,
                number * MINUTE + READY + MINUTE // 2,
                (number + 1) * MINUTE + READY - 1,
            ):
                alive = [
                    version
                    for version in known_at(history, number * MINUTE)
                    if key_of(version, declared) == key and version.event <= at
                ]
                newest = max(
                    alive,
                    key=lambda version: (version.event, version.known, -version.trip),
                    default=None,
                )
                shown = max(
                    (row for row in told if row[0] == key and row[1] <= at and row[2] <= at),
                    key=lambda row: row[1:3],
                    default=None,
                )
                values = None if shown is None else (shown[3]["trip"], shown[3]["cents"])
                assert values == (newest and (newest.trip, newest.cents)) or (
                    newest is None and values == (None, None)
                )
    assert canonical_hash(build(declared, history, runs)) == canonical_hash(rows)


def a_trip(trip, known, event, cents, driver=1):
    """A version of a trip; times in minutes."""
    return Version(
        trip, round(known * MINUTE), round(event * MINUTE), driver, None, cents, None, None
    )


def column(rows, name, driver=1):
    """The column by minute of the grid for one driver."""
    return {
        (micros(row["event_timestamp"].replace(tzinfo=UTC)) - START) // MINUTE: row[name]
        for row in sorted(rows.to_pylist(), key=lambda row: row["event_timestamp"])
        if row["driver"] == driver
    }


def test_a_row_exists_where_the_last_event_leaves_and_none_where_nothing_changes(build):
    rows = build(windowed("driver"), [a_trip(1, 2, 2, 70)], [10 * MINUTE])
    assert column(rows, "trips_count_1m") == {2: 1, 3: 0, 4: 0, 5: 0}
    assert column(rows, "cents_sum_2m") == {2: 70, 3: 70, 4: None, 5: None}
    assert column(rows, "trips_count_3m") == {2: 1, 3: 1, 4: 1, 5: 0}


def test_a_late_event_counts_from_the_first_grid_time_at_which_it_is_known(build):
    rows = build(windowed("driver"), [a_trip(1, 3.5, 2, 70)], [10 * MINUTE])
    assert column(rows, "trips_count_3m") == {4: 1, 5: 0}
    assert column(rows, "cents_sum_2m") == {4: None, 5: None}


def test_an_event_known_after_it_left_every_window_makes_no_row(build):
    assert build(windowed("driver"), [a_trip(1, 9, 2, 70)], [10 * MINUTE]).num_rows == 0


def test_a_correction_counts_instead_of_what_it_corrects(build):
    rows = build(windowed("driver"), [a_trip(1, 2, 2, 70), a_trip(1, 3, 2, 80)], [10 * MINUTE])
    assert column(rows, "cents_sum_2m") == {2: 70, 3: 80, 4: None, 5: None}


def test_a_correction_may_give_an_event_to_another_driver(build):
    rows = build(
        windowed("driver"), [a_trip(1, 2, 2, 70), a_trip(1, 3, 2, 70, driver=2)], [10 * MINUTE]
    )
    assert column(rows, "trips_count_3m", driver=1) == {2: 1, 3: 0}
    assert column(rows, "trips_count_3m", driver=2) == {3: 1, 4: 1, 5: 0}


def test_runs_between_grid_times_lose_nothing(build):
    history = [a_trip(1, 2.2, 2.1, 70), a_trip(2, 4.4, 4.4, 80)]
    for declared in (windowed("driver"), latest("driver")):
        at_once = build(declared, history, [10 * MINUTE])
        in_steps = build(
            declared, history, [round(minute * MINUTE) for minute in (2.3, 2.5, 3.5, 4.5, 5.5, 10)]
        )
        assert canonical_hash(in_steps) == canonical_hash(at_once)


def test_the_deviation_of_decimals_equals_that_of_their_values(build):
    fees = [Decimal("0.10"), Decimal("0.20"), Decimal("0.60")]
    history = [
        Version(number, 2 * MINUTE, 2 * MINUTE, 1, None, None, fee, None)
        for number, fee in enumerate(fees)
    ]
    assert column(build(windowed("driver"), history, [10 * MINUTE]), "fee_std_2m")[
        2
    ] == pytest.approx(statistics.pstdev(map(float, fees)))


def test_a_correction_that_moves_the_last_trip_back_restores_the_previous_one(build):
    history = [a_trip(1, 2, 2, 70), a_trip(2, 4, 4, 80), a_trip(2, 6, 1, 80)]
    rows = build(latest("driver"), history, [10 * MINUTE])
    told = [
        (
            row["trip"],
            micros(row["event_timestamp"].replace(tzinfo=UTC)) - START,
            row["created_timestamp"].minute,
        )
        for row in rows.to_pylist()
    ]
    # The row of the fourth minute stays the newest; from the sixth on it shows the trip of the
    # second minute.
    assert sorted(told, key=lambda row: row[2:]) == [
        (1, 2 * MINUTE, 2),
        (2, 4 * MINUTE, 4),
        (2, 1 * MINUTE, 6),
        (1, 4 * MINUTE, 6),
    ]


def test_a_correction_that_removes_a_drivers_only_trip_leaves_nulls(build):
    rows = build(
        latest("driver"), [a_trip(1, 2, 2, 70), a_trip(1, 3, 2, 70, driver=2)], [10 * MINUTE]
    )
    told = sorted(
        (row["driver"], row["created_timestamp"].minute, row["trip"]) for row in rows.to_pylist()
    )
    assert told == [(1, 2, 1), (1, 3, None), (2, 3, 1)]


def test_two_corrections_between_grid_times_count_as_one(build):
    history = [a_trip(1, 1, 1, 70), a_trip(1, 1.5, 1, 71), a_trip(1, 1.6, 1, 72, driver=2)]
    rows = build(latest("driver"), history, [10 * MINUTE])
    told = sorted(
        (row["driver"], row["created_timestamp"].minute, row["cents"]) for row in rows.to_pylist()
    )
    assert told == [(1, 1, 70), (1, 2, None), (2, 2, 72)]


def in_minutes(rows):
    """Event time and knowledge time in minutes and trip of each row, in order of knowledge time."""
    return sorted(
        (
            row["created_timestamp"].minute,
            (micros(row["event_timestamp"].replace(tzinfo=UTC)) - START) // MINUTE,
            row["trip"],
        )
        for row in rows.to_pylist()
    )


STEPS = [round(minute * MINUTE) for minute in (1.5, 4.5, 7.5, 10)]


def test_after_a_withdrawal_a_trip_of_any_age_is_the_newest_again(build):
    history = [a_trip(1, 1, 1, 70), a_trip(2, 4, 4, 80)]
    history.append(replace(history[1], known=7 * MINUTE, is_withdrawn=True))
    at_once = build(latest("driver"), history, [10 * MINUTE])
    assert in_minutes(at_once) == [(1, 1, 1), (4, 4, 2), (7, 4, 1)]
    assert canonical_hash(build(latest("driver"), history, STEPS)) == canonical_hash(at_once)


def test_a_withdrawn_trip_that_returns_is_the_newest_again(build):
    history = [a_trip(1, 1, 1, 70)]
    history.append(replace(history[0], known=3 * MINUTE, is_withdrawn=True))
    history.append(replace(history[0], known=6 * MINUTE))
    rows = build(latest("driver"), history, [10 * MINUTE])
    assert in_minutes(rows) == [(1, 1, 1), (3, 1, None), (6, 1, 1)]
    counts = column(build(windowed("driver"), history, [10 * MINUTE]), "trips_count_3m")
    assert counts == {1: 1, 2: 1, 3: 0}


def test_a_withdrawn_trip_leaves_every_window_when_its_withdrawal_is_known(build):
    history = [a_trip(1, 2, 2, 70), a_trip(2, 2, 2, 80)]
    history.append(replace(history[1], known=round(2.5 * MINUTE), is_withdrawn=True))
    rows = build(windowed("driver"), history, [10 * MINUTE])
    assert column(rows, "cents_sum_2m") == {2: 150, 3: 70, 4: None, 5: None}
    assert column(rows, "trips_count_3m") == {2: 2, 3: 1, 4: 1, 5: 0}


def test_a_run_reads_files_of_earlier_trips_only_after_a_withdrawal(build):
    history = [a_trip(1, 1, 1, 70), a_trip(2, 4, 4, 80), a_trip(3, 8, 8, 90)]
    corrected = replace(history[1], known=round(8.5 * MINUTE), cents=81)
    rows = build(latest("driver"), [*history, corrected], STEPS, lost_before_last=True)
    assert in_minutes(rows) == [(1, 1, 1), (4, 4, 2), (8, 8, 3), (9, 4, 2)]
    withdrawn = replace(history[1], known=round(8.5 * MINUTE), is_withdrawn=True)
    with pytest.raises(duckdb.IOException):
        build(latest("driver"), [*history, withdrawn], STEPS, lost_before_last=True)
