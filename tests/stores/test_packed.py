"""The contract of the packed online store on every backend.

What a record contains, and what it shows at a time.
"""

import os
import subprocess
import sys
import threading
from select import select
from subprocess import PIPE

import numpy as np
import pytest
from feast.types import Array, Int64, String

from punctual.errors import NotBuilt
from stores.online import OnlineView
from stores.online.backend import Watermark
from stores.online.records import Rows, Written

TRIPS = OnlineView(
    "test", "driver_trips", (("driver", Int64),), (("trips", Int64), ("note", String))
)
AGEING = OnlineView(
    "test",
    "driver_trips",
    (("driver", Int64),),
    (("trips", Int64), ("note", String)),
    ttl=100,
    fingerprint="ageing",
)
KEY = TRIPS.key(7)


def rows_of(view, *rows):
    """Rows `(key, event, created, *values)` for a write; None for values withdraws."""
    keys, events, created = ([row[place] for row in rows] for place in range(3))
    columns = [
        [row[3 + place] if len(row) > 3 else None for row in rows]
        for place in range(len(view.features))
    ]
    withdrawn = np.array([len(row) == 3 for row in rows])
    return Rows(keys, events, created, view.layout.rows(columns, events, created, withdrawn))


def write(database, *rows, now, view=TRIPS, **more):
    return database.write(view, rows_of(view, *rows), now, **more)


def trips_at(database, at, view=TRIPS, key=KEY):
    (shown,) = database.read(view, [key], at)
    return shown.values[0] if shown.status == "PRESENT" else shown.status


def test_an_older_row_never_replaces_a_newer_one(database):
    write(database, (KEY, 20, 20, 2, None), now=50)
    assert write(database, (KEY, 10, 30, 1, None), now=50).records == 0
    assert trips_at(database, 50) == 2


def test_the_same_event_created_later_replaces(database):
    write(database, (KEY, 20, 20, 2, None), now=50)
    assert write(database, (KEY, 20, 21, 3, None), now=50).records == 1
    assert trips_at(database, 50) == 3


def test_the_same_batch_twice_changes_nothing(database):
    batch = [(KEY, 20, 20, 2, "x"), (KEY, 20, 60, 3, None), (KEY, 30, 70, 4, "y")]
    assert write(database, *batch, now=50).records == 1
    assert write(database, *batch, now=50) == Written(records=0, missed=0)
    assert write(database, *batch, now=80).records == 1
    assert write(database, *batch, now=90) == Written(records=0, missed=0)


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_batch_for_a_generation_assumed_empty_is_merged_if_it_is_not(database, is_empty):
    other = TRIPS.key(8)
    write(database, (KEY, 20, 20, 2, None), now=50)
    assert (
        write(
            database, (KEY, 10, 10, 1, None), (other, 10, 10, 1, None), now=50, is_empty=is_empty
        ).records
        == 1
    )
    assert (trips_at(database, 50), trips_at(database, 50, key=other)) == (2, 1)
    again = write(
        database, (KEY, 30, 30, 3, None), (other, 10, 10, 1, None), now=50, is_empty=is_empty
    )
    assert again.records == 2 - (not is_empty) or is_empty
    assert (trips_at(database, 50), trips_at(database, 50, key=other)) == (3, 1)


def test_rows_come_in_any_order_in_one_batch(database):
    write(database, (KEY, 30, 30, 3, None), (KEY, 10, 10, 1, None), (KEY, 20, 40, 2, None), now=50)
    assert trips_at(database, 50) == 3


def test_a_row_published_ahead_is_shown_exactly_from_its_effective_time(database):
    write(
        database,
        (KEY, 20, 20, 2, None),
        (KEY, 30, 100, 3, "three"),
        (KEY, 200, 150, 4, None),
        now=50,
    )
    assert [trips_at(database, at) for at in (99, 100, 101)] == [2, 3, 3]
    assert [trips_at(database, at) for at in (199, 200, 201)] == [3, 4, 4]


