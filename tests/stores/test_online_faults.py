"""What goes wrong around an online store: servers that stop, files of other formats, full disks, swaps in between."""

import os
import resource
import signal
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from feast.types import Array, Int64, String

from feature_repo.errors import DataFolderError, NotBuilt, StoreOutdated
from stores.online_file import FORMAT
from stores.online_redis import RedisRecords
from stores.online_sqlite import SqliteRecords, _statement, _statement_for_one
from stores.packed import Mark, OnlineStoreUnavailable, OnlineView, PackedDatabase, Rows

TRIPS = OnlineView("test", "driver_trips", (("driver", Int64),), (("trips", Int64), ("note", String)))
CHANGED = OnlineView("test", "driver_trips", (("driver", Int64),), (("trips", Array(Int64)),))
KEYS = [TRIPS.key(driver) for driver in range(10)]
OLD, NEW, LATER = 20, 30, 40


def rows(moment, keys=KEYS, note="x", view=TRIPS):
    times = [moment] * len(keys)
    columns = [times, [note] * len(keys)] if view is TRIPS else [[[moment]] * len(keys)]
    return Rows(keys, times, times, view.layout.rows(columns, times, times))


def shown(database, keys=KEYS, view=TRIPS):
    return [row.values[0] if row.status == "PRESENT" else row.status for row in database.read(view, keys, 50)]


def rebuild(database, moment, keys=KEYS, view=TRIPS, before_swap=lambda: None):
    with database.records.alone(view):
        place = database.records.beside(view)
        database.write(view, rows(moment, keys, view=view), 50, place=place, is_empty=True)
        before_swap()
        database.records.swap(view, place, Mark(1, moment))


def fill(database, moment=OLD, keys=KEYS, view=TRIPS):
    with database.records.alone(view):
        database.write(view, rows(moment, keys, view=view), 50, is_empty=True)
        database.records.move_mark(view, Mark(1, moment))


@contextmanager
def just_before(records, name, act):
    """Does something just before a method's next call, as another process may."""
    method = getattr(records, name)

    def first(*arguments, **named):
        setattr(records, name, method)
        act()
        return method(*arguments, **named)

    setattr(records, name, first)
    yield
    setattr(records, name, method)


@pytest.fixture
def another(open_online):
    """The same store as another process sees it."""
    return open_online("test")


# Swaps and removals between two steps of somebody else.


def test_rows_written_while_the_view_is_rebuilt_are_there_after_it(database, another):
    fill(database)
    rebuild(database, NEW, before_swap=lambda: another.write(TRIPS, rows(LATER, KEYS[:3]), 50))
    assert shown(another) == [LATER] * 3 + [NEW] * 7


@pytest.mark.parametrize("step", ["places", "get", "put"])
def test_rows_are_not_lost_where_a_rebuild_begins_and_ends_between_two_steps_of_their_writer(database, another, step):
    fill(database)
    another.write(TRIPS, rows(25, KEYS[:1]), 50)
    with just_before(another.records, step, lambda: rebuild(database, NEW)):
        assert another.write(TRIPS, rows(LATER, KEYS[:3]), 50).records == 3
    assert shown(another) == [LATER] * 3 + [NEW] * 7


@pytest.mark.parametrize("step", ["places", "get", "put"])
def test_rows_are_not_lost_where_the_place_beside_comes_between_two_steps_of_their_writer(database, another, step):
    fill(database)
    with database.records.alone(TRIPS):
        begun = []

        def begin():
            begun.append(database.records.beside(TRIPS))

        with just_before(another.records, step, begin):
            another.write(TRIPS, rows(LATER, KEYS[:3]), 50)
        database.write(TRIPS, rows(NEW), 50, place=begun[0], is_empty=True)
        database.records.swap(TRIPS, begun[0], Mark(1, NEW))
    assert shown(another) == [LATER] * 3 + [NEW] * 7


def test_a_reader_that_knew_the_place_finds_the_next(database, another):
    fill(database)
    for moment in range(21, 26):
        assert shown(another) == [moment - 1] * 10
        assert shown(another, KEYS[:1]) == [moment - 1]
        rebuild(database, moment)


