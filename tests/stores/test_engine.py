"""After a run, the online store shows what the offline join shows at the run's time."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.types import Float64, Int64, String, UnixTimestamp
from hypothesis import given
from hypothesis import strategies as st

from punctual.errors import BrokenTable, InvalidRequest, NotBuilt, StoreOutdated
from punctual.times import from_micros, micros
from stores.offline import historical_features
from stores.online import OnlineView, PackedDatabase, materialize_view
from stores.online.backends.sqlite import SqliteRecords
from stores.tables import Manifest, Table
from tests.stores.by_hand import open_store, table_source, utc

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
TRIPS = {"driver": pa.int64(), "trips": pa.int64()}


def a_source(folder):
    return table_source(folder / "tables" / "driver_trips")


def a_view(folder, *, source=None, ttl=timedelta(0), fingerprint="first", **features):
    schema = [
        Field(name="driver", dtype=Int64),
        *(Field(name=name, dtype=type_) for name, type_ in features.items()),
    ]
    tags = {"fingerprint": fingerprint}
    return FeatureView(
        name="driver_trips",
        entities=[DRIVER],
        schema=schema,
        source=source or a_source(folder),
        ttl=ttl,
        tags=tags,
    )


def at(hour, minute=0, microsecond=0):
    """A moment of 1 June 2013."""
    return utc(hour, minute, microsecond).replace(tzinfo=UTC)


@dataclass
class World:
    """A store with one view, its table and its online file."""

    store: FeatureStore
    view: FeatureView
    table: Table
    database: PackedDatabase

    def materialize(self, now, **more):
        return materialize_view(self.store.config, self.database, self.view, now=now, **more)

    def online(self, moment, *drivers):
        view = OnlineView.of("test", self.view)
        shown = self.database.read(
            view, [view.key(driver) for driver in drivers or (7,)], micros(moment)
        )
        return [row.values[0] if row.status == "PRESENT" else row.status for row in shown]


@pytest.fixture
def world(tmp_path):
    store = open_store(tmp_path)
    view = a_view(tmp_path, trips=Int64)
    store.apply([DRIVER, view])
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    database = PackedDatabase(SqliteRecords(tmp_path / "online.db"))
    yield World(store, view, table, database)
    database.close()


# Timestamps are a few microseconds, so that events, knowledge, runs and reads coincide.
moments = st.integers(0, 12)
drivers = st.sampled_from([1, 2**53 + 1, None])
numbers = st.sampled_from([None, 0, -1, 2**53 + 1])


@dataclass(frozen=True)
class Step:
    """What happens between two runs, and the run.

    Rows become known, the table is built, and the run may be killed.
    """

    rows: list
    built: int
    now: int
    dies: bool


@st.composite
def lives(draw):
    """Steps of a table that keeps its promise: rows take effect after the time built until then."""
    steps, seen, built, now = [], set(), -1, 0
    for _ in range(draw(st.integers(1, 4))):
        rows = []
        for driver, event, created, value in draw(
            st.lists(st.tuples(drivers, moments, moments, numbers), max_size=6)
        ):
            if max(event, created) > built and (driver, event, created) not in seen:
                seen.add((driver, event, created))
                rows.append((driver, value, event, created))
        built, now = max(built, draw(moments)), max(now, draw(moments))
        steps.append(Step(rows, built, now, draw(st.booleans())))
    return steps


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    store = open_store(folder)
    view = a_view(folder, trips=Int64, ttl=timedelta(microseconds=4))
    store.apply([DRIVER, view])
    return folder, store, view


class Killed(Exception):
    """Represents a process that dies after it wrote its rows and before it moved the watermark."""


@given(lives())
def test_online_after_a_run_is_what_the_offline_join_shows(shared, publish, steps):
    folder, store, view = shared
    (folder / "tables").rename(folder / f"tables{len(list(folder.glob('tables*')))}") if (
        folder / "tables"
    ).exists() else None
    database = PackedDatabase(
        SqliteRecords(folder / f"online{len(list(folder.glob('online*.db')))}.db")
    )
    table = Table.for_definition(folder / "tables", "driver_trips", "first", ("driver",))
    online = OnlineView.of("test", view)
    start = micros(NOON)

    def dies(_rows):
        raise Killed

    for step in steps:
        rows = [
            (driver, value, start + event, start + created)
            for driver, value, event, created in step.rows
        ]
        publish(table, TRIPS, rows, from_micros(start + step.built))
        run = {"now": from_micros(start + step.now)}
        if step.dies:
            try:
                materialize_view(store.config, database, view, **run, progress=dies)
            except Killed:
                materialize_view(store.config, database, view, **run)
        else:
            materialize_view(store.config, database, view, **run)
        assert materialize_view(store.config, database, view, **run).records == 0
        # The record is right until the next run, rows published ahead included.
        reached = min(step.now, step.built)
        entities = [
            (driver, moment) for driver in (1, 2**53 + 1, None) for moment in range(reached, 18)
        ]
        frame = pa.table(
            {
                "driver": pa.array([driver for driver, _ in entities], pa.int64()),
                "event_timestamp": pa.array(
                    [start + moment for _, moment in entities], pa.timestamp("us", "UTC")
                ),
            }
        )
        offline = historical_features(store, frame, ["driver_trips:trips"])[
            "driver_trips__trips"
        ].to_pylist()
        shown = [
            database.read(online, [online.key(driver)], start + moment)[0].values[0]
            for driver, moment in entities
        ]
        assert shown == offline
    database.close()


def test_a_run_writes_effective_rows_and_rows_published_ahead(world, publish):
    publish(
        world.table,
        TRIPS,
        [(7, 1, utc(10), utc(10, 5)), (7, 2, utc(11), utc(11, 5)), (8, 3, utc(11), utc(11, 5))],
        at(11),
    )
    done = world.materialize(at(11))
    assert (done.rows, done.records, done.until, done.missed) == (3, 2, at(11), 0)
    assert world.online(at(11), 7, 8, 9) == [1, "NOT_FOUND", "NOT_FOUND"]
    assert world.online(at(11, 5) - timedelta(microseconds=1)) == [1]
    assert world.online(at(11, 5), 7, 8) == [2, 3]


def test_a_run_goes_no_further_than_the_table_is_built(world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    assert world.materialize(at(23)).until == at(11)
    # Known at 12:00 and built only now: the run as of 23:00 did not skip it.
    publish(world.table, TRIPS, [(7, 2, utc(11), utc(12))], at(13))
    done = world.materialize(at(23))
    assert (done.until, done.missed) == (at(13), 1)
    assert world.online(at(13)) == [2]


def test_a_row_that_was_ahead_is_not_missed(world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.materialize(at(11))
    publish(world.table, TRIPS, [(7, 2, utc(11), utc(11, 5))], at(11))
    publish(world.table, TRIPS, [(8, 2, utc(12), utc(12, 5))], at(12))
    world.materialize(at(12))
    assert world.materialize(at(12)).records == 0
    publish(world.table, TRIPS, [], at(13))
    assert world.materialize(at(13)).missed == 0


def test_rows_that_come_online_after_their_time_on_the_wall_clock_are_missed(world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.materialize(at(11))
    publish(world.table, TRIPS, [(7, 2, utc(12), utc(12, 5)), (8, 2, utc(12), utc(12, 5))], at(12))
    assert world.materialize(at(12), clock=lambda: at(12, 5)).missed == 0
    publish(world.table, TRIPS, [(7, 3, utc(13), utc(13, 5)), (8, 3, utc(13), utc(13, 20))], at(13))
    assert world.materialize(at(13), clock=lambda: at(13, 5, 1)).missed == 1
    assert world.materialize(at(13), clock=lambda: at(13, 30)).missed == 0


def test_a_run_later_than_the_build_reports_the_rows_due_between_as_missed(world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.materialize(at(11))
    publish(world.table, TRIPS, [(7, 2, utc(12), utc(12, 5))], at(12))
    done = world.materialize(at(12, 6))
    assert (done.until, done.missed) == (at(12), 1)


def test_a_table_that_was_never_built_is_not_materialized(tmp_path, world, publish):
    with pytest.raises(NotBuilt, match="view 'driver_trips' has no table at"):
        world.materialize(NOON)
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))])
    with pytest.raises(NotBuilt, match="table 'driver_trips' has no finished build"):
        world.materialize(NOON)


def test_an_online_file_that_was_removed_is_filled_from_the_beginning(tmp_path, world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.materialize(NOON)
    (tmp_path / "online.db").unlink()
    assert world.materialize(NOON).records == 1
    assert world.online(NOON) == [1]


def test_a_view_that_was_removed_and_returns_is_filled_from_the_beginning(tmp_path, world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.store.materialize(at(0), NOON)
    world.store.apply(
        [], objects_to_delete=[world.store.get_feature_view("driver_trips")], partial=False
    )
    with pytest.raises(NotBuilt):
        world.online(NOON)
    world.store.apply([DRIVER, world.view])
    assert world.materialize(NOON).records == 1
    assert world.online(NOON) == [1]


def test_a_rebuild_starts_from_the_beginning(world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10)), (8, 2, utc(10), utc(10))], at(11))
    world.materialize(NOON)
    assert world.materialize(NOON).records == 0
    done = world.materialize(NOON, rebuild=True)
    assert (done.rows, done.records, done.missed) == (2, 2, 0)


def test_a_new_definition_reads_its_own_table_once_it_is_built(tmp_path, world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    world.materialize(NOON)
    second = World(
        world.store,
        a_view(tmp_path, trips=Int64, fingerprint="second"),
        world.table,
        world.database,
    )
    with pytest.raises(
        StoreOutdated, match="table 'driver_trips' was built from another definition"
    ):
        second.materialize(NOON)
    with pytest.raises(NotBuilt, match="not in the online store as it is defined now"):
        second.online(NOON)
    assert world.online(NOON) == [1]
    publish(
        Table.for_definition(tmp_path / "tables", "driver_trips", "second", ("driver",)),
        TRIPS,
        [(7, 2, utc(10), utc(10))],
        at(11),
    )
    second.materialize(NOON)
    assert second.online(NOON) == [2]
    # Once the current definition is complete, only its records remain.
    assert world.database.records.views("test") == {
        "driver_trips": [OnlineView.of("test", second.view).schema]
    }


def next_table(tables, fingerprint):
    """A new version of the table, even if its definition made one before."""
    version = Manifest(tables).next_version("driver_trips", fingerprint, ("driver",))
    return Table(tables, version)


def test_a_returning_definition_shows_nothing_of_its_older_table(tmp_path, world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(11), utc(11)), (8, 1, utc(11), utc(11))], at(11))
    world.materialize(NOON)
    for fingerprint in ("second", "first"):
        table = next_table(tmp_path / "tables", fingerprint)
        publish(table, TRIPS, [(7, 3, utc(11), utc(11))], at(11))
    assert table.version.version == 3
    world.materialize(NOON)
    assert world.online(NOON, 7, 8) == [3, "NOT_FOUND"]


def test_a_first_run_that_was_killed_leaves_nothing_of_an_older_table(tmp_path, world, publish):
    publish(world.table, TRIPS, [(7, 1, utc(11), utc(11)), (8, 1, utc(11), utc(11))], at(11))

    def killed(_):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            world.materialize(NOON, progress=killed)
        assert world.online(NOON, 7, 8) == [1, 1]
        for fingerprint in ("second", "first"):
            table = next_table(tmp_path / "tables", fingerprint)
            publish(table, TRIPS, [(7, 3, utc(11), utc(11))], at(11))
    world.materialize(NOON)
    assert world.online(NOON, 7, 8) == [3, "NOT_FOUND"]
    assert world.materialize(NOON).records == 0


def test_feast_materializes_and_reads_through_the_stores(world, publish):
    publish(
        world.table, TRIPS, [(7, 2**53 + 1, utc(10), utc(10)), (8, None, utc(10), utc(10))], at(11)
    )
    world.store.materialize(at(0), NOON)
    answer = world.store.get_online_features(
        ["driver_trips:trips"], [{"driver": 7}, {"driver": 8}, {"driver": 9}]
    ).to_dict()
    assert answer == {"driver": [7, 8, 9], "trips": [2**53 + 1, None, None]}
    publish(world.table, TRIPS, [(7, 5, utc(12), utc(12))], at(13))
    world.store.materialize_incremental(at(13))
    assert world.store.get_online_features(["driver_trips:trips"], [{"driver": 7}]).to_dict()[
        "trips"
    ] == [5]


def test_errors_reach_feast(world):
    with pytest.raises(NotBuilt, match="has no table at"):
        world.store.materialize(at(0), NOON)


def test_values_of_every_type_come_back_through_feast_as_they_were(tmp_path, publish):
    store = open_store(tmp_path)
    store.apply(
        [DRIVER, a_view(tmp_path, trips=Int64, rating=Float64, note=String, seen=UnixTimestamp)]
    )
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    columns = {
        "driver": pa.int64(),
        "trips": pa.int64(),
        "rating": pa.float64(),
        "note": pa.string(),
        "seen": pa.timestamp("us", "UTC"),
    }
    publish(
        table,
        columns,
        [
            (7, -(2**63), 0.1, "O'Hare ✈", at(9), utc(10), utc(10)),
            (8, None, None, None, None, utc(10), utc(10)),
        ],
        at(11),
    )
    store.materialize(at(0), NOON)
    features = [f"driver_trips:{name}" for name in ("trips", "rating", "note", "seen")]
    answer = store.get_online_features(features, [{"driver": 7}, {"driver": 8}]).to_dict()
    seen = answer.pop("seen")
    assert answer == {
        "driver": [7, 8],
        "trips": [-(2**63), None],
        "rating": [0.1, None],
        "note": ["O'Hare ✈", None],
    }
    assert [None if moment is None else micros(moment) for moment in seen] == [micros(at(9)), None]


def test_a_view_without_entities_has_one_online_row(tmp_path, publish):
    store = open_store(tmp_path)
    view = FeatureView(
        name="driver_trips",
        entities=[],
        schema=[Field(name="trips", dtype=Int64)],
        source=a_source(tmp_path),
    )
    store.apply([view])
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ())
    publish(table, {"trips": pa.int64()}, [(1, utc(10), utc(10)), (2, utc(11), utc(11))], at(11))
    store.materialize(at(0), NOON)
    with closing(PackedDatabase(SqliteRecords(tmp_path / "online.db"))) as database:
        online = OnlineView.of("test", store.get_feature_view("driver_trips"))
        (shown,) = database.read(online, [online.key("")], micros(NOON))
    assert shown.values == [2]


@pytest.fixture
def pushing(tmp_path, publish):
    """A store with a push source over the view's table, with one known row, built up to 11:00."""
    store = open_store(tmp_path)
    store.apply(
        [
            DRIVER,
            a_view(
                tmp_path,
                source=PushSource(name="trips_pushed", batch_source=a_source(tmp_path)),
                trips=Int64,
            ),
        ]
    )
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    publish(table, TRIPS, [(7, 1, utc(10), utc(10))], at(11))
    return store