def test_a_record_whose_rows_all_take_effect_later_is_not_shown(database):
    write(database, (KEY, 20, 100, 2, None), now=50)
    assert [trips_at(database, at) for at in (99, 100)] == ["NOT_FOUND", 2]


def test_a_row_published_ahead_and_overtaken_by_a_newer_one_is_never_shown(database):
    write(database, (KEY, 20, 20, 2, None), (KEY, 30, 100, 3, None), now=50)
    write(database, (KEY, 40, 60, 4, None), now=60)
    assert [trips_at(database, at) for at in (60, 99, 100, 500)] == [4, 4, 4, 4]


def test_a_withdrawn_row_is_not_found_and_no_older_one_returns(
    database,
):
    write(database, (KEY, 20, 20, 2, "x"), (KEY, 30, 60), now=50)
    assert [trips_at(database, at) for at in (50, 59, 60, 90)] == [2, 2, "NOT_FOUND", "NOT_FOUND"]
    write(database, (KEY, 25, 70, 1, None), now=80)
    assert trips_at(database, 80) == "NOT_FOUND"
    write(database, (KEY, 40, 80, 5, None), now=80)
    assert trips_at(database, 80) == 5


def test_a_value_is_shown_up_to_its_ttl_to_the_microsecond(database):
    write(database, (KEY, 20, 30, 2, "x"), now=50, view=AGEING)
    assert [trips_at(database, at, AGEING) for at in (29, 30, 120, 121)] == [
        "NOT_FOUND",
        2,
        2,
        "OUTSIDE_MAX_AGE",
    ]
    (shown,) = database.read(AGEING, [KEY], 121)
    assert (shown.event, shown.created, shown.values) == (20, 30, [None, None])


def test_a_key_without_a_value_is_not_found(database):
    write(database, (KEY, 20, 20, 2, None), now=50)
    assert TRIPS.key(None) is None
    found = database.read(TRIPS, [None, TRIPS.key(8), KEY, None], 50)
    assert [row.status for row in found] == ["NOT_FOUND", "NOT_FOUND", "PRESENT", "NOT_FOUND"]


def test_nulls_and_values_are_read_as_written(database):
    write(
        database,
        (KEY, 20, 20, None, ""),
        (TRIPS.key(8), 20, 20, -(2**63), None),
        (TRIPS.key(9), 20, 20, 2**53 + 1, "✈"),
        now=50,
    )
    shown = database.read(TRIPS, [TRIPS.key(driver) for driver in (7, 8, 9)], 50)
    assert [row.values for row in shown] == [[None, ""], [-(2**63), None], [2**53 + 1, "✈"]]


def test_a_write_counts_rows_that_had_been_due(database):
    assert write(database, (KEY, 20, 20, 2, None), now=20) == Written(records=1, missed=0)
    assert write(database, (KEY, 30, 30, 3, None), now=40) == Written(records=1, missed=1)
    write(database, (KEY, 50, 50, 4, None), now=40)
    assert write(database, (KEY, 50, 50, 4, None), now=60).missed == 0


def test_several_views_are_read_at_once(database):
    write(database, (KEY, 20, 20, 2, None), now=50)
    write(database, (KEY, 20, 20, 3, None), now=50, view=AGEING)
    keys = [TRIPS.key(driver) for driver in (7, 8)]
    for asked in (keys, keys[:1], keys * 300):
        (found,) = database.records.read_records([(asked, [TRIPS, AGEING])])
        assert [[record is None for record in row] for row in found] == [
            [key == keys[1]] * 2 for key in asked
        ]
        first, second = database.records.read_records(
            [(asked, [TRIPS]), (list(reversed(asked)), [AGEING, TRIPS])]
        )
        assert [row[0] for row in first] == [row[0] for row in found]
        assert second == [tuple(reversed(row)) for row in reversed(found)]