def test_a_look_finds_what_there_is_however_often_views_are_swapped_meanwhile(tmp_path):
    with closing(PackedDatabase(SqliteRecords(tmp_path / "online.db"))) as database:
        fill(database)
        shown(database)
        writer = PackedDatabase(SqliteRecords(tmp_path / "online.db"))
        for name in ("_look_at_all", "_look_at_many"):
            rebuild(writer, NEW)
            with just_before(database.records, name, lambda: rebuild(writer, LATER)):
                assert shown(database)[0] in (NEW, LATER)
        writer.close()


@pytest.mark.parametrize("online_store", ["redis", "cluster"], indirect=True)
def test_a_place_that_is_removed_while_redis_is_read_is_not_taken_for_missing_rows(database, another):
    """Redis answers command by command, and others come in between; SQLite reads from one snapshot."""
    fill(database)
    assert shown(another) == [OLD] * 10
    # The records are asked for first, and go just before they are.
    client = another.records.client
    with just_before(client, "pipeline", lambda: rebuild(database, NEW)):
        assert shown(another) == [NEW] * 10


def test_a_mark_does_not_speak_for_records_that_somebody_removed(database, another):
    fill(database)
    schema = TRIPS.schema
    with pytest.raises(OnlineStoreUnavailable, match="were removed or replaced while this run filled them"), database.records.alone(TRIPS):
        another.records.drop(schema)
        database.write(TRIPS, rows(NEW, KEYS[:1]), 50)
    with pytest.raises(OnlineStoreUnavailable), database.records.alone(TRIPS):
        another.records.drop(schema)
        another.write(TRIPS, rows(LATER, KEYS[:1]), 50)
        database.records.move_mark(TRIPS, Mark(1, NEW))
    assert database.records.mark(TRIPS) is None
    with pytest.raises(OnlineStoreUnavailable):
        rebuild(database, NEW, before_swap=lambda: another.erase_view("test", "driver_trips"))


def test_what_a_killed_rebuild_left_goes_with_the_next_run(database, another):
    fill(database)
    abandoned = database.records.beside(TRIPS)
    database.write(TRIPS, rows(NEW, KEYS[:5]), 50, place=abandoned)
    assert len(database.records.places(TRIPS)) == 2
    fill(another, NEW)
    assert len(another.records.places(TRIPS)) == 1
    if not isinstance(another.records, RedisRecords):
        with pytest.raises(OnlineStoreUnavailable):
            database.write(TRIPS, rows(LATER), 50, place=abandoned)
    assert (shown(another), another.count(TRIPS)) == ([NEW] * 10, 10)


# Definitions that change.


def test_what_an_earlier_definition_left_goes_when_the_new_records_are_whole(database, another):
    fill(database)
    with database.records.alone(CHANGED):
        database.write(CHANGED, rows(NEW, view=CHANGED), 50)
        assert (shown(another), shown(another, view=CHANGED)) == ([OLD] * 10, [[NEW]] * 10)
        database.records.move_mark(CHANGED, Mark(1, NEW))
    assert shown(another, view=CHANGED) == [[NEW]] * 10
    with pytest.raises(NotBuilt):
        shown(another)
    assert another.records.views("test") == {"driver_trips": [CHANGED.schema]}


def test_the_statements_that_are_kept_do_not_grow_with_rebuilds():
    """They name places, and every rebuild makes one."""
    assert _statement.cache_info().maxsize and _statement_for_one.cache_info().maxsize


# Threads and forks.


def test_a_child_of_a_fork_reads_what_is_written_after_it(tmp_path):
    database = PackedDatabase(SqliteRecords(tmp_path / "online.db"))
    fill(database)
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of pytest's may run in here.
        try:
            os.read(told, 1)
            database.write(TRIPS, rows(LATER, KEYS[:1]), 50)
            os._exit(shown(database) != [LATER] + [NEW] * 9)
        finally:
            os._exit(2)
    # The last connection goes, and its journal with it; a child that had it open would go on with what is not there any more.
    database.write(TRIPS, rows(NEW), 50)
    database.close()
    os.write(tells, b".")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert shown(database) == [LATER] + [NEW] * 9
    database.close()
    os.close(told)
    os.close(tells)


