"""Features and keys of every type and name are returned unchanged, in every output form."""

import inspect
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, Bool, Bytes, Float64, Int32, Int64, String, Struct, UnixTimestamp

from punctual.errors import InvalidDeclaration, InvalidRequest
from stores.offline.store import AsofOfflineStore
from tests.stores.by_hand import at, utc
from tests.stores.every_type import BIG, EVERY_TYPE

TIMES = ("event_timestamp", "created_timestamp")
# Values that table files can store and Feast's messages cannot: nulls inside values,
# microseconds, Arrow maps.
IN_FILES = {
    "moment": utc(3, microsecond=1).replace(tzinfo=UTC),
    "map": [("a", "b"), ("c", None)],
    "int32s": [1, None, 3],
    "int64s": [BIG, None],
    "float32s": [0.5, None],
    "float64s": [],
    "strings": ["a", None, ""],
    "bytess": [b"a", None],
    "bools": [True, None],
    "moments": [utc(3).replace(tzinfo=UTC), None],
    "maps": [[("a", "b")], []],
    "structs": [{"gate": "B7"}, {"gate": None}],
    "lists": [[BIG], [], None],
}
VALUES = {name: IN_FILES.get(name, value) for name, (_, value) in EVERY_TYPE.items()}
FEATURES = {name: type_ for name, (type_, _) in EVERY_TYPE.items()}


@pytest.mark.parametrize("is_held", [False, True])
def test_features_of_every_type_are_read_as_they_were_written(views, monkeypatch, is_held):
    monkeypatch.setattr("stores.offline.join.worth_loading", lambda *_: is_held)
    nothing = [None] * len(FEATURES)
    views.add(
        "v",
        features=FEATURES,
        rows=[(7, *VALUES.values(), utc(9), utc(9)), (8, *nothing, utc(9), utc(9))],
    )
    frame = pa.concat_tables([at(utc(10)), at(utc(8)), at(utc(10), driver=8), at(utc(10))])
    refs = [f"v:{name}" for name in FEATURES]
    at_once = views.job(frame, *refs).to_arrow()
    for name, value in VALUES.items():
        assert at_once[f"v__{name}"].to_pylist() == [value, None, None, value], name
    stream = views.job(frame, *refs).to_reader(rows=3)
    assert stream.schema == at_once.schema
    assert stream.read_all().to_pylist() == at_once.to_pylist()