def test_a_view_that_was_never_materialized_is_an_error_with_the_command_to_run(database):
    other = OnlineView("test", "driver_trips", (("driver", Int64),), (("trips", Int64),))
    with pytest.raises(
        NotBuilt, match="view 'driver_trips' is not in the online store as it is defined now"
    ):
        database.read(other, [KEY], 50)
    assert (database.count(other), database.records.watermark(other)) == (0, None)


def test_another_schema_has_its_own_records(database):
    second = OnlineView(
        "test", "driver_trips", (("driver", Int64),), (("note", String), ("trips", Array(Int64)))
    )
    write(database, (KEY, 20, 20, 2, "two"), now=50)
    write(database, (KEY, 20, 20, "two", [2, None]), now=50, view=second)
    assert (trips_at(database, 50), trips_at(database, 50, second)) == (2, "two")
    assert database.read(second, [KEY], 50)[0].values == ["two", [2, None]]


def test_the_mark_never_goes_back_within_a_version_of_the_table(database):
    database.records.writable_generations(TRIPS)
    assert database.records.watermark(TRIPS) is None
    for offered, expected in [
        (Watermark(1, 20), 20),
        (Watermark(1, 10), 20),
        (Watermark(1, -5), 20),
        (Watermark(1, 30), 30),
        (Watermark(2, 5), 5),
    ]:
        database.records.move_watermark(TRIPS, offered)
        assert database.records.watermark(TRIPS) == Watermark(offered.version, expected)


def test_a_rebuild_is_seen_at_its_swap_and_the_old_records_go(
    database,
):
    write(database, (KEY, 20, 20, 2, None), (TRIPS.key(8), 20, 20, 2, None), now=50)
    database.records.move_watermark(TRIPS, Watermark(1, 50))
    with database.records.exclusive(TRIPS):
        abandoned = database.records.new_generation(TRIPS)
        write(database, (KEY, 30, 30, 4, None), now=50, generation=abandoned, is_empty=True)
        generation = database.records.new_generation(TRIPS)
        write(database, (KEY, 30, 30, 3, None), now=50, generation=generation, is_empty=True)
        assert trips_at(database, 50) == 2
        database.records.swap(TRIPS, generation, Watermark(2, 60))
    assert (trips_at(database, 50), trips_at(database, 50, key=TRIPS.key(8))) == (3, "NOT_FOUND")
    assert (database.records.watermark(TRIPS), database.count(TRIPS)) == (Watermark(2, 60), 1)
    assert (
        database.records.get(abandoned, [KEY]) == [None]
        if "redis" in database.records.where.lower()
        else True
    )


def test_views_are_dropped_by_schema_and_another_project_keeps_its_own(database, other_project):
    mine = OnlineView(
        "other", "driver_trips", (("driver", Int64),), (("trips", Int64), ("note", String))
    )
    write(database, (KEY, 20, 20, 2, None), now=50)
    write(other_project, (KEY, 20, 20, 3, None), now=50, view=mine)
    for schema in database.records.views("test")["driver_trips"]:
        database.records.drop(schema)
    assert database.records.views("test") == {}
    with pytest.raises(NotBuilt):
        trips_at(database, 50)
    assert trips_at(other_project, 50, mine) == 3


def test_a_damaged_record_has_its_own_error_and_is_counted(database):
    write(database, (KEY, 20, 20, 2, "x"), (TRIPS.key(8), 20, 20, 3, "y"), now=50)
    generation = database.records.generation(TRIPS)
    (record,) = database.records.get(generation, [KEY])
    for number, damaged in enumerate(
        (record[:-1], bytes([record[0] ^ 1]) + record[1:], b"", record[:9] + b"\xff" + record[10:]),
        1,
    ):
        assert (
            database.records.put(
                generation, [KEY], database.records.get(generation, [KEY]), [damaged]
            )
            == []
        )
        first, second = database.read(TRIPS, [KEY, TRIPS.key(8)], 50)
        assert (first.status, first.values, second.values) == ("INVALID", [None, None], [3, "y"])
        assert database.corrupt == {"driver_trips": number}
    write(database, (KEY, 20, 20, 2, "x"), now=50)
    assert trips_at(database, 50) == 2


