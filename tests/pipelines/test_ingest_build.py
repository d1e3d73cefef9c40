"""Ingest, build and materialize: in steps, repeated, killed, late, corrected, redefined."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.build import view_table
from pipelines.materialize import apply_definitions, materialize, online_database
from punctual.errors import (
    AlreadyRunning,
    BrokenSource,
    InvalidDeclaration,
    NaiveTimestamp,
    NotBuilt,
    StoreOutdated,
)
from punctual.home import Home
from punctual.locks import exclusive_lock
from punctual.repository import feature_store
from punctual.times import micros
from stores.offline import historical_features
from stores.online import OnlineView
from stores.tables import event_table
from tests.pipelines.taxis import QUIET, a_trip, at, many_trips, utc


def at_once(taxis, trips, moment):
    """The hashes of a single build of these trips in an empty data folder."""
    taxis.write(trips)
    taxis.build(moment)
    return taxis.hashes()


def test_a_first_load_uses_only_the_declared_knowledge_times(taxis):
    taxis.write([a_trip(1, at(1, 10)), a_trip(2, at(1, 12))])
    built = taxis.build(at(1, 11))
    assert [(events.events, events.new, events.first_load) for events in built.events] == [
        ("fares", 1, True), ("calls", 1, True), ("tips", 0, True),
    ]  # fmt: skip
    assert taxis.events("fares", "trip", "event_timestamp", "created_timestamp") == [
        (1, utc(1, 10, 30), utc(1, 10, 30))
    ]
    # Events that are in the file but not yet known are published by a later build.
    assert [(events.new, events.first_load) for events in taxis.build(at(1, 13)).events] == [
        (1, False),
        (1, False),
        (1, False),
    ]
    assert taxis.events("tips", "trip", "created_timestamp") == [(1, utc(1, 11, 30))]


def test_a_late_row_is_known_from_the_run_that_found_it(taxis):
    taxis.write([a_trip(1, at(1, 10))])
    taxis.build(at(1, 12))
    taxis.write([a_trip(1, at(1, 10)), a_trip(2, at(1, 9)), a_trip(3, at(1, 12))])
    (fares, *_) = taxis.build(at(1, 13)).events
    assert (fares.new, fares.late, fares.corrected) == (2, 1, 0)
    assert taxis.events("fares", "trip", "event_timestamp", "created_timestamp") == [
        (1, utc(1, 10, 30), utc(1, 10, 30)),
        (2, utc(1, 9, 30), utc(1, 13)),
        (3, utc(1, 12, 30), utc(1, 12, 30)),
    ]


def test_an_event_known_exactly_at_the_last_run_is_not_late(taxis):
    taxis.write([a_trip(1, at(1, 11, 30))])
    taxis.build(at(1, 12))
    assert taxis.events("fares", "created_timestamp") == [(utc(1, 12),)]
    assert [events.new for events in taxis.build(at(1, 13)).events] == [0, 0, 1]


def test_a_correction_is_a_newer_version_known_from_the_run_that_found_it(taxis):
    taxis.write([a_trip(1, at(1, 10), cents=1000), a_trip(2, at(1, 10), cents=500)])
    taxis.build(at(1, 12))
    taxis.write([a_trip(1, at(1, 10), cents=1200), a_trip(2, at(1, 10), cents=500)])
    (fares, calls, tips) = taxis.build(at(1, 13)).events
    assert [(each.new, each.late, each.corrected) for each in (fares, calls, tips)] == [
        (0, 0, 1),
        (0, 0, 0),
        (0, 0, 0),
    ]
    assert taxis.events("fares", "trip", "cents", "created_timestamp") == [
        (1, 1000, utc(1, 10, 30)), (1, 1200, utc(1, 13)), (2, 500, utc(1, 10, 30)),
    ]  # fmt: skip
    # The file is compared with the corrected version.
    assert [each.corrected for each in taxis.build(at(1, 14)).events] == [0, 0, 0]
    taxis.write([a_trip(1, at(1, 10), cents=1000), a_trip(2, at(1, 10), cents=500)])
    assert [each.corrected for each in taxis.build(at(1, 15)).events] == [1, 0, 0]


def test_a_value_that_becomes_null_is_a_correction(taxis):
    taxis.write([a_trip(1, at(1, 10))])
    taxis.build(at(1, 12))
    taxis.write([a_trip(1, at(1, 10), cents="NA")])
    assert [each.corrected for each in taxis.build(at(1, 13)).events] == [1, 0, 0]
    assert [each.corrected for each in taxis.build(at(1, 14)).events] == [0, 0, 0]


def test_a_correction_reaches_the_features_from_its_grid_time_on_and_not_before(taxis):
    taxis.write([a_trip(1, at(1, 10), cents=1000)])
    taxis.build(at(1, 11, 30))
    taxis.write([a_trip(1, at(1, 10), cents=1200)])
    taxis.build(at(1, 12, 30))
    store = feature_store(taxis.domain.home)
    apply_definitions(store, [taxis.domain])
    asked = [at(1, 11, 4), at(1, 11, 5), at(1, 13, 4), at(1, 13, 5)]
    frame = pa.table(
        {"driver": [1] * 4, "event_timestamp": pa.array(asked, pa.timestamp("us", "UTC"))}
    )
    taxis.build(at(1, 13))
    result = historical_features(
        store, frame, ["driver_fares:cents_sum_3h", "driver_last_fare:cents"]
    )
    assert result["driver_fares__cents_sum_3h"].to_pylist() == [None, 1000, 1000, 1200]
    assert result["driver_last_fare__cents"].to_pylist() == [None, 1000, 1000, 1200]


def test_building_again_changes_nothing(taxis):
    taxis.write(many_trips())
    taxis.build(at(5))
    before = taxis.hashes()
    for moment in (at(5), at(4)):
        again = taxis.build(moment)
        assert [view.new_rows for view in again.views] + [
            events.new for events in again.events
        ] == [0] * 5
    assert taxis.hashes() == before


@settings(max_examples=max(4, settings.get_profile("punctual").max_examples // 10))
@given(st.lists(st.integers(1, 6 * 24 * 60 - 1), max_size=6, unique=True))
def test_building_in_steps_gives_the_same_rows_as_building_at_once(taxis, elsewhere, steps):
    trips = many_trips()

    def in_steps():
        taxis.write(trips)
        for minutes in sorted(steps):
            taxis.build(at(1) + timedelta(minutes=minutes))
        taxis.build(at(7))
        return taxis.hashes()

    assert elsewhere(in_steps) == elsewhere(lambda: at_once(taxis, trips, at(7)))


def test_many_builds_leave_few_files_with_the_same_rows(taxis, elsewhere):
    trips = many_trips()
    taxis.write(trips)
    for hours in range(8, 4 * 24, 4):
        taxis.build(at(1) + timedelta(hours=hours))
    for stream in taxis.domain.events:
        assert len(event_table(taxis.domain, stream).files()) < 12
    taxis.build(at(7))
    assert taxis.hashes() == elsewhere(lambda: at_once(taxis, trips, at(7)))


@pytest.mark.parametrize(
    "place",
    [
        "clean/taxis/trips.json",
        "tables/taxis.calls/v1/*.parquet",
        "clean/taxis/tips.ingested.json",
        "tables/driver_fares/v1/.aside-*/*.parquet",
    ],
)
def test_a_build_that_is_killed_when_a_file_appears_is_repaired_by_building_again(
    taxis, elsewhere, place
):
    trips = many_trips()
    taxis.write(trips)
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "build",
        "taxis",
        "--as-of",
        "2013-06-07T00:00Z",
        "--quiet",
        "--repository",
        str(taxis.repository),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(taxis.home.glob(place)):
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    taxis.build(at(7))
    assert taxis.hashes() == elsewhere(lambda: at_once(taxis, trips, at(7)))
    assert not list(taxis.home.rglob(".aside-*"))


def test_a_run_without_a_note_of_its_input_compares_all_events_again(taxis):
    taxis.write([a_trip(1, at(1, 10), cents=1000)])
    taxis.build(at(1, 12))
    note = taxis.home / "clean" / "taxis" / "fares.ingested.json"
    of_before = note.read_bytes()
    taxis.write([a_trip(1, at(1, 10), cents=1200)])
    taxis.build(at(1, 13))
    assert note.read_bytes() != of_before
    note.unlink()
    taxis.write([a_trip(1, at(1, 10), cents=1000)])
    assert [each.corrected for each in taxis.build(at(1, 14)).events] == [1, 0, 0]


@pytest.mark.parametrize(
    ("trip", "problem"),
    [
        ("trip // 2 AS trip", r"id trip = \(1,\) identifies 2 events; expected one"),
        (
            "nullif(trip, 2) AS trip",
            "1 events have no trip, so corrections cannot be matched to them",
        ),
        ("tripp AS trip", "their SQL does not give the columns trip, "),
    ],
)
def test_events_with_ambiguous_ids_are_refused(taxis, trip, problem):
    taxis.write([a_trip(2, at(1, 10)), a_trip(3, at(1, 10))])
    with pytest.raises(InvalidDeclaration, match=problem):
        taxis.redefined('sql="SELECT trip,', f'sql="SELECT {trip},').build(at(2))


def test_events_without_a_time_are_counted_and_refused(taxis):
    taxis.write([a_trip(1, at(1, 10))])
    other = taxis.redefined(
        "ended AS created_timestamp", "nullif(ended, ended) AS created_timestamp"
    )
    with pytest.raises(
        InvalidDeclaration, match="1 events have no event_timestamp or no created_timestamp"
    ):
        other.build(at(2))


def test_a_changed_definition_is_a_new_table_and_the_old_one_is_not_materialized(taxis):
    taxis.write(many_trips())
    taxis.build(at(5))
    store = feature_store(taxis.domain.home)
    apply_definitions(store, [taxis.domain])
    done = materialize(store, taxis.domain, at(5), QUIET)
    before = taxis.hashes()
    changed = taxis.redefined('over=("1h", "3h")', 'over=("1h", "2h")')
    with pytest.raises(
        StoreOutdated,
        match="table 'driver_fares' was built from another definition; run: punctual features"
        " build",
    ):
        materialize(store, changed.domain, at(5), QUIET)
    changed.build(at(5))
    after = changed.hashes()
    assert {name for name in before if before[name] != after[name]} == {"driver_fares"}
    assert view_table(Home.at(), changed.domain.declarations[0]).version.version == 2
    again = materialize(store, changed.domain, at(5), QUIET)
    assert [view.records > 0 for view in done] == [True, True]
    assert [view.records > 0 for view in again] == [True, False]


def test_the_online_store_at_a_run_equals_the_tables_at_that_time(taxis):
    taxis.write(many_trips())
    store = feature_store(taxis.domain.home)
    apply_definitions(store, [taxis.domain])
    database = online_database(store)
    for moment in (at(2, 7), at(2, 8), at(3, 8, 20), at(5)):
        taxis.build(moment)
        materialize(store, taxis.domain, moment, QUIET)
        assert [view.records for view in materialize(store, taxis.domain, moment, QUIET)] == [0, 0]
        for asked in (
            moment,
            moment + timedelta(minutes=4, seconds=59),
            moment + timedelta(minutes=5),
        ):
            frame = pa.table(
                {
                    "driver": [1, 2, 3, 9],
                    "event_timestamp": pa.array([asked] * 4, pa.timestamp("us", "UTC")),
                }
            )
            for name, view in taxis.domain.views.items():
                offline = historical_features(
                    store, frame, [f"{name}:{field.name}" for field in view.features]
                )
                online = OnlineView.of(store.project, view)
                shown = database.read(
                    online, [online.key(driver) for driver in (1, 2, 3, 9)], micros(asked)
                )
                for number, feature in enumerate(online.features):
                    assert [row.values[number] for row in shown] == offline[
                        f"{name}__{feature}"
                    ].to_pylist()
    database.close()


def test_a_view_that_was_never_built_is_not_materialized(taxis):
    store = feature_store(taxis.domain.home)
    with pytest.raises(NotBuilt, match="view 'driver_fares' has no table at"):
        materialize(store, taxis.domain, at(5), QUIET)
    online_database(store).close()


def test_a_short_horizon_is_refused_and_a_long_enough_one_is_named(taxis):
    taxis.write(
        [a_trip(number, at(1, 10), minutes=60 if number else 24 * 60 + 30) for number in range(100)]
    )
    with pytest.raises(InvalidDeclaration) as error:
        taxis.build(at(5))
    assert str(error.value) == (
        "InvalidDeclaration: use case 'tipped' has 1 problem:\n"
        "  - label horizon 6h covers 99% of label delays, coverage asks for 99.5%: use 26h or more."
    )
    assert not (taxis.home / "tables" / "driver_fares").exists()


def test_a_corrected_label_is_not_a_late_label(taxis):
    trips = [a_trip(number, at(1, 10)) for number in range(20)]
    taxis.write(trips)
    taxis.build(at(3))
    taxis.write([a_trip(number, at(1, 10), tip=False) for number in range(20)])
    assert [each.corrected for each in taxis.build(at(4)).events] == [0, 0, 20]


def test_a_broken_file_changes_no_table(taxis):
    taxis.write(many_trips())
    taxis.build(at(3))
    before = taxis.hashes()
    Home.at().path("raw", "trips.csv").write_text("trip,driver\n1,2\n")
    with pytest.raises(BrokenSource, match="lacks column begun, ended, cents, tip"):
        taxis.build(at(4))
    assert taxis.hashes() == before


def test_two_builds_at_once_are_refused(taxis):
    taxis.write(many_trips())
    with (
        exclusive_lock(Home.at(), "build"),
        pytest.raises(AlreadyRunning, match="'build' runs in .* already"),
    ):
        taxis.build(at(3))
    taxis.build(at(3))


def test_a_naive_time_is_refused(taxis):
    with pytest.raises(NaiveTimestamp):
        taxis.build(utc(3))
