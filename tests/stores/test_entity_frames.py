"""Entity rows in every accepted form, with naive times, and in every number."""

import random
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from punctual.errors import InvalidRequest, NaiveTimestamp
from stores.offline.join import NothingKnown
from tests.stores.by_hand import at, utc

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
FORMS = ["pandas", "arrow", "polars", "path", "text of a path", "sql", "relation"]


def in_form(form, rows, folder):
    """The same rows as a frame of another kind."""
    path = folder / "entities.parquet"
    pq.write_table(rows, path)
    return {
        "pandas": rows.to_pandas,
        "arrow": lambda: rows,
        "polars": lambda: pl.from_arrow(rows),
        "path": lambda: path,
        "text of a path": lambda: str(path),
        "sql": lambda: f"SELECT * FROM read_parquet('{path}')",
        "relation": lambda: (
            duckdb.connect().execute("SET TimeZone = 'UTC'").from_parquet(str(path))
        ),
    }[form]()


@pytest.fixture
def trips(views):
    views.add(rows=[(7, 3, utc(11), utc(12)), (7, 4, utc(11), utc(13))])
    return views


@pytest.mark.parametrize("form", FORMS)
def test_every_frame_gives_the_same_rows(trips, tmp_path, form):
    rows = at(utc(11), utc(13), utc(12)).append_column("label", [["a", None, "c"]])
    job = trips.job(in_form(form, rows, tmp_path), "driver_trips:trips")
    expected = {**rows.to_pydict(), "driver_trips__trips": [None, 4, 3]}
    assert job.to_arrow().to_pydict() == expected
    assert job.to_reader(rows=2).read_all().to_pydict() == expected


@pytest.mark.parametrize("form", FORMS)
def test_every_frame_may_be_empty(trips, tmp_path, form):
    frame = in_form(form, at().set_column(0, "driver", pa.array([], pa.int64())), tmp_path)
    job = trips.job(frame, "driver_trips:trips")
    for table in (
        job.to_arrow(),
        job.to_reader().read_all(),
        pq.read_table(job.to_parquet(tmp_path / "out.parquet")),
    ):
        assert (table.num_rows, table.column_names) == (
            0,
            ["driver", "event_timestamp", "driver_trips__trips"],
        )
        assert table.schema.field("driver_trips__trips").type == pa.int64()
    assert job.to_polars().shape == (0, 3)
    assert job.to_df().shape == (0, 3)
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (None, None)


@pytest.mark.parametrize("form", FORMS)
def test_naive_times_are_refused_or_utc_as_the_setting_says(trips, tmp_path, form):
    naive = pa.table(
        {"driver": [7, 7], "event_timestamp": pa.array([utc(11), utc(13)], pa.timestamp("us"))}
    )
    frame = in_form(form, naive, tmp_path)
    with pytest.raises(
        NaiveTimestamp,
        match=r"entity column 'event_timestamp' is timestamp\[.s\]; expected timestamps with a"
        r" time zone",
    ):
        trips.shown(frame)
    for store in (
        trips.opened(naive_timestamps="utc"),
        trips.opened(naive_timestamps="utc", coerce_tz_aware=False),
    ):
        assert trips.shown(frame, store=store) == [None, 4]
        assert store.get_historical_features(frame, ["driver_trips:trips"]).to_arrow()[
            "trips"
        ].to_pylist() == [None, 4]


def test_feast_reads_naive_pandas_times_as_utc_unless_configured_otherwise(trips):
    naive = pd.DataFrame({"driver": [7], "event_timestamp": [utc(13)]})
    told = trips.opened(coerce_tz_aware=False)
    assert trips.store.get_historical_features(naive, ["driver_trips:trips"]).to_arrow()[
        "trips"
    ].to_pylist() == [4]
    with pytest.raises(NaiveTimestamp):
        told.get_historical_features(naive, ["driver_trips:trips"]).to_arrow()
    # In our own function only the setting of this store counts.
    with pytest.raises(NaiveTimestamp):
        trips.shown(naive)


def test_text_is_not_a_timestamp(trips):
    with pytest.raises(NaiveTimestamp, match="entity column 'event_timestamp' is string"):
        trips.shown(pa.table({"driver": [7], "event_timestamp": ["2013-06-01T12:00Z"]}))


@pytest.mark.parametrize(
    "frame",
    [7, [{"driver": 7}], pl.LazyFrame({"driver": [7]})],
    ids=["number", "list", "lazy frame"],
)
def test_another_object_than_a_frame_is_refused_with_the_accepted_types(trips, frame):
    with pytest.raises(
        InvalidRequest,
        match="entity rows came as .*; expected a pandas, polars or Arrow frame, a DuckDB relation",
    ):
        trips.job(frame, "driver_trips:trips").to_arrow()


@pytest.mark.parametrize("text", ["SELECT nothing FROM nowhere", "no_such_file.parquet"])
def test_text_that_cannot_be_read_is_an_error_that_shows_it(trips, text):
    with pytest.raises(
        InvalidRequest,
        match=r"(the SQL text|the file no_such_file.parquet) cannot be read as entity rows:"
        r" .*(nowhere|no_such_file)",
    ):
        trips.job(text, "driver_trips:trips").to_arrow()


def test_two_columns_of_one_name_are_refused(trips):
    sql = "SELECT 7 AS driver, 8 AS driver, TIMESTAMPTZ '2013-06-01 12:00:00+00' AS event_timestamp"
    twice = at(utc(12)).append_column("driver", [[8]])
    for frame in (sql, twice):
        job = trips.job(frame, "driver_trips:trips")
        for read in (job.to_arrow, job.to_reader):
            with pytest.raises(
                InvalidRequest, match="entity rows have more than one column 'driver'"
            ):
                read()