def test_a_batch_that_does_not_fit_writes_none_of_its_rows(database):
    with pytest.raises(Exception, match="(?i)convert|int"):
        write(database, (KEY, 20, 20, 2, None), (TRIPS.key(8), 20, 20, object(), None), now=50)
    assert database.count(TRIPS) == 0


def test_erased_entities_are_removed_and_the_others_stay(database):
    write(
        database, *((TRIPS.key(driver), 20, 20, driver, "secret") for driver in range(100)), now=50
    )
    assert database.erase(TRIPS, [TRIPS.key(driver) for driver in (7, 8, 1000)]) == 2
    assert [trips_at(database, 50, key=TRIPS.key(driver)) for driver in (6, 7, 8, 9)] == [
        6,
        "NOT_FOUND",
        "NOT_FOUND",
        9,
    ]
    database.erase_view("test", "driver_trips")
    with pytest.raises(NotBuilt):
        trips_at(database, 50)


def test_threads_write_and_read_through_one_database(database):
    def write_some(driver):
        for number in range(20):
            write(database, (TRIPS.key(driver), number, number, number, None), now=100)
            write(database, (KEY, number, driver, number, None), now=100)
        database.close()

    threads = [threading.Thread(target=write_some, args=(driver,)) for driver in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trips_at(database, 100, key=TRIPS.key(driver)) for driver in (*range(4), 7)] == [19] * 5


READ = """
import json, sys
from feast.repo_config import RepoConfig
from feast.types import Int64, String
from stores.online import packed_database
from stores.online import OnlineView
view = OnlineView(
    "test", "driver_trips", (("driver", Int64),), (("trips", Int64), ("note", String))
)
print("ready", flush=True)
for line in sys.stdin:
    online = {"type": "stores.online.PackedOnlineStore", **json.loads(line)}
    config = RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store=online,
        entity_key_serialization_version=3,
    )
    reads, last = 0, 0
    while reads < 100:
        database = packed_database(config)
        for _ in range(20):
            shown = database.read(view, [view.key(driver) for driver in range(50)], 10**9)
            assert all(row.status == "PRESENT" for row in shown), shown
            assert all(row.values == [row.event, "x" * 100] for row in shown), shown
            assert shown[0].event >= last, "went back"
            last, reads = shown[0].event, reads + 1
        database.close()
    print(reads, flush=True)
"""


@pytest.fixture(scope="module")
def readers():
    """Two processes that read a store a hundred times for each line of settings.

    They are shared, since starting them takes seconds.
    """
    command = [sys.executable, "-c", READ]
    programs = [
        subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env={**os.environ}
        )
        for _ in range(2)
    ]
    for program in programs:
        assert program.stdout.readline() == "ready\n", program.stderr.read()
    yield programs
    for program in programs:
        assert program.communicate(timeout=60) == ("", "") and program.returncode == 0


def test_readers_in_other_processes_never_fail_while_one_writes(database, online_settings, readers):
    drivers = [TRIPS.key(driver) for driver in range(50)]
    write(database, *((driver, 1, 1, 1, "x" * 100) for driver in drivers), now=10**9)
    for program in readers:
        print(online_settings, file=program.stdin, flush=True)
    number, answers = 1, [program.stdout for program in readers]
    while len(select(answers, [], [], 0)[0]) < len(readers):
        number += 1
        batch = [(driver, number, number, number, "x" * 100) for driver in drivers]
        if number % 10:
            write(database, *batch, now=10**9)
            continue
        with database.records.exclusive(TRIPS):
            generation = database.records.new_generation(TRIPS)
            write(database, *batch, now=10**9, generation=generation, is_empty=True)
            database.records.swap(TRIPS, generation, Watermark(number, number))
    for program in readers:
        assert program.stdout.readline() == "100\n", program.stderr.read()
        assert not select([program.stderr], [], [], 0)[0], program.stderr.readline()
    assert number > 10
