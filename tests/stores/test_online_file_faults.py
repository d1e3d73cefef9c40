"""Unexpected online files: old or foreign formats, damaged, unreadable, on a full disk."""

import os
import resource
import signal
import sqlite3
from contextlib import closing

import pytest

from punctual.errors import DataFolderError, NotBuilt, StoreOutdated
from stores.online import PackedDatabase
from stores.online.backends.sqlite import SqliteRecords
from stores.online.backends.sqlite_file import FORMAT
from tests.stores.online_rows import KEYS, LATER, NEW, OLD, TRIPS, fill, rows, shown


def an_older_file(path, *, version=0):
    """A file of the first format, or with the tables of a later unknown one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE identity (id TEXT)"
            if version == 0
            else "CREATE TABLE places (schema TEXT)"
        )
        connection.execute("CREATE TABLE 'driver_trips.0123' (key BLOB PRIMARY KEY, record BLOB)")
        connection.execute("INSERT INTO 'driver_trips.0123' VALUES (x'07', x'08')")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("is_open", [False, True])
def test_only_the_next_run_renames_a_file_of_an_older_format(tmp_path, version, is_open):
    path = tmp_path / "online.db"
    an_older_file(path, version=version)
    holder = sqlite3.connect(path) if is_open else None
    if holder:
        holder.execute("INSERT INTO 'driver_trips.0123' VALUES (x'09', x'10')")
        holder.commit()
    database = PackedDatabase(SqliteRecords(path))
    for act in (
        lambda: shown(database),
        lambda: database.write(TRIPS, rows(OLD), 50),
        lambda: database.count(TRIPS),
    ):
        with pytest.raises(
            StoreOutdated,
            match=rf"is of format {version or 1}, and this version .* writes {FORMAT}. Run:"
            r" punctual",
        ):
            act()
    fill(database)
    assert shown(database) == [OLD] * 10
    aside = tmp_path / f"online.db.format-{version or 1}"
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT count(*) FROM 'driver_trips.0123'").fetchone() == (
            1 + is_open,
        )
    if holder:
        # A process that has the file open still reads it.
        assert len(holder.execute("SELECT * FROM 'driver_trips.0123'").fetchall()) == 2
        holder.close()
    # The next run renames nothing, and an earlier renamed file is not overwritten.
    fill(database)
    database.close()
    path.unlink()
    an_older_file(path, version=version)
    fill(database)
    assert sorted(each.name for each in tmp_path.glob("online.db.format-*[0-9]")) == [
        aside.name,
        f"{aside.name}.2",
    ]
    # An erasure removes the renamed file, which cannot be searched any more.
    database.erase(TRIPS, KEYS)
    assert not list(tmp_path.glob("online.db.format-*"))
    database.close()


def test_a_file_of_a_newer_format_is_not_changed(tmp_path):
    path = tmp_path / "online.db"
    an_older_file(path, version=FORMAT + 1)
    before = path.read_bytes()
    database = PackedDatabase(SqliteRecords(path))
    for act in (lambda: shown(database), lambda: fill(database)):
        with pytest.raises(
            StoreOutdated, match=f"of format {FORMAT + 1}, which a newer version of Punctual made"
        ):
            act()
    assert path.read_bytes() == before


def of_somebody_else(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE feast_metadata (id TEXT)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (of_somebody_else, "is a SQLite file, but not an online store"),
        (
            lambda path: path.write_bytes(b"a picture, perhaps " * 100),
            "is not an online store: file is not a database",
        ),
        (lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_a_file_that_is_not_an_online_store_is_not_changed(tmp_path, make, message):
    path = tmp_path / "online.db"
    make(path)
    database = PackedDatabase(SqliteRecords(path))
    for act in (
        lambda: shown(database),
        lambda: fill(database),
        lambda: database.records.views("test"),
        lambda: database.count(TRIPS),
    ):
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


def test_a_damaged_file_is_an_error_and_does_not_read_as_missing_rows(tmp_path):
    path = tmp_path / "online.db"
    with closing(PackedDatabase(SqliteRecords(path))) as database:
        fill(database, keys=[TRIPS.key(driver) for driver in range(3000)])
        database.records.scrub()
    damaged = bytearray(path.read_bytes())
    damaged[8192 + 100 :] = b"\xff" * (len(damaged) - 8192 - 100)
    path.write_bytes(damaged)
    for act in (
        lambda: shown(database),
        lambda: fill(database),
        lambda: database.write(TRIPS, rows(NEW), 50),
    ):
        with pytest.raises(
            DataFolderError, match="is damaged: .*Move it away and materialize again"
        ):
            act()
    database.close()


def test_a_reader_creates_no_file(tmp_path):
    database = PackedDatabase(SqliteRecords(tmp_path / "nowhere" / "online.db"))
    with pytest.raises(NotBuilt):
        shown(database)
    assert (
        database.count(TRIPS),
        database.records.watermark(TRIPS),
        database.records.views("test"),
    ) == (0, None, {})
    database.erase(TRIPS, KEYS)
    database.erase_view("test", "driver_trips")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_a_read_only_folder_sees_what_the_owner_writes(tmp_path, monkeypatch):
    """The file is opened as immutable only while nobody else has it open."""
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
    """Runs in a child with a limit on the size of files, which SQLite sees as a full disk.

    Returns the child's error message.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # The forked child must not run any code of pytest.
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
    # For odd sizes the limit is lifted afterwards and the same object continues.
    for limit in (size, resource.RLIM_INFINITY)[: 1 + size % 2]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            act()
        except BaseException as error:
            said += f"{type(error).__name__} {error}"
    return said


@pytest.mark.parametrize("size", [0, 1, 20_000, 20_001, 300_000, 300_001])
def test_a_full_disk_is_an_error_and_the_file_stays_whole(tmp_path, size):
    path = tmp_path / "online.db"
    database = PackedDatabase(SqliteRecords(path))
    if size > 1:
        fill(database)
    said = in_a_child_that_may_write(size, lambda: fill(database, NEW, MANY))
    assert said.startswith("DataFolderError DataFolderError: cannot ") and said.endswith(
        "Free disk space or correct the file's permissions."
    ), said
    if size > 1 or size % 2:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert shown(database) == [NEW if size % 2 else OLD] * 10
        assert database.count(TRIPS) == (20_000 if size % 2 else 10)
    fill(database, LATER)
    assert shown(database) == [LATER] * 10
    database.close()
