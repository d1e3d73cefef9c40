"""Packed online rows: what a record holds, what it shows at a moment, and many readers beside one writer."""

import subprocess
import sys
import threading
import time
from subprocess import PIPE

import pytest

from feature_repo.errors import DataFolderError, NotBuilt
from stores.packed import OnlineView, PackedDatabase, Written, encode_key

KEY = encode_key([7])
TRIPS = OnlineView("driver_trips", ("driver",), ("trips", "note"), 0, "first")
AGEING = OnlineView("driver_trips", ("driver",), ("trips", "note"), 100, "ageing")


@pytest.fixture
def database(tmp_path):
    database = PackedDatabase(tmp_path / "online.db")
    database.create(TRIPS)
    database.create(AGEING)
    yield database
    database.close()


def row(event, created, trips, note=None):
    return [event, created, trips, note]


def trips_at(database, at, view=TRIPS, key=KEY):
    (shown,) = database.read(view, [key], at)
    return shown.values[0] if shown.status == "PRESENT" else shown.status


def test_an_older_row_never_replaces_a_newer_one(database):
    database.write(TRIPS, [(KEY, row(20, 20, 2))], now=50)
    assert database.write(TRIPS, [(KEY, row(10, 30, 1))], now=50).records == 0
    assert trips_at(database, 50) == 2


def test_the_same_event_created_later_replaces(database):
    database.write(TRIPS, [(KEY, row(20, 20, 2))], now=50)
    assert database.write(TRIPS, [(KEY, row(20, 21, 3))], now=50).records == 1
    assert trips_at(database, 50) == 3


def test_the_same_batch_twice_changes_nothing(database):
    batch = [(KEY, row(20, 20, 2)), (KEY, row(20, 60, 3)), (KEY, row(30, 70, 4, float("nan")))]
    assert database.write(TRIPS, batch, now=50).records == 1
    assert database.write(TRIPS, batch, now=50) == Written(records=0, missed=0)
    assert database.write(TRIPS, batch, now=80).records == 1
    # The row to show was there before its moment; also where its values are not equal to themselves.
    assert database.write(TRIPS, batch, now=90) == Written(records=0, missed=0)


def test_rows_come_in_any_order_in_one_batch(database):
    database.write(TRIPS, [(KEY, row(30, 30, 3)), (KEY, row(10, 10, 1)), (KEY, row(20, 40, 2))], now=50)
    assert trips_at(database, 50) == 3


def test_a_row_published_ahead_is_shown_exactly_from_its_moment_on(database):
    database.write(TRIPS, [(KEY, row(20, 20, 2)), (KEY, row(30, 100, 3)), (KEY, row(200, 150, 4))], now=50)
    assert [trips_at(database, at) for at in (99, 100, 101)] == [2, 3, 3]
    assert [trips_at(database, at) for at in (199, 200, 201)] == [3, 4, 4]


def test_a_row_published_ahead_that_something_newer_overtakes_is_never_shown(database):
    database.write(TRIPS, [(KEY, row(20, 20, 2)), (KEY, row(30, 100, 3))], now=50)
    database.write(TRIPS, [(KEY, row(40, 60, 4))], now=60)
    assert [trips_at(database, at) for at in (60, 99, 100, 500)] == [4, 4, 4, 4]


def test_a_value_is_shown_up_to_its_ttl_and_not_a_microsecond_longer(database):
    database.write(AGEING, [(KEY, row(20, 30, 2))], now=50)
    assert [trips_at(database, at, AGEING) for at in (29, 30, 120, 121)] == ["NOT_FOUND", 2, 2, "OUTSIDE_MAX_AGE"]
    (shown,) = database.read(AGEING, [KEY], 121)
    assert (shown.event, shown.created, shown.values) == (20, 30, [None, None])


def test_a_key_without_a_value_is_not_found(database):
    assert encode_key([7, None]) is None
    assert trips_at(database, 50, key=None) == "NOT_FOUND"
    assert trips_at(database, 50, key=encode_key([8])) == "NOT_FOUND"


def test_keys_are_exact_and_of_their_type():
    keys = [[1], [2**53], [2**53 + 1], [2**63 - 1], [-(2**63)], ["1"], [""], ["a", 1], ["a1"], [b"1"]]
    assert len({encode_key(key) for key in keys}) == len(keys)


def test_values_come_back_exactly(database):
    values = [2**53 + 1, -(2**63), 2**63 - 1, 0.1, -0.0, "O'Hare ✈", "", True, None, [1, None]]
    for value in values:
        database.write(TRIPS, [(encode_key([repr(value)]), row(1, 1, value))], now=2)
    shown = database.read(TRIPS, [encode_key([repr(value)]) for value in values], 2)
    assert [repr(row.values[0]) for row in shown] == [repr(value) for value in values]