@pytest.mark.parametrize("unit", ["us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_come_out_in_utc_whatever_zone_the_files_have(views, unit, zone):
    views.add(
        features={
            "seen": UnixTimestamp,
            "seen_at": Array(UnixTimestamp),
            "last": Struct({"seen": UnixTimestamp}),
        }
    )
    seen = pa.array([utc(3, microsecond=1)], pa.timestamp(unit, zone))
    columns = {
        "seen": seen,
        "seen_at": pa.ListArray.from_arrays([0, 1], seen),
        "last": pa.StructArray.from_arrays([seen], ["seen"]),
    }
    views.write(
        "driver_trips",
        pa.table(
            {
                "driver": [7],
                **columns,
                **dict.fromkeys(TIMES, pa.array([utc(9)], pa.timestamp("us"))),
            }
        ),
    )
    job = views.job(at(utc(8), utc(10)), *(f"driver_trips:{name}" for name in columns))
    moment = utc(3, microsecond=1).replace(tzinfo=UTC)
    for table in (job.to_arrow(), job.to_reader().read_all()):
        assert table.schema.field("driver_trips__seen").type == pa.timestamp(unit, "UTC")
        assert table["driver_trips__seen"].to_pylist() == [None, moment]
        assert table["driver_trips__seen_at"].to_pylist() == [None, [moment]]
        assert table["driver_trips__last"].to_pylist() == [None, {"seen": moment}]


def test_nanoseconds_of_a_feature_are_kept(views):
    views.add(features={"seen": UnixTimestamp})
    seen = pa.array([1_370_088_000_000_000_001], pa.timestamp("ns", "UTC"))
    views.write(
        "driver_trips",
        pa.table(
            {
                "driver": [7],
                "seen": seen,
                **dict.fromkeys(TIMES, pa.array([utc(9)], pa.timestamp("us"))),
            }
        ),
    )
    job = views.job(at(utc(10)), "driver_trips:seen")
    assert job.to_arrow()["driver_trips__seen"].cast(pa.int64()).to_pylist() == [
        1_370_088_000_000_000_001
    ]
    assert job.to_reader().read_all()["driver_trips__seen"].cast(pa.int64()).to_pylist() == [
        1_370_088_000_000_000_001
    ]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_whole_microseconds_may_be_written_as_nanoseconds(views, zone):
    views.add()
    event, created = (
        pa.array([moment], pa.timestamp("ns", zone))
        for moment in (utc(9, microsecond=1), utc(10, microsecond=1))
    )
    views.write(
        "driver_trips",
        pa.table(
            {"driver": [7], "trips": [3], "event_timestamp": event, "created_timestamp": created}
        ),
    )
    assert views.shown(at(utc(10), utc(10, microsecond=1))) == [None, 3]
    by_event = views.opened(point_in_time="event_time")
    assert views.shown(at(utc(9), utc(9, microsecond=1)), store=by_event) == [None, 3]


def test_text_that_repeats_may_be_written_with_a_dictionary(views):
    views.add(keys={"driver": String}, features={"city": String, "cities": Array(String)})
    city = pa.array(["Oslo", "Rome"]).dictionary_encode()
    times = dict.fromkeys(TIMES, pa.array([utc(9)] * 2, pa.timestamp("us")))
    views.write(
        "driver_trips",
        pa.table(
            {
                "driver": pa.array(["a", "b"]).dictionary_encode(),
                "city": city,
                "cities": [["x"], []],
                **times,
            }
        ),
    )
    job = views.job(
        pa.concat_tables([at(utc(10), driver="b"), at(utc(10), driver="c")]),
        "driver_trips:city",
        "driver_trips:cities",
    )
    for table in (job.to_arrow(), job.to_reader().read_all()):
        assert table["driver_trips__city"].to_pylist() == ["Rome", None]
        assert table["driver_trips__cities"].to_pylist() == [[], None]


@pytest.mark.parametrize("is_built", [False, True])
def test_no_feature_may_have_the_name_of_the_withdrawal_column(views, is_built):
    views.add(features={"trips": Int64}, rows=[(7, 3, utc(9), utc(9))] if is_built else ())
    schema = [Field(name="driver", dtype=Int64), Field(name="is_withdrawn", dtype=Bool)]
    view = views.store.get_feature_view("driver_trips")
    views.store.apply(
        [
            FeatureView(
                name="driver_trips",
                entities=[Entity(name="driver")],
                schema=schema,
                source=view.batch_source,
            )
        ]
    )
    match = (
        "view 'driver_trips' has 1 problem:\n  - 'is_withdrawn' is reserved for the column"
        " that marks withdrawn rows"
    )
    with pytest.raises(InvalidDeclaration, match=match):
        views.shown(at(utc(10)), "driver_trips:is_withdrawn")
    with pytest.raises(InvalidDeclaration, match=match):
        AsofOfflineStore.offline_write_batch(
            views.store.config, views.store.get_feature_view("driver_trips"), at(utc(10)), None
        )


def test_an_empty_table_has_columns_of_every_declared_type(views):
    refs = [f"v:{name}" for name in FEATURES]
    views.add("v", features=FEATURES)
    views.publish("v", []).manifest.commit(views.publish("v", []).version, [], None)
    empty = views.job(at(utc(10)), *refs).to_arrow()
    assert all(column.to_pylist() == [None] for column in empty.columns[2:])
    assert views.job(at(utc(10)), *refs).to_reader().schema == empty.schema
    views.publish("v", [(7, *VALUES.values(), utc(9), utc(9))])
    assert views.job(at(utc(10)), *refs).to_arrow().schema == empty.schema


def test_integers_among_nulls_keep_all_digits(views):
    views.add(
        "v",
        features={"count": Int64, "counts": Array(Int64)},
        rows=[(7, BIG, [BIG, None], utc(9), utc(9))],
    )
    job = views.job(at(utc(8), utc(9)), "v:count", "v:counts")
    assert job.to_arrow()["v__count"].to_pylist() == [None, BIG]
    frame = job.to_df()
    assert frame["v__count"].dtype == pd.Int64Dtype()
    assert frame["v__count"].tolist() == [pd.NA, BIG]
    assert frame["v__counts"][1].tolist() == [BIG, None]
    assert views.store.get_historical_features(at(utc(8), utc(9)), ["v:count"]).to_df()[
        "count"
    ].tolist() == [pd.NA, BIG]
    assert job.to_polars()["v__count"].to_list() == [None, BIG]


KEYS = [
    (String, "O'Hare", "ohare"),
    (Int64, BIG, BIG - 1),
    (Int32, -1, 1),
    (Bytes, b"\x00'\xff", b"\x00"),
    (UnixTimestamp, utc(3, microsecond=1), utc(3)),
]


@pytest.mark.parametrize(
    ("type_", "key", "other"), KEYS, ids=["string", "int64", "int32", "bytes", "timestamp"]
)
def test_a_key_may_be_of_any_type(views, type_, key, other):
    views.add("v", {"driver": type_}, rows=[(key, 3, utc(9), utc(9)), (None, 4, utc(9), utc(9))])
    frame = pa.concat_tables([at(utc(10), driver=key), at(utc(10), driver=other)])
    nobody = pa.table({"driver": pa.nulls(1), "event_timestamp": frame["event_timestamp"][:1]})
    with_null = pa.concat_tables([frame, nobody], promote_options="permissive")
    assert views.shown(with_null, "v:trips") == [3, None, None]
    as_pandas = with_null.to_pandas(
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}.get
    )
    assert views.shown(as_pandas, "v:trips") == [3, None, None]
    assert views.job(with_null, "v:trips").to_reader().read_all()["v__trips"].to_pylist() == [
        3,
        None,
        None,
    ]


def test_a_timestamp_key_may_have_a_zone(views):
    views.add("v", {"driver": UnixTimestamp}, rows=[(utc(12), 3, utc(9), utc(9))])
    in_new_york = pa.array([utc(12)], pa.timestamp("ns", "America/New_York"))
    assert views.shown(at(utc(10)).set_column(0, "driver", in_new_york), "v:trips") == [3]


def test_views_of_one_frame_may_have_different_keys_and_composite_ones(views):
    views.add("by_driver", {"driver": Int64}, rows=[(7, 1, utc(9), utc(9))])
    views.add("by_city", {"city": String}, rows=[("Oslo", 2, utc(9), utc(9))])
    views.add(
        "by_both",
        {"city": String, "driver": Int64},
        rows=[("Oslo", 7, 3, utc(9), utc(9)), ("Rome", 7, 4, utc(9), utc(9))],
    )
    frame = pa.table(
        {
            "city": ["Oslo", "Rome", None, "Oslo"],
            "driver": [7, 7, 7, 8],
            "event_timestamp": pa.array([utc(10)] * 4, pa.timestamp("us", "UTC")),
        }
    )
    result = (
        views.job(frame, "by_driver:trips", "by_both:trips", "by_city:trips").to_arrow().to_pydict()
    )
    assert result["by_driver__trips"] == [1, 1, 1, None]
    assert result["by_both__trips"] == [3, 4, None, None]
    assert result["by_city__trips"] == [2, None, None, 2]


def test_short_names_are_the_features_own(views):
    views.add(
        "v", features={"fare_y": Int64, 'say "fare"': Int64}, rows=[(7, 1, 2, utc(9), utc(9))]
    )
    result = views.store.get_historical_features(
        at(utc(10)), ["v:fare_y", 'v:say "fare"']
    ).to_arrow()
    assert result.column_names == ["driver", "event_timestamp", "fare_y", 'say "fare"']
    assert (result["fare_y"].to_pylist(), result['say "fare"'].to_pylist()) == ([1], [2])


def test_features_that_differ_only_in_case_are_two(views):
    views.add("v", features={"trips": Int64, "Trips": Int64})
    times = dict.fromkeys(
        ("event_timestamp", "created_timestamp"), pa.array([utc(9)], pa.timestamp("us"))
    )
    views.write("v", pa.table({"Trips": [1], "driver": [7], "trips": [2], **times}))
    for table in (
        views.job(at(utc(10)), "v:trips", "v:Trips").to_arrow(),
        views.job(at(utc(10)), "v:trips", "v:Trips").to_reader().read_all(),
    ):
        assert (table["v__trips"].to_pylist(), table["v__Trips"].to_pylist()) == ([2], [1])


def test_features_keys_and_times_may_have_other_names_in_the_files(views):
    mapping = {
        "drv": "driver",
        "n": "trips",
        "happened": "event_timestamp",
        "known": "created_timestamp",
    }
    views.add(field_mapping=mapping)
    times = {
        "happened": pa.array([utc(9)], pa.timestamp("us")),
        "known": pa.array([utc(11)], pa.timestamp("us")),
    }
    views.write("driver_trips", pa.table({"drv": [7], "n": [3], **times}))
    assert views.shown(at(utc(10), utc(11))) == [None, 3]
    assert views.shown(at(utc(9)), store=views.opened(point_in_time="event_time")) == [3]


def test_without_created_times_a_row_is_known_at_its_event_time(views):
    views.add(created_timestamp_column="")
    views.write(
        "driver_trips",
        pa.table(
            {"driver": [7], "trips": [3], "event_timestamp": pa.array([utc(9)], pa.timestamp("us"))}
        ),
    )
    assert views.shown(at(utc(9) - timedelta(microseconds=1), utc(9))) == [None, 3]


def test_the_bounds_of_ttl_are_exact_to_the_microsecond(views):
    views.add(rows=[(7, 3, utc(9), utc(9))], ttl=timedelta(hours=1))
    edge, step = utc(10), timedelta(microseconds=1)
    assert views.shown(at(utc(9) - step, utc(9), edge, edge + step)) == [None, 3, 3, None]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        # At 7:00 UTC clocks go from 2:00 to 3:00; at 6:00 UTC in November from 2:00 back to 1:00.
        (datetime(2013, 3, 10, 7), ["01:30-05:00", "03:30-04:00"]),
        (datetime(2013, 11, 3, 6), ["01:30-04:00", "01:30-05:00"]),
    ],
)
def test_a_skipped_or_repeated_hour_is_no_other_time(views, change, rows):
    half = timedelta(minutes=30)
    views.add(rows=[(7, 1, change - 2 * half, change - 2 * half), (7, 2, change, change)])
    moments = [(change - half).replace(tzinfo=UTC), (change + half).replace(tzinfo=UTC)]
    local = [moment.astimezone(ZoneInfo("America/New_York")) for moment in moments]
    assert [moment.isoformat()[11:16] + moment.isoformat()[-6:] for moment in local] == rows
    frame = pd.DataFrame(
        {
            "driver": [7, 7],
            "event_timestamp": pd.DatetimeIndex(moments).tz_convert("America/New_York"),
        }
    )
    assert views.shown(frame) == [1, 2]
    arrow = pa.table(
        {
            "driver": [7, 7],
            "event_timestamp": pa.array(local, pa.timestamp("us", "America/New_York")),
        }
    )
    result = views.job(arrow, "driver_trips:trips").to_arrow()
    assert result["driver_trips__trips"].to_pylist() == [1, 2]
    assert result.schema.field("event_timestamp").type.tz == "America/New_York"
    sql = " UNION ALL ".join(
        f"SELECT 7 AS driver, TIMESTAMPTZ '{moment.isoformat()}' AS event_timestamp"
        for moment in local
    )
    assert views.shown(sql) == [1, 2]