# Redis that stops, is slow, is somebody else's.


def test_redis_that_stops_is_an_error_at_once_and_is_used_again_when_it_is_back(start_redis):
    server = start_redis(appendonly=True)
    database = PackedDatabase(RedisRecords(server.url, "test", timeout=5.0))
    fill(database)
    for end in (server.stop, server.kill):
        end()
        for act in (lambda: shown(database), lambda: fill(database, NEW), lambda: database.erase(TRIPS, KEYS)):
            started = time.monotonic()
            with pytest.raises(OnlineStoreUnavailable, match=rf"Redis at 127.0.0.1:{server.port} does not answer"):
                act()
            assert time.monotonic() - started < 5
        server.start()
        assert shown(database) == [OLD] * 10
    assert database.records.mark(TRIPS) == Mark(1, OLD)
    database.close()


@pytest.mark.parametrize("lose", ["flushall", "restart", "hash"])
def test_redis_that_lost_its_data_is_filled_from_the_beginning(start_redis, lose):
    server = start_redis()
    database = PackedDatabase(RedisRecords(server.url, "test"))

    def lost():
        if lose == "restart":
            server.kill()
            server.start()
            return
        with closing(server.client()) as client:
            client.flushall() if lose == "flushall" else client.delete("{punctual:test}")

    fill(database)
    lost()
    with pytest.raises(NotBuilt):
        shown(database)
    # The mark has gone with the data: a run that begins now fills the view whole.
    assert database.records.mark(TRIPS) is None
    fill(database, NEW)
    assert (shown(database), database.count(TRIPS)) == ([NEW] * 10, 10)
    # A run that was under way leaves no mark for what it had written before.
    with pytest.raises(OnlineStoreUnavailable, match="removed or replaced"), database.records.alone(TRIPS):
        database.write(TRIPS, rows(LATER, KEYS[:5]), 50)
        lost()
        database.write(TRIPS, rows(LATER, KEYS[5:]), 50)
        database.records.move_mark(TRIPS, Mark(1, LATER))
    assert database.records.mark(TRIPS) is None
    database.close()


def test_a_slow_redis_is_an_error_within_the_time_that_is_configured(start_redis):
    server = start_redis()
    database = PackedDatabase(RedisRecords(server.url, "test", timeout=0.2))
    fill(database)
    server._process.send_signal(signal.SIGSTOP)
    for act in (lambda: shown(database), lambda: database.write(TRIPS, rows(NEW), 50)):
        started = time.monotonic()
        with pytest.raises(OnlineStoreUnavailable, match="Timeout"):
            act()
        assert time.monotonic() - started < 5
    server._process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OnlineStoreUnavailable):  # it has a moment's work to do
            assert shown(database)[0] in (OLD, NEW)
            break
    database.close()


def test_a_cluster_that_is_not_there_yet_is_used_when_it_is(start_redis):
    server = start_redis(cluster=True)
    server.stop()
    database = PackedDatabase(RedisRecords(server.url, "test", cluster=True))
    with pytest.raises(OnlineStoreUnavailable, match=f"Redis cluster at 127.0.0.1:{server.port}"):
        shown(database)
    server.start()
    fill(database)
    server.kill()
    with pytest.raises(OnlineStoreUnavailable):
        shown(database)
    server.start()
    fill(database, NEW)
    assert shown(database) == [NEW] * 10
    database.close()


def test_redis_with_a_password_and_tls_is_reached_as_its_address_says(start_redis):
    server = start_redis(password="p@ss word/1", tls=True)
    with closing(PackedDatabase(RedisRecords(f"{server.url}?ssl_ca_certs={server.certificate}", "test"))) as database:
        fill(database)
        assert shown(database) == [OLD] * 10
        assert "p@ss" not in database.records.where
    for address, reason in ((server.url, "certificate"), (server.url.replace("p%40ss", "other"), ".")):
        with closing(PackedDatabase(RedisRecords(address, "test"))) as database:
            with pytest.raises(OnlineStoreUnavailable, match=reason) as said:
                shown(database)
            assert "p@ss" not in str(said.value) and "p%40ss" not in str(said.value)


