"""The as-of join against a loop over the history, through Feast and by our own function."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Bool, Float64, Int64, String
from hypothesis import given
from hypothesis import strategies as st

from punctual.errors import BrokenTable, InvalidRequest, NaiveTimestamp, NotBuilt, StoreOutdated
from punctual.times import from_micros, micros
from stores.offline import historical_features, point_in_time_join
from stores.offline.store import AsofOfflineStore
from stores.tables import Table
from tests.stores.by_hand import Row, at, open_store, shown, table_source, utc

# What is known too late is said in a warning; here it is the rule.
pytestmark = pytest.mark.filterwarnings("ignore:all features of view '.*' are null")
MICROSECOND = timedelta(microseconds=1)
NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
START = micros(datetime(2013, 6, 1, tzinfo=UTC))
DAY = 86_400_000_000

DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
CITY = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)


def a_view(folder, name, entities, features, ttl=timedelta(0), **more):
    schema = [
        Field(name=entity.join_key, dtype=Int64 if entity is DRIVER else String)
        for entity in entities
    ]
    schema += [Field(name=feature, dtype=type_) for feature, type_ in features.items()]
    return FeatureView(
        name=name,
        entities=entities,
        schema=schema,
        source=table_source(folder / "tables" / name),
        ttl=ttl,
        **more,
    )


@dataclass(frozen=True)
class ViewOfTest:
    keys: dict
    features: dict
    ttl: int
    key_values: st.SearchStrategy
    feature_values: st.SearchStrategy
    has_withdrawals: bool = True


drivers = st.sampled_from([1, 2**53, 2**53 + 1, -(2**63), None])
cities = st.sampled_from(["Oslo", "O'Hare", None])
counts = st.sampled_from([None, 0, -1, 2**53 + 1, 2**63 - 1])
VIEWS = {
    "driver_trips": ViewOfTest(
        {"driver": pa.int64()},
        {"trips": pa.int64(), "rating": pa.float64()},
        0,
        st.tuples(drivers),
        st.tuples(counts, st.sampled_from([None, 0.1, -0.0])),
    ),
    "city_driver_fares": ViewOfTest(
        {"city": pa.string(), "driver": pa.int64()},
        {"fare_y": pa.int64()},
        3,
        st.tuples(cities, drivers),
        st.tuples(counts),
        False,
    ),
    "city_weather": ViewOfTest(
        {"city": pa.string()},
        {"is_raining": pa.bool_()},
        DAY,
        st.tuples(cities),
        st.tuples(st.sampled_from([None, False, True])),
    ),
}
FEATURES = [f"{name}:{feature}" for name, view in VIEWS.items() for feature in view.features]
# Few timestamps, so that ties, ttl bounds and the day boundaries of files occur.
offsets = st.sampled_from([0, 1, 2, 3, 4, 5, DAY - 1, DAY, DAY + 1, DAY + 3, DAY + 4, 2 * DAY])


@st.composite
def histories(draw):
    """Rows of each view, in any order: late, corrected, withdrawn, tied or null."""
    everything = {}
    for name, view in VIEWS.items():
        withdrawn = st.sampled_from([None, False, True]) if view.has_withdrawals else st.just(False)
        row = st.tuples(
            view.key_values, offsets, offsets, view.feature_values, withdrawn, st.integers(1, 3)
        )
        drawn = draw(st.lists(row, max_size=10))
        if draw(st.booleans()):
            columns = list(zip(*drawn, strict=True)) if drawn else [[]] * 6
            drawn = list(
                zip(
                    columns[0],
                    *map(sorted, columns[1:3]),
                    *columns[3:5],
                    sorted(columns[5]),
                    strict=True,
                )
            )
        unique = {row[:3]: row for row in drawn}.values()
        commits = {
            commit: number
            for number, commit in enumerate(sorted({row[-1] for row in unique}), start=2)
        }
        everything[name] = [Row(*row[:5], commit=commits[row[-1]]) for row in unique]
    return everything


entity_frames = st.lists(st.tuples(drivers, cities, offsets), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One registry for all examples; each example has new tables."""
    folder = tmp_path_factory.mktemp("world")
    both = open_store(folder)
    both.apply(
        [
            DRIVER,
            CITY,
            a_view(folder, "driver_trips", [DRIVER], {"trips": Int64, "rating": Float64}),
            a_view(folder, "city_driver_fares", [CITY, DRIVER], {"fare_y": Int64}, 3 * MICROSECOND),
            a_view(folder, "city_weather", [CITY], {"is_raining": Bool}, timedelta(days=1)),
        ]
    )
    return folder, both, open_store(folder, point_in_time="event_time")