def test_the_only_timestamp_column_may_have_any_name(trips):
    rows = at(utc(13)).rename_columns(["driver", "asked_at"])
    assert trips.shown(rows) == [4]
    with pytest.raises(InvalidRequest, match="entity rows need a column 'event_timestamp'"):
        trips.shown(rows.append_column("departs_at", rows["asked_at"]))


def test_rows_keep_their_order_and_repetitions(trips):
    chance = random.Random(7)
    trips.publish("driver_trips", [(driver, driver, utc(9), utc(9)) for driver in range(100, 200)])
    drivers = [chance.randrange(90, 200) for _ in range(20_000)]
    moments = [utc(chance.randrange(7, 12), chance.randrange(60)) for _ in drivers]
    rows = pa.table(
        {
            "driver": drivers,
            "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
            "row": range(len(drivers)),
        }
    )
    expected = [
        driver if driver >= 100 and moment >= utc(9) else None
        for driver, moment in zip(drivers, moments, strict=True)
    ]
    job = trips.job(rows, "driver_trips:trips")
    for result in (job.to_arrow(), job.to_reader(rows=777).read_all()):
        assert result["driver_trips__trips"].to_pylist() == expected
        assert result.select(rows.column_names).equals(rows)


@pytest.mark.parametrize("nearby", [False, True])
def test_that_all_became_known_too_late_is_said(trips, monkeypatch, nearby):
    monkeypatch.setattr("stores.offline.asof.worth_narrowing", lambda *_: nearby)
    job = trips.job(at(utc(11), utc(11, 59)), "driver_trips:trips")
    with pytest.warns(
        NothingKnown,
        match="all features of view 'driver_trips' are null: its rows became known"
        " .created_timestamp.",
    ):
        job.to_arrow()
    with pytest.warns(NothingKnown):
        job.to_reader()


def test_a_join_with_a_value_or_without_events_or_in_event_time_does_not_warn(trips):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trips.shown(at(utc(11), utc(12))) == [None, 3]
        # Another driver has values; or no event has happened yet; or there is no entity row.
        assert trips.shown(at(utc(12), driver=8)) == [None]
        assert trips.shown(at(utc(10))) == [None]
        assert trips.shown(at().set_column(0, "driver", pa.array([], pa.int64()))) == []
        assert trips.shown(at(utc(11)), store=trips.opened(point_in_time="event_time")) == [4]


def test_in_event_time_a_commit_and_as_of_still_apply(trips):
    trips.publish("driver_trips", [(7, 5, utc(11), utc(14))])
    by_event = trips.opened(point_in_time="event_time")
    assert trips.shown(at(utc(11)), store=by_event) == [5]
    assert trips.shown(at(utc(11)), store=by_event, commits={"driver_trips": (1, 1)}) == [4]
    assert trips.shown(at(utc(11)), store=by_event, as_of=NOON) == [3]
    assert trips.shown(at(utc(11)), store=by_event, as_of=NOON - timedelta(seconds=1)) == [None]


def test_feasts_setting_for_one_call_adds_knowledge_time_to_an_event_time_store(trips):
    by_event = trips.opened(point_in_time="event_time")
    job = by_event.get_historical_features(
        at(utc(12)), ["driver_trips:trips"], filter_by_created_timestamp=True
    )
    assert job.to_arrow()["trips"].to_pylist() == [3]


DRIVERS = {"driver": [7, 7], "event_timestamp": pd.to_datetime([utc(12), utc(13)], utc=True)}
EXPECTED = [3, 4]


@pytest.mark.parametrize(
    "frame",
    [
        lambda: pd.DataFrame(DRIVERS),
        lambda: pd.DataFrame(DRIVERS).set_index("driver"),
        lambda: pd.DataFrame(DRIVERS).set_index("event_timestamp"),
        lambda: pd.DataFrame(DRIVERS).astype({"driver": "category"}),
        lambda: pd.DataFrame(DRIVERS).astype({"driver": "float64"}),
        lambda: pd.DataFrame(DRIVERS).astype({"driver": "Int32"}),
        lambda: pd.DataFrame(DRIVERS).astype({"driver": "int64[pyarrow]"}),
        lambda: pd.DataFrame(DRIVERS).astype({"driver": object}),
        lambda: pd.DataFrame(DRIVERS).assign(driver=[Decimal(7), Decimal(7)]),
    ],
)
def test_a_pandas_key_may_be_in_the_index_or_of_any_type_that_fits(trips, frame):
    assert (
        trips.job(frame(), "driver_trips:trips").to_df()["driver_trips__trips"].tolist() == EXPECTED
    )


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (lambda: pd.DataFrame(DRIVERS).rename(columns={"driver": "drivr"}), "driver"),
        (
            lambda: pd.DataFrame(DRIVERS).assign(driver=[7, "seven"]),
            "column 'driver' has values of several types: int, str; expected one type",
        ),
        (
            lambda: pd.concat([pd.DataFrame(DRIVERS), pd.DataFrame(DRIVERS)], axis=1),
            "more than one column 'driver', 'event_timestamp'",
        ),
        (lambda: pd.DataFrame(DRIVERS).assign(driver=7.5), "keyed by 'driver'"),
    ],
)
def test_problems_of_a_pandas_frame_are_reported(trips, frame, said):
    with pytest.raises(InvalidRequest, match=said):
        trips.job(frame(), "driver_trips:trips").to_arrow()