def pushed(hour, trips=2, driver=7):
    times = [pd.Timestamp(at(hour))]
    return pd.DataFrame(
        {"driver": [driver], "trips": [trips], "event_timestamp": times, "created_timestamp": times}
    )


def trips_at(store, moment):
    frame = pa.table(
        {"driver": [7], "event_timestamp": pa.array([moment], pa.timestamp("us", "UTC"))}
    )
    return historical_features(store, frame, ["driver_trips:trips"])[
        "driver_trips__trips"
    ].to_pylist()


def test_pushed_rows_reach_both_stores(pushing):
    pushing.push("trips_pushed", pushed(12), to=PushMode.ONLINE_AND_OFFLINE)
    assert pushing.get_online_features(["driver_trips:trips"], [{"driver": 7}]).to_dict()[
        "trips"
    ] == [2]
    assert trips_at(pushing, at(12)) == [2]
    assert trips_at(pushing, at(11)) == [1]


def test_an_older_row_written_online_does_not_replace_a_newer_one(pushing):
    pushing.write_to_online_store("driver_trips", pushed(12, trips=2))
    pushing.write_to_online_store("driver_trips", pushed(11, trips=1))
    assert pushing.get_online_features(["driver_trips:trips"], [{"driver": 7}]).to_dict()[
        "trips"
    ] == [2]


def test_rows_pushed_for_a_closed_time_are_refused(pushing):
    with pytest.raises(BrokenTable, match="a late row needs a created_timestamp after that"):
        pushing.push("trips_pushed", pushed(11), to=PushMode.OFFLINE)
    assert trips_at(pushing, at(12)) == [1]


def test_pushed_values_that_do_not_fit_the_column_are_refused(pushing):
    with pytest.raises(
        InvalidRequest, match="rows pushed into view 'driver_trips' do not fit its columns"
    ):
        pushing.push("trips_pushed", pushed(12, trips=1.5), to=PushMode.OFFLINE)
    pushing.push("trips_pushed", pushed(12, trips=2.0), to=PushMode.OFFLINE)
    assert trips_at(pushing, at(12)) == [2]