def test_a_run_that_lost_its_turn_neither_swaps_nor_moves_the_mark(redis_server, monkeypatch):
    """As after a silence of half a minute, when its lock is somebody else's."""
    first, second = (PackedDatabase(RedisRecords(redis_server.url, "test")) for _ in range(2))
    fill(first)

    def lose():
        with closing(redis_server.client()) as client:
            client.set(first.records._lock(TRIPS), "somebody else")

    with pytest.raises(OnlineStoreUnavailable, match="was silent for over 30 s"):
        rebuild(first, NEW, before_swap=lose)
    with closing(redis_server.client()) as client:
        client.delete(first.records._lock(TRIPS))
    with pytest.raises(OnlineStoreUnavailable), first.records.alone(TRIPS):
        lose()
        first.records.move_mark(TRIPS, Mark(1, NEW))
    assert second.records.mark(TRIPS) == Mark(1, OLD)
    first.close()
    second.close()


def test_a_redis_that_drops_keys_when_it_is_full_is_said_when_it_is_filled(redis_server):
    with closing(redis_server.client()) as client, closing(PackedDatabase(RedisRecords(redis_server.url, "test"))) as database:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            fill(database)  # without a limit nothing is dropped
            client.config_set("maxmemory", "1gb")
            with pytest.warns(UserWarning, match="allkeys-lru"):
                fill(database)
            client.config_set("maxmemory-policy", "volatile-lru")
            fill(database)
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_is_full_says_so_and_keeps_what_it_has(redis_server):
    with closing(redis_server.client()) as client, closing(PackedDatabase(RedisRecords(redis_server.url, "test"))) as database:
        fill(database)
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(OnlineStoreUnavailable, match="maxmemory"):
                fill(database, NEW)
            assert shown(database) == [OLD] * 10
        finally:
            client.config_set("maxmemory", "0")
        fill(database, NEW)
        assert shown(database) == [NEW] * 10


# Files of SQLite that are not what is expected.


