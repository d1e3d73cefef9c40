"""Erased entities and views: no byte remains in any file, and no run restores them."""

import threading
from contextlib import closing

import pytest

from punctual.errors import NotBuilt
from stores.online import PackedDatabase
from stores.online.backend import Watermark
from stores.online.backends.redis import RedisRecords
from stores.online.backends.sqlite import SqliteRecords
from stores.online.records import Rows
from tests.stores.online_rows import (
    CHANGED,
    KEYS,
    LATER,
    NEW,
    OLD,
    TRIPS,
    fill,
    rebuild,
    rows,
    shown,
)

SIZES = [0, 100, 3000, 9000, 40_000]  # in its page, and on pages of its own


def secret(driver, size):
    return f"{driver:08d}-secret-of-32-bytes-exactly-" + "s" * size


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_often(database, drivers):
    """Records that were changed, published ahead, rebuilt and left by a killed rebuild."""
    for moment in (OLD, NEW):
        for size in SIZES:
            keys = [
                TRIPS.key(driver) for driver in drivers if driver % len(SIZES) == SIZES.index(size)
            ]
            notes = [
                secret(driver, size)
                for driver in drivers
                if driver % len(SIZES) == SIZES.index(size)
            ]
            times = [moment] * len(keys)
            database.write(
                TRIPS, Rows(keys, times, times, TRIPS.layout.rows([times, notes], times, times)), 25
            )
    with database.records.exclusive(TRIPS):
        database.records.move_watermark(TRIPS, Watermark(1, NEW))
        abandoned = database.records.new_generation(TRIPS)
    database.write(
        TRIPS,
        rows(LATER, [TRIPS.key(drivers[0])], secret(drivers[0], 100)),
        50,
        generation=abandoned,
    )


def held(files, drivers):
    texts = [secret(driver, 0)[:24].encode() for driver in drivers]
    return sorted({name for name, data in files.items() for text in texts if text in data})


@pytest.mark.parametrize("whole_view", [False, True])
def test_no_erased_byte_remains_in_the_files_of_sqlite(tmp_path, whole_view):
    path = tmp_path / "online.db"
    database = PackedDatabase(SqliteRecords(path))
    drivers = list(range(300))
    written_often(database, drivers)
    assert held(files_of(tmp_path), drivers)
    reader, done = PackedDatabase(SqliteRecords(path)), threading.Event()

    def read():
        while not done.is_set():
            try:
                shown(reader, [TRIPS.key(driver) for driver in drivers])
            except NotBuilt:
                continue
        reader.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        gone = drivers if whole_view else drivers[::3]
        if whole_view:
            database.erase_view("test", "driver_trips")
        else:
            assert database.erase(TRIPS, [TRIPS.key(driver) for driver in gone]) == 100
            # A second erasure finds nothing.
            assert database.erase(TRIPS, [TRIPS.key(driver) for driver in gone]) == 0
        assert held(files_of(tmp_path), gone) == []
        if not whole_view:
            assert held(files_of(tmp_path), drivers[1::3]) == ["online.db"]
            assert shown(database, [TRIPS.key(driver) for driver in (0, 1)]) == ["NOT_FOUND", NEW]
    finally:
        done.set()
        thread.join()
        database.close()


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize("appendonly", [False, True])
def test_no_erased_byte_remains_in_the_files_of_redis(start_redis, appendonly, cluster):
    server = start_redis(appendonly=appendonly, cluster=cluster)
    database = PackedDatabase(RedisRecords(server.url, "test", cluster=cluster))
    drivers = list(range(60))
    with closing(server.client()) as client:
        # Without compression the snapshot has the bytes that the test searches for.
        client.config_set("rdbcompression", "no")
        written_often(database, drivers)
        if not appendonly:
            client.save()
    assert held(files_of(server.folder), drivers)
    assert database.erase(TRIPS, [TRIPS.key(driver) for driver in drivers[::3]]) == 20
    assert held(files_of(server.folder), drivers[::3]) == []
    assert held(files_of(server.folder), drivers[1::3])
    database.erase_view("test", "driver_trips")
    assert held(files_of(server.folder), drivers) == []
    database.close()


def test_an_erasure_adds_no_files_to_a_redis_without_persistence(start_redis):
    server = start_redis()
    with closing(PackedDatabase(RedisRecords(server.url, "test"))) as database:
        fill(database)
        before = sorted(files_of(server.folder))
        assert database.erase(TRIPS, KEYS[:1]) == 1
        assert sorted(files_of(server.folder)) == before


def test_records_of_an_earlier_definition_are_erased_too(database, another):
    fill(database)
    another.write(CHANGED, rows(NEW, view=CHANGED), 50)
    assert database.erase(CHANGED, KEYS[:2]) == 2
    assert (shown(database), shown(database, view=CHANGED)) == (
        [*["NOT_FOUND"] * 2, *[OLD] * 8],
        [*["NOT_FOUND"] * 2, *[[NEW]] * 8],
    )


def test_an_erasure_waits_for_a_running_materialization(database, another):
    fill(database)
    erased = []

    def erase():
        erased.append(another.erase(TRIPS, KEYS[:2]))
        another.close()

    thread = threading.Thread(target=erase)
    rebuild(database, NEW, before_swap=thread.start)
    thread.join()
    assert (erased, shown(database)) == ([2], [*["NOT_FOUND"] * 2, *[NEW] * 8])