def cents_per_trip(inputs):
    return {
        "cents_per_trip": [
            None if trips is None else cents / trips
            for trips, cents in zip(inputs["trips"], inputs["cents"])  # noqa: B905
        ]
    }


def one_cents_per_trip(inputs):
    return {
        "cents_per_trip": None if inputs["trips"] is None else inputs["cents"] / inputs["trips"]
    }


@pytest.fixture(params=[False, True], ids=["all rows", "row by row"])
def on_demand(views, request):
    views.add(rows=[(7, 4, utc(9), utc(9))])
    function = one_cents_per_trip if request.param else cents_per_trip
    fares = OnDemandFeatureView(
        name="fares",
        sources=[
            views.store.get_feature_view("driver_trips"),
            RequestSource(name="asked", schema=[Field(name="cents", dtype=Int64)]),
        ],
        schema=[Field(name="cents_per_trip", dtype=Float64)],
        mode="python",
        singleton=request.param,
        feature_transformation=PythonTransformation(
            function, inspect.getsource(function), singleton=request.param
        ),
    )
    views.store.apply([fares])
    return views


def test_on_demand_features_are_the_same_in_every_form(on_demand, tmp_path):
    frame = at(utc(8), utc(9), utc(10)).append_column("cents", [[100, 200, 300]])
    job = on_demand.job(frame, "driver_trips:trips", "fares:cents_per_trip")
    expected = [None, 50.0, 75.0]
    assert job.to_arrow()["fares__cents_per_trip"].to_pylist() == expected
    assert job.to_reader(rows=2).read_all()["fares__cents_per_trip"].to_pylist() == expected
    assert (
        pd.read_parquet(job.to_parquet(tmp_path / "out.parquet"))["fares__cents_per_trip"].tolist()[
            1:
        ]
        == expected[1:]
    )
    assert job.to_polars()["fares__cents_per_trip"].to_list() == expected
    short = on_demand.store.get_historical_features(frame, ["fares:cents_per_trip"]).to_arrow()
    assert short["cents_per_trip"].to_pylist() == expected