def test_a_write_counts_rows_that_had_been_due(database):
    assert database.write(TRIPS, [(KEY, row(20, 20, 2))], now=20) == Written(records=1, missed=0)
    assert database.write(TRIPS, [(KEY, row(30, 30, 3))], now=40) == Written(records=1, missed=1)
    database.write(TRIPS, [(KEY, row(50, 50, 4))], now=40)
    assert database.write(TRIPS, [(KEY, row(50, 50, 4))], now=60).missed == 0


def test_a_view_that_was_never_materialized_says_what_to_run(database):
    other = OnlineView("driver_trips", ("driver",), ("trips",), 0, "second")
    with pytest.raises(NotBuilt, match="view 'driver_trips' is not in the online store as it is defined now"):
        database.read(other, [KEY], 50)
    assert database.count(other) == 0
    assert database.count(TRIPS) == 0


def test_another_schema_reads_from_a_table_of_its_own(database):
    second = OnlineView("driver_trips", ("driver",), ("note", "trips"), 0, "second")
    database.write(TRIPS, [(KEY, row(20, 20, 2, "two"))], now=50)
    database.create(second)
    assert trips_at(database, 50, second) == "NOT_FOUND"
    database.write(second, [(KEY, row(20, 20, "two", 2))], now=50)
    assert (trips_at(database, 50), trips_at(database, 50, second)) == (2, "two")


def test_a_file_that_was_removed_is_a_new_file_to_those_who_had_it_open(tmp_path, database):
    before = database.identity
    database.write(TRIPS, [(KEY, row(20, 20, 2))], now=50)
    (tmp_path / "online.db").unlink()  # its journal stays behind
    assert database.identity != before
    with pytest.raises(NotBuilt):
        trips_at(database, 50)
    database.create(TRIPS)
    assert trips_at(database, 50) == "NOT_FOUND"
    assert PackedDatabase(tmp_path / "online.db").identity == database.identity


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(DataFolderError, match="home/online.db"):
        PackedDatabase(tmp_path / "home" / "online.db").identity  # noqa: B018


def test_a_batch_that_fails_writes_none_of_its_rows(database):
    def failing():
        yield KEY, row(20, 20, 2)
        yield encode_key([8]), row(20, 20, object())

    with pytest.raises(TypeError):
        database.write(TRIPS, failing(), now=50)
    assert database.count(TRIPS) == 0
    assert database.write(TRIPS, [(KEY, row(20, 20, 2))], now=50).records == 1


READ = """
import sys, time
from pathlib import Path
from stores.packed import OnlineView, PackedDatabase, encode_key
view = OnlineView("driver_trips", ("driver",), ("trips", "note"), 0, "first")
print("ready", flush=True)
sys.stdin.readline()
until, reads, last = time.monotonic() + 1.2, 0, 0
while time.monotonic() < until:
    database = PackedDatabase(Path(sys.argv[1]))
    for _ in range(20):
        shown = database.read(view, [encode_key([driver]) for driver in range(50)], 10**9)
        assert all(row.status == "PRESENT" and row.values == [row.event, "x" * 100] for row in shown), shown
        assert shown[0].event >= last, "went back"
        last, reads = shown[0].event, reads + 1
    database.close()
print(reads)
"""


def test_readers_in_other_processes_never_fail_while_one_writes(tmp_path, database):
    drivers = [encode_key([driver]) for driver in range(50)]
    database.write(TRIPS, [(driver, row(1, 1, 1, "x" * 100)) for driver in drivers], now=10**9)
    programs = [
        subprocess.Popen([sys.executable, "-c", READ, str(database.path)], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        for _ in range(3)
    ]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    # All at once, however long each took to start.
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    number = 1
    while any(program.poll() is None for program in programs):
        number += 1
        database.write(TRIPS, [(driver, row(number, number, number, "x" * 100)) for driver in drivers], now=10**9)
    for program in programs:
        reads, errors = program.communicate()
        assert errors == "" and int(reads) > 20
    assert number > 10


def test_threads_write_and_read_through_one_database(database):
    def write(driver):
        for number in range(20):
            database.write(TRIPS, [(encode_key([driver]), row(number, number, number))], now=100)
        database.close()

    threads = [threading.Thread(target=write, args=(driver,)) for driver in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trips_at(database, 100, key=encode_key([driver])) for driver in range(4)] == [19] * 4


def test_a_read_costs_less_than_a_millisecond(database):
    database.write(TRIPS, [(encode_key([driver]), row(1, 1, driver, "x")) for driver in range(1000)], now=50)
    started = time.perf_counter()
    for driver in range(1000):
        trips_at(database, 50, key=encode_key([driver]))
    assert time.perf_counter() - started < 1.0