def publish_history(folder, history, publish):
    """Publishes each view's rows in up to three commits after an empty first one.

    Without the empty commit a view without rows would have no table.
    """
    number = 1 + len(list(folder.glob("tables*")))
    if (folder / "tables").exists():
        (folder / "tables").rename(folder / f"tables{number}")
    for name, view in VIEWS.items():
        table = Table.for_definition(folder / "tables", name, "first", tuple(view.keys))
        table.manifest.commit(table.version, [], None)
        for commit in sorted({row.commit for row in history[name]}):
            rows = [r for r in history[name] if r.commit == commit]
            marks = {"is_withdrawn": pa.bool_()} if view.has_withdrawals else {}
            values = [
                (
                    *r.keys,
                    *r.values,
                    *[r.is_withdrawn for _ in marks],
                    START + r.event,
                    START + r.created,
                )
                for r in rows
            ]
            publish(table, {**view.keys, **view.features, **marks}, values)


def frame_of(entities):
    return pa.table(
        {
            "driver": pa.array([driver for driver, _, _ in entities], pa.int64()),
            "label": pa.array(range(len(entities))),
            "city": pa.array([city for _, city, _ in entities], pa.string()),
            "event_timestamp": pa.array(
                [START + at for _, _, at in entities], pa.timestamp("us", "UTC")
            ),
        }
    )


def expected(history, entities, *, two_time=True):
    columns = {"driver": [], "label": list(range(len(entities))), "city": [], "event_timestamp": []}
    columns.update({ref.replace(":", "__"): [] for ref in FEATURES})
    for driver, city, moment in entities:
        row = {"driver": driver, "city": city}
        columns["driver"].append(driver)
        columns["city"].append(city)
        columns["event_timestamp"].append(from_micros(START + moment))
        for name, view in VIEWS.items():
            values = shown(
                history[name],
                tuple(row[key] for key in view.keys),
                moment,
                view.ttl,
                two_time=two_time,
            )
            for number, feature in enumerate(view.features):
                columns[f"{name}__{feature}"].append(None if values is None else values[number])
    return columns


@given(histories(), entity_frames)
def test_the_join_equals_reading_the_history_by_hand(world, publish, history, entities):
    folder, two_time, event_time = world
    publish_history(folder, history, publish)
    frame = frame_of(entities)
    by_hand = expected(history, entities)
    assert historical_features(two_time, frame, FEATURES).to_pydict() == by_hand
    as_pandas = frame.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    assert (
        two_time.get_historical_features(as_pandas, FEATURES, full_feature_names=True)
        .to_arrow()
        .to_pydict()
        == by_hand
    )
    in_event_time = event_time.get_historical_features(
        frame, FEATURES, full_feature_names=True
    ).to_arrow()
    assert in_event_time.to_pydict() == expected(history, entities, two_time=False)


@given(histories(), entity_frames, st.sampled_from([0.01, 1.0, 3.0]), st.booleans())
def test_the_join_over_rows_near_each_timestamp_equals_reading_the_history_by_hand(
    world, publish, history, entities, width, is_two_time
):
    folder, two_time, event_time = world
    publish_history(folder, history, publish)
    store = two_time if is_two_time else event_time
    # Without this patch a short history is joined as a whole.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.offline.asof.worth_narrowing", lambda *_: True)
        patch.setattr("stores.offline.asof.ROWS_PER_BUCKET", width)
        result = historical_features(store, frame_of(entities), FEATURES)
    assert result.to_pydict() == expected(history, entities, two_time=is_two_time)