def an_older_file(path, *, version=0):
    """A file of the first format, or with the tables of a later one that is not known any more."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE identity (id TEXT)" if version == 0 else "CREATE TABLE places (schema TEXT)")
        connection.execute("CREATE TABLE 'driver_trips.0123' (key BLOB PRIMARY KEY, record BLOB)")
        connection.execute("INSERT INTO 'driver_trips.0123' VALUES (x'07', x'08')")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_of_an_older_format_is_moved_aside_by_the_next_run_and_by_nobody_else(tmp_path, version, is_open):
    path = tmp_path / "online.db"
    an_older_file(path, version=version)
    holder = sqlite3.connect(path) if is_open else None
    if holder:
        holder.execute("INSERT INTO 'driver_trips.0123' VALUES (x'09', x'10')")
        holder.commit()
    database = PackedDatabase(SqliteRecords(path))
    for act in (lambda: shown(database), lambda: database.write(TRIPS, rows(OLD), 50), lambda: database.count(TRIPS)):
        with pytest.raises(StoreOutdated, match=rf"is of format {version or 1}, and this version .* writes {FORMAT}. Run: punctual"):
            act()
    fill(database)
    assert shown(database) == [OLD] * 10
    aside = tmp_path / f"online.db.format-{version or 1}"
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT count(*) FROM 'driver_trips.0123'").fetchone() == (1 + is_open,)
    if holder:
        # Whoever has it open still reads it.
        assert len(holder.execute("SELECT * FROM 'driver_trips.0123'").fetchall()) == 2
        holder.close()
    # Once is enough, and an older one is not overwritten.
    fill(database)
    database.close()
    path.unlink()
    an_older_file(path, version=version)
    fill(database)
    assert sorted(each.name for each in tmp_path.glob("online.db.format-*[0-9]")) == [aside.name, f"{aside.name}.2"]
    # An erasure leaves nothing of what nobody can look into any more.
    database.erase(TRIPS, KEYS)
    assert not list(tmp_path.glob("online.db.format-*"))
    database.close()


def test_a_file_of_a_newer_format_is_left_alone(tmp_path):
    path = tmp_path / "online.db"
    an_older_file(path, version=FORMAT + 1)
    before = path.read_bytes()
    database = PackedDatabase(SqliteRecords(path))
    for act in (lambda: shown(database), lambda: fill(database)):
        with pytest.raises(StoreOutdated, match=f"of format {FORMAT + 1}, which a newer version of Punctual made"):
            act()
    assert path.read_bytes() == before


def of_somebody_else(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE feast_metadata (id TEXT)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (of_somebody_else, "is a SQLite file, but no online store"),
        (lambda path: path.write_bytes(b"a picture, perhaps " * 100), "is no online store: file is not a database"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_what_is_no_online_store_is_left_alone(tmp_path, make, message):
    path = tmp_path / "online.db"
    make(path)
    database = PackedDatabase(SqliteRecords(path))
    for act in (lambda: shown(database), lambda: fill(database), lambda: database.records.views("test"), lambda: database.count(TRIPS)):
        with pytest.raises(DataFolderError, match=message):
            act()
    assert sorted(each.name for each in tmp_path.iterdir() if each.name[0] != ".") == ["online.db"]


def test_an_empty_file_is_filled(tmp_path):
    path = tmp_path / "online.db"
    path.touch()
    database = PackedDatabase(SqliteRecords(path))
    fill(database)
    assert shown(database) == [OLD] * 10
    database.close()


def test_a_damaged_file_is_said_and_not_taken_for_missing_rows(tmp_path):
    path = tmp_path / "online.db"
    with closing(PackedDatabase(SqliteRecords(path))) as database:
        fill(database, keys=[TRIPS.key(driver) for driver in range(3000)])
        database.records.scrub()
    damaged = bytearray(path.read_bytes())
    damaged[8192 + 100 :] = b"\xff" * (len(damaged) - 8192 - 100)
    path.write_bytes(damaged)
    for act in (lambda: shown(database), lambda: fill(database), lambda: database.write(TRIPS, rows(NEW), 50)):
        with pytest.raises(DataFolderError, match="is damaged: .*Move it away and materialize again"):
            act()
    database.close()


def test_a_reader_makes_no_file_where_there_is_none(tmp_path):
    database = PackedDatabase(SqliteRecords(tmp_path / "nowhere" / "online.db"))
    with pytest.raises(NotBuilt):
        shown(database)
    assert (database.count(TRIPS), database.records.mark(TRIPS), database.records.views("test")) == (0, None, {})
    database.erase(TRIPS, KEYS)
    database.erase_view("test", "driver_trips")
    assert list(tmp_path.iterdir()) == []


def test_who_reads_from_a_folder_that_is_closed_to_him_sees_what_its_owner_writes(tmp_path, monkeypatch):
    """Where nobody else has it open a file is read as it is, and only then."""
    path = tmp_path / "online.db"
    with closing(PackedDatabase(SqliteRecords(path))) as writer:
        fill(writer)
    reader = PackedDatabase(SqliteRecords(path))

    def seen():
        with monkeypatch.context() as patched:
            patched.setattr("os.access", lambda *_: False)
            return shown(reader)

    assert seen() == [OLD] * 10
    assert reader.records._local.frozen
    fill(writer, NEW)
    assert seen() == [NEW] * 10
    writer.close()
    assert seen() == [NEW] * 10
    fill(writer, LATER)
    writer.close()
    assert seen() == [LATER] * 10
    reader.close()


MANY = [TRIPS.key(driver) for driver in range(20_000)]


def in_a_child_that_may_write(size, act):
    """What it says of its failure; the limit is on the size of a file, and is as a full disk to SQLite."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of pytest's may run in here.
        try:
            said = _tried(size, act)
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


def _tried(size, act):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    said = ""
    # With an odd size there is space again afterwards, and the same object goes on.
    for limit in (size, resource.RLIM_INFINITY)[: 1 + size % 2]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            act()
        except BaseException as error:
            said += f"{type(error).__name__} {error}"
    return said