def test_on_demand_features_of_no_rows_have_their_types(on_demand, tmp_path):
    frame = at().append_column("cents", pa.array([[]], pa.list_(pa.int64())).flatten())
    job = on_demand.job(frame, "driver_trips:trips", "fares:cents_per_trip")
    for table in (job.to_arrow(), job.to_reader().read_all()):
        assert (table.num_rows, table.schema.field("fares__cents_per_trip").type) == (
            0,
            pa.float64(),
        )


def test_request_data_that_is_missing_is_named_whatever_the_frame(on_demand, tmp_path):
    frame = at(utc(10))
    sql = "SELECT 7 AS driver, TIMESTAMPTZ '2013-06-01 10:00:00+00' AS event_timestamp"
    for entity_rows in (frame, sql):
        job = on_demand.job(entity_rows, "fares:cents_per_trip")
        for read in (
            job.to_arrow,
            job.to_df,
            job.to_reader,
            lambda job=job: job.to_parquet(tmp_path / "out.parquet"),
        ):
            with pytest.raises(
                InvalidRequest,
                match="on-demand view 'fares' needs column 'cents'; the entity frame has driver,"
                " event_timestamp",
            ):
                read()
    with pytest.raises(RequestDataNotFoundInEntityDfException, match="'?cents'?"):
        on_demand.job(frame.to_pandas(), "fares:cents_per_trip")


def test_an_on_demand_feature_may_not_have_the_name_of_a_column(on_demand):
    frame = at(utc(10)).append_column("cents", [[100]]).append_column("cents_per_trip", [[1]])
    with pytest.raises(
        InvalidRequest,
        match="feature 'cents_per_trip' of on-demand view 'fares' has the name of an existing"
        " column",
    ):
        on_demand.store.get_historical_features(frame, ["fares:cents_per_trip"]).to_arrow()