@given(histories(), entity_frames, st.booleans())
def test_a_stream_of_batches_is_the_same_rows(world, publish, history, entities, near):
    folder, two_time, _ = world
    publish_history(folder, history, publish)
    with pytest.MonkeyPatch.context() as patch:
        if near:
            patch.setattr("stores.offline.asof.worth_narrowing", lambda *_: True)
        streamed(two_time, history, entities)


def streamed(two_time, history, entities):
    reader = point_in_time_join(two_time, frame_of(entities), FEATURES).to_reader(rows=3)
    assert reader.read_all().to_pydict() == expected(history, entities)


@given(histories(), entity_frames, offsets, st.tuples(*[st.integers(1, 4)] * 3))
def test_a_pinned_join_shows_only_rows_of_its_commit(
    world, publish, history, entities, as_of, commits
):
    folder, two_time, _ = world
    publish_history(folder, history, publish)
    pins = {name: (1, commit) for name, commit in zip(VIEWS, commits, strict=True)}
    then = {
        name: [row for row in rows if row.created <= as_of and row.commit <= pins[name][1]]
        for name, rows in history.items()
    }
    result = historical_features(
        two_time, frame_of(entities), FEATURES, as_of=from_micros(START + as_of), commits=pins
    )
    assert result.to_pydict() == expected(then, entities)


@pytest.fixture
def trips(tmp_path, publish):
    """A store with one view, `driver_trips`: 3 trips known from 12:00, corrected to 4 at 13:00."""
    store = open_store(tmp_path)
    store.apply([DRIVER, CITY, a_view(tmp_path, "driver_trips", [DRIVER], {"trips": Int64})])
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    publish(
        table,
        {"driver": pa.int64(), "trips": pa.int64()},
        [(7, 3, utc(11), utc(12)), (7, 4, utc(11), utc(13))],
    )
    return store


def trips_at(store, frame, **pins):
    return historical_features(store, frame, ["driver_trips:trips"], **pins)[
        "driver_trips__trips"
    ].to_pylist()


def test_a_value_is_shown_from_the_microsecond_at_which_it_became_known(trips):
    moments = [utc(11, 59), utc(12) - MICROSECOND, utc(12), utc(13) - MICROSECOND, utc(13), utc(23)]
    assert trips_at(trips, at(*moments)) == [None, None, 3, 3, 4, 4]


def test_as_of_takes_back_a_correction_that_came_later(trips):
    assert trips_at(trips, at(utc(23)), as_of=datetime(2013, 6, 1, 12, 59, tzinfo=UTC)) == [3]


def test_a_naive_as_of_is_refused(trips):
    with pytest.raises(NaiveTimestamp, match="no time zone"):
        trips_at(trips, at(utc(23)), as_of=utc(12))


def test_a_later_file_with_older_knowledge_does_not_hide_newer_rows(tmp_path, trips, publish):
    table = Table.current(tmp_path / "tables", "driver_trips")
    publish(table, {"driver": pa.int64(), "trips": pa.int64()}, [(7, 5, utc(12), utc(12, 30))])
    # The correction known from 13:00 describes 11:00; the row of 12:00 was known before it.
    assert trips_at(trips, at(utc(12), utc(12, 30), utc(13))) == [3, 5, 5]


def test_the_older_commit_may_have_the_row_known_last(tmp_path, trips, publish):
    table = Table.current(tmp_path / "tables", "driver_trips")
    publish(table, {"driver": pa.int64(), "trips": pa.int64()}, [(8, 1, utc(10), utc(16))])
    publish(table, {"driver": pa.int64(), "trips": pa.int64()}, [(8, 2, utc(12), utc(14))])
    assert trips_at(trips, at(utc(13), utc(14), utc(16), driver=8)) == [None, 2, 2]


def test_nanoseconds_are_cut_and_not_rounded(trips):
    around_noon = pa.array(
        [micros(NOON) * 1000 - 1, micros(NOON) * 1000 + 999], pa.timestamp("ns", "UTC")
    )
    frame = pa.table({"driver": [7, 7], "event_timestamp": around_noon})
    assert trips_at(trips, frame) == [None, 3]


