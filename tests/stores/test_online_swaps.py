"""Generations of online records that are created, removed and swapped between two steps of another
thread or process.
"""

import os
from contextlib import closing

import pytest

from punctual.errors import NotBuilt
from stores.online import OnlineStoreUnavailable, PackedDatabase
from stores.online.backend import Watermark
from stores.online.backends.redis import RedisRecords
from stores.online.backends.sqlite import SqliteRecords
from stores.online.backends.sqlite_tables import select_many, select_one
from tests.stores.online_rows import (
    CHANGED,
    KEYS,
    LATER,
    NEW,
    OLD,
    TRIPS,
    fill,
    just_before,
    rebuild,
    rows,
    shown,
)


def test_rows_written_during_a_rebuild_survive_it(database, another):
    fill(database)
    rebuild(database, NEW, before_swap=lambda: another.write(TRIPS, rows(LATER, KEYS[:3]), 50))
    assert shown(another) == [LATER] * 3 + [NEW] * 7


@pytest.mark.parametrize("step", ["writable_generations", "get", "put"])
def test_rows_are_not_lost_where_a_rebuild_begins_and_ends_between_two_steps_of_their_writer(
    database, another, step
):
    fill(database)
    another.write(TRIPS, rows(25, KEYS[:1]), 50)
    with just_before(another.records, step, lambda: rebuild(database, NEW)):
        assert another.write(TRIPS, rows(LATER, KEYS[:3]), 50).records == 3
    assert shown(another) == [LATER] * 3 + [NEW] * 7


@pytest.mark.parametrize("step", ["writable_generations", "get", "put"])
def test_rows_are_not_lost_where_a_rebuild_begins_between_two_steps_of_their_writer(
    database, another, step
):
    fill(database)
    with database.records.exclusive(TRIPS):
        begun = []

        def begin():
            begun.append(database.records.new_generation(TRIPS))

        with just_before(another.records, step, begin):
            another.write(TRIPS, rows(LATER, KEYS[:3]), 50)
        database.write(TRIPS, rows(NEW), 50, generation=begun[0], is_empty=True)
        database.records.swap(TRIPS, begun[0], Watermark(1, NEW))
    assert shown(another) == [LATER] * 3 + [NEW] * 7


def test_a_reader_that_knew_a_generation_finds_the_next(database, another):
    fill(database)
    for moment in range(21, 26):
        assert shown(another) == [moment - 1] * 10
        assert shown(another, KEYS[:1]) == [moment - 1]
        rebuild(database, moment)


def test_a_read_finds_the_records_however_often_views_are_swapped_meanwhile(tmp_path):
    with closing(PackedDatabase(SqliteRecords(tmp_path / "online.db"))) as database:
        fill(database)
        shown(database)
        writer = PackedDatabase(SqliteRecords(tmp_path / "online.db"))
        for name in ("_read_in_transaction", "_read_many"):
            rebuild(writer, NEW)
            with just_before(database.records, name, lambda: rebuild(writer, LATER)):
                assert shown(database)[0] in (NEW, LATER)
        writer.close()


@pytest.mark.parametrize("online_store", ["redis", "cluster"], indirect=True)
def test_a_generation_that_is_removed_while_redis_is_read_is_not_taken_for_missing_rows(
    database, another
):
    """Redis runs other commands between those of a read; SQLite reads from one snapshot."""
    fill(database)
    assert shown(another) == [OLD] * 10
    # The rebuild removes the old records just before the reader's first request for records.
    client = another.records.client
    with just_before(client, "pipeline", lambda: rebuild(database, NEW)):
        assert shown(another) == [NEW] * 10


def test_a_watermark_does_not_speak_for_records_that_somebody_removed(database, another):
    fill(database)
    schema = TRIPS.schema
    with (
        pytest.raises(
            OnlineStoreUnavailable, match="were removed or replaced while this run filled them"
        ),
        database.records.exclusive(TRIPS),
    ):
        another.records.drop(schema)
        database.write(TRIPS, rows(NEW, KEYS[:1]), 50)
    with pytest.raises(OnlineStoreUnavailable), database.records.exclusive(TRIPS):
        another.records.drop(schema)
        another.write(TRIPS, rows(LATER, KEYS[:1]), 50)
        database.records.move_watermark(TRIPS, Watermark(1, NEW))
    assert database.records.watermark(TRIPS) is None
    with pytest.raises(OnlineStoreUnavailable):
        rebuild(database, NEW, before_swap=lambda: another.erase_view("test", "driver_trips"))


def test_the_next_run_removes_what_a_killed_rebuild_left(database, another):
    fill(database)
    abandoned = database.records.new_generation(TRIPS)
    database.write(TRIPS, rows(NEW, KEYS[:5]), 50, generation=abandoned)
    assert len(database.records.writable_generations(TRIPS)) == 2
    fill(another, NEW)
    assert len(another.records.writable_generations(TRIPS)) == 1
    if not isinstance(another.records, RedisRecords):
        with pytest.raises(OnlineStoreUnavailable):
            database.write(TRIPS, rows(LATER), 50, generation=abandoned)
    assert (shown(another), another.count(TRIPS)) == ([NEW] * 10, 10)


def test_records_of_an_earlier_definition_are_removed_once_unused(database, another):
    fill(database)
    with database.records.exclusive(CHANGED):
        database.write(CHANGED, rows(NEW, view=CHANGED), 50)
        assert (shown(another), shown(another, view=CHANGED)) == ([OLD] * 10, [[NEW]] * 10)
        database.records.move_watermark(CHANGED, Watermark(1, NEW))
    database.drop_other_definitions(CHANGED, {TRIPS.schema})
    assert (shown(another), shown(another, view=CHANGED)) == ([OLD] * 10, [[NEW]] * 10)
    database.drop_other_definitions(CHANGED, ())
    assert shown(another, view=CHANGED) == [[NEW]] * 10
    with pytest.raises(NotBuilt):
        shown(another)
    assert another.records.views("test") == {"driver_trips": [CHANGED.schema]}


def test_the_statements_that_are_kept_do_not_grow_with_rebuilds():
    """They name generations, and every rebuild makes one."""
    assert select_many.cache_info().maxsize and select_one.cache_info().maxsize


def test_a_child_of_a_fork_reads_what_is_written_after_it(tmp_path):
    database = PackedDatabase(SqliteRecords(tmp_path / "online.db"))
    fill(database)
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        # The forked child must not run any code of pytest.
        try:
            os.read(told, 1)
            database.write(TRIPS, rows(LATER, KEYS[:1]), 50)
            os._exit(shown(database) != [LATER] + [NEW] * 9)
        finally:
            os._exit(2)
    # The last connection closes and its journal is deleted; a child that kept the journal open
    # would read the deleted file.
    database.write(TRIPS, rows(NEW), 50)
    database.close()
    os.write(tells, b".")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert shown(database) == [LATER] + [NEW] * 9
    database.close()
    os.close(told)
    os.close(tells)