@pytest.mark.parametrize("size", [0, 1, 20_000, 20_001, 300_000, 300_001])
def test_a_disk_that_is_full_is_said_and_the_file_stays_whole(tmp_path, size):
    path = tmp_path / "online.db"
    database = PackedDatabase(SqliteRecords(path))
    if size > 1:
        fill(database)
    said = in_a_child_that_may_write(size, lambda: fill(database, NEW, MANY))
    assert said.startswith("DataFolderError DataFolderError: cannot ") and said.endswith("Free space or mend its rights."), said
    if size > 1 or size % 2:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert shown(database) == [NEW if size % 2 else OLD] * 10
        assert database.count(TRIPS) == (20_000 if size % 2 else 10)
    fill(database, LATER)
    assert shown(database) == [LATER] * 10
    database.close()


# Erasure.


SIZES = [0, 100, 3000, 9000, 40_000]  # in its page, and on pages of its own


def secret(driver, size):
    return f"{driver:08d}-secret-of-32-bytes-exactly-" + "s" * size


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_often(database, drivers):
    """Records that were changed, published ahead, rebuilt and left by a killed rebuild."""
    for moment in (OLD, NEW):
        for size in SIZES:
            keys = [TRIPS.key(driver) for driver in drivers if driver % len(SIZES) == SIZES.index(size)]
            notes = [secret(driver, size) for driver in drivers if driver % len(SIZES) == SIZES.index(size)]
            times = [moment] * len(keys)
            database.write(TRIPS, Rows(keys, times, times, TRIPS.layout.rows([times, notes], times, times)), 25)
    with database.records.alone(TRIPS):
        database.records.move_mark(TRIPS, Mark(1, NEW))
        abandoned = database.records.beside(TRIPS)
    database.write(TRIPS, rows(LATER, [TRIPS.key(drivers[0])], secret(drivers[0], 100)), 50, place=abandoned)


def held(files, drivers):
    texts = [secret(driver, 0)[:24].encode() for driver in drivers]
    return sorted({name for name, data in files.items() for text in texts if text in data})


@pytest.mark.parametrize("whole_view", [False, True])
def test_no_byte_of_what_was_erased_is_in_the_files_of_sqlite(tmp_path, whole_view):
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
            # Erased twice is erased once.
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
def test_no_byte_of_what_was_erased_is_in_the_files_of_redis(start_redis, appendonly, cluster):
    server = start_redis(appendonly=appendonly, cluster=cluster)
    database = PackedDatabase(RedisRecords(server.url, "test", cluster=cluster))
    drivers = list(range(60))
    with closing(server.client()) as client:
        # On disk and not in memory, as Redis compresses texts in a snapshot.
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


def test_a_redis_that_keeps_no_files_is_given_none(start_redis):
    server = start_redis()
    with closing(PackedDatabase(RedisRecords(server.url, "test"))) as database:
        fill(database)
        before = sorted(files_of(server.folder))
        assert database.erase(TRIPS, KEYS[:1]) == 1
        assert sorted(files_of(server.folder)) == before


def test_what_an_earlier_definition_holds_of_an_entity_is_erased_too(database, another):
    fill(database)
    another.write(CHANGED, rows(NEW, view=CHANGED), 50)
    assert database.erase(CHANGED, KEYS[:2]) == 2
    assert (shown(database), shown(database, view=CHANGED)) == ([*["NOT_FOUND"] * 2, *[OLD] * 8], [*["NOT_FOUND"] * 2, *[[NEW]] * 8])


def test_an_erasure_waits_for_the_run_that_would_bring_its_rows_back(database, another):
    fill(database)
    erased = []

    def erase():
        erased.append(another.erase(TRIPS, KEYS[:2]))
        another.close()

    thread = threading.Thread(target=erase)
    rebuild(database, NEW, before_swap=thread.start)
    thread.join()
    assert (erased, shown(database)) == ([2], [*["NOT_FOUND"] * 2, *[NEW] * 8])