def test_files_without_visible_rows_are_not_read(tmp_path, publish):
    store = open_store(tmp_path)
    store.apply(
        [
            DRIVER,
            a_view(tmp_path, "driver_trips", [DRIVER], {"trips": Int64}, ttl=timedelta(hours=1)),
        ]
    )
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    for rows in ([(7, 3, utc(1), utc(1))], [(7, 4, utc(12), utc(12))]):
        publish(table, {"driver": pa.int64(), "trips": pa.int64()}, rows)
    (tmp_path / "tables" / table.files()[0].path).unlink()
    assert trips_at(store, at(utc(12), utc(13), utc(13) + MICROSECOND)) == [4, 4, None]
    # An hour after its event the row of the first file is still visible.
    with pytest.raises(BrokenTable, match="is in the manifest and cannot be read"):
        trips_at(store, at(utc(2)))


def test_a_timestamp_in_another_zone_is_the_same_timestamp(trips):
    in_new_york = pd.DataFrame(
        {
            "driver": [7],
            "event_timestamp": pd.to_datetime(["2013-06-01 08:00"]).tz_localize("America/New_York"),
        }
    )
    assert trips_at(trips, in_new_york) == [3]


def test_entity_rows_with_null_timestamps_are_counted_and_refused(trips):
    # DuckDB's ASOF join would treat a null as later than every timestamp.
    with pytest.raises(InvalidRequest, match="1 of 2 entity rows have no event_timestamp"):
        trips_at(trips, at(None, utc(12)))


def test_naive_entity_times_are_refused(trips):
    naive = pa.table({"driver": [7], "event_timestamp": pa.array([utc(12)], pa.timestamp("us"))})
    with pytest.raises(NaiveTimestamp, match=r"expected timestamps with a time zone"):
        trips_at(trips, naive)
    with pytest.raises(NaiveTimestamp, match=r"expected timestamps with a time zone"):
        trips_at(trips, naive.to_pandas())
    with pytest.raises(NaiveTimestamp, match=r"expected timestamps with a time zone"):
        trips.get_historical_features(naive, ["driver_trips:trips"]).to_arrow()


def test_entity_rows_without_the_key_are_refused_by_its_name(trips):
    with pytest.raises(
        InvalidRequest,
        match="view 'driver_trips' is keyed by 'driver'; the entity rows have no such column",
    ):
        trips_at(trips, at(utc(12)).drop_columns(["driver"]))


def test_entity_rows_without_a_timestamp_column_are_refused(trips):
    with pytest.raises(
        InvalidRequest,
        match="entity rows need a column 'event_timestamp', or one timestamp under another name;"
        " they have the columns driver",
    ):
        trips_at(trips, at(utc(12)).drop_columns(["event_timestamp"]))


def test_a_key_of_another_case_is_another_column(trips):
    assert trips_at(trips, at(utc(12)).add_column(0, "Driver", pa.array([8]))) == [3]


def test_a_frame_column_with_the_name_of_a_feature_is_not_overwritten(trips):
    with pytest.raises(
        InvalidRequest,
        match="feature 'trips' of view 'driver_trips' has the name of another column",
    ):
        trips.get_historical_features(
            at(utc(12)).append_column("trips", pa.array([0])), ["driver_trips:trips"]
        ).to_arrow()


def test_no_entity_rows_give_the_columns_and_no_row(trips):
    none = historical_features(trips, at(), ["driver_trips:trips"])
    assert none.schema.names == ["driver", "event_timestamp", "driver_trips__trips"]
    assert none.schema.field("driver_trips__trips").type == pa.int64()
    assert none.num_rows == 0


def test_without_entity_rows_the_rows_of_the_view_are_used(trips):
    job = trips.get_historical_features(
        features=["driver_trips:trips"],
        start_date=NOON - timedelta(hours=1),
        end_date=NOON,
        filter_by_created_timestamp=False,
    )
    # At its own event time the row was not known yet.
    assert job.to_arrow().to_pydict() == {
        "driver": [7],
        "event_timestamp": [NOON - timedelta(hours=1)],
        "trips": [None],
    }


def test_the_entity_frame_may_be_sql(trips):
    sql = "SELECT 7 AS driver, TIMESTAMPTZ '2013-06-01 13:00:00+00' AS event_timestamp"
    assert trips.get_historical_features(sql, ["driver_trips:trips"]).to_df()["trips"].tolist() == [
        4
    ]


def test_a_table_without_rows_gives_nulls_of_the_declared_type(tmp_path, trips):
    trips.apply([CITY, a_view(tmp_path, "city_weather", [CITY], {"is_raining": Bool})])
    table = Table.for_definition(tmp_path / "tables", "city_weather", "first", ("city",))
    table.manifest.commit(table.version, [], NOON)
    frame = pa.table(
        {"city": ["Oslo"], "event_timestamp": pa.array([NOON], pa.timestamp("us", "UTC"))}
    )
    column = historical_features(trips, frame, ["city_weather:is_raining"])[
        "city_weather__is_raining"
    ]
    assert column.type == pa.bool_() and column.to_pylist() == [None]


def test_a_view_that_was_never_built_is_an_error_with_the_command_to_run(tmp_path, trips):
    trips.apply([CITY, a_view(tmp_path, "city_weather", [CITY], {"is_raining": Bool})])
    frame = pa.table(
        {"city": ["Oslo"], "event_timestamp": pa.array([NOON], pa.timestamp("us", "UTC"))}
    )
    with pytest.raises(NotBuilt, match=r"view 'city_weather' has no table at .*; build it first"):
        historical_features(trips, frame, ["city_weather:is_raining"])


def test_a_feature_that_the_table_lacks_is_named_with_its_view(tmp_path, trips):
    trips.apply([a_view(tmp_path, "driver_trips", [DRIVER], {"trips": Int64, "stops": Int64})])
    with pytest.raises(
        BrokenTable, match="view 'driver_trips' declares stops, which .*parquet does not have"
    ):
        historical_features(trips, at(utc(12)), ["driver_trips:stops"])


def test_a_table_of_another_definition_is_not_joined(tmp_path, trips):
    trips.apply(
        [
            a_view(
                tmp_path, "driver_trips", [DRIVER], {"trips": Int64}, tags={"fingerprint": "second"}
            )
        ]
    )
    with pytest.raises(
        StoreOutdated, match="table 'driver_trips' was built from another definition"
    ):
        trips_at(trips, at(utc(12)))
    # An earlier training set is pinned to a version and ignores the current definition.
    assert trips_at(trips, at(utc(12)), commits={"driver_trips": (1, 1)}) == [3]


def test_a_pinned_join_needs_a_commit_of_each_table(trips):
    with pytest.raises(NotBuilt, match="pins no commit of table 'driver_trips'"):
        trips_at(trips, at(utc(12)), commits={})
    with pytest.raises(NotBuilt, match="table 'driver_trips' no longer has version 2"):
        trips_at(trips, at(utc(12)), commits={"driver_trips": (2, 1)})


def test_names_with_quotes_and_odd_suffixes_are_kept(tmp_path, publish):
    key, feature, other = 'driver\'s "id"', 'fare "net"; --', "fare_y"
    driver = Entity(name="driver", join_keys=[key], value_type=ValueType.INT64)
    schema = [
        Field(name=key, dtype=Int64),
        Field(name=feature, dtype=Int64),
        Field(name=other, dtype=Int64),
    ]
    store = open_store(tmp_path)
    store.apply(
        [
            driver,
            FeatureView(
                name="odd",
                entities=[driver],
                schema=schema,
                source=table_source(tmp_path / "tables" / "odd"),
            ),
        ]
    )
    table = Table.for_definition(tmp_path / "tables", "odd", "first", (key,))
    publish(
        table,
        {key: pa.int64(), feature: pa.int64(), other: pa.int64()},
        [(7, 1, 2, utc(11), utc(12))],
    )
    frame = at(utc(12)).rename_columns([key, "event_timestamp"])
    result = store.get_historical_features(frame, [f"odd:{feature}", f"odd:{other}"]).to_arrow()
    assert result.to_pydict() == {key: [7], "event_timestamp": [NOON], feature: [1], other: [2]}


def test_a_view_may_be_joined_twice_under_two_keys(tmp_path, trips, publish):
    table = Table.current(tmp_path / "tables", "driver_trips")
    publish(table, {"driver": pa.int64(), "trips": pa.int64()}, [(8, 9, utc(11), utc(12))])
    view = trips.get_feature_view("driver_trips")
    one, other = (
        view.with_name(name).with_join_key_map({"driver": key})
        for name, key in (("first", "one"), ("second", "other"))
    )
    trips.apply([FeatureService(name="pairs", features=[one, other])])
    frame = pa.table(
        {
            "one": [7, 8],
            "other": [8, 7],
            "event_timestamp": pa.array([NOON, NOON], pa.timestamp("us", "UTC")),
        }
    )
    result = historical_features(trips, frame, trips.get_feature_service("pairs"))
    assert (result["first__trips"].to_pylist(), result["second__trips"].to_pylist()) == (
        [3, 9],
        [9, 3],
    )


def test_a_view_without_entities_has_one_history(tmp_path, publish):
    store = open_store(tmp_path)
    store.apply([a_view(tmp_path, "fuel_price", [], {"cents": Int64})])
    table = Table.for_definition(tmp_path / "tables", "fuel_price", "first", ())
    publish(table, {"cents": pa.int64()}, [(150, utc(11), utc(12)), (160, utc(12), utc(13))])
    result = historical_features(store, at(utc(11), utc(12), utc(13)), ["fuel_price:cents"])
    assert result["fuel_price__cents"].to_pylist() == [None, 150, 160]


def test_foreign_files_are_joined_and_cut_in_the_same_way(tmp_path):
    store = open_store(tmp_path)
    store.apply([DRIVER, a_view(tmp_path, "driver_trips", [DRIVER], {"trips": Int64})])
    (tmp_path / "tables").mkdir()
    times = (
        pa.array([utc(11), utc(11)], pa.timestamp("us")),
        pa.array([utc(12), utc(13)], pa.timestamp("us")),
    )
    rows = pa.table(
        {
            "driver": [7, 7],
            "trips": [3, 4],
            "event_timestamp": times[0],
            "created_timestamp": times[1],
        }
    )
    pq.write_table(rows, tmp_path / "tables" / "driver_trips")
    assert trips_at(store, at(utc(11), utc(12), utc(13))) == [None, 3, 4]
    assert trips_at(store, at(utc(13)), as_of=NOON) == [3]
    with pytest.raises(NotBuilt, match="have no commits"):
        trips_at(store, at(utc(13)), commits={})


def test_joins_from_many_threads_are_the_same(trips):
    frame = at(*[utc(11) + minute * timedelta(minutes=1) for minute in range(600)])
    alone = trips_at(trips, frame)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: trips_at(trips, frame), range(12)))
    assert together == [alone] * 12


def test_a_join_can_be_saved_as_a_file(tmp_path, trips):
    job = trips.get_historical_features(at(utc(12)), ["driver_trips:trips"])
    place = SavedDatasetFileStorage(str(tmp_path / "set.parquet"))
    job.persist(place)
    assert pq.read_table(tmp_path / "set.parquet")["trips"].to_pylist() == [3]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(place)


def test_feasts_pull_methods_read_the_newest_and_all_rows(trips):
    source = trips.get_feature_view("driver_trips").batch_source
    asked = (
        trips.config,
        source,
        ["driver"],
        ["trips"],
        "event_timestamp",
        "created_timestamp",
        NOON - timedelta(hours=1),
        NOON,
    )
    assert AsofOfflineStore.pull_latest_from_table_or_query(*asked).to_arrow()[
        "trips"
    ].to_pylist() == [4]
    assert sorted(
        AsofOfflineStore.pull_all_from_table_or_query(*asked).to_arrow()["trips"].to_pylist()
    ) == [3, 4]
