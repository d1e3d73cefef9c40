"""SQLite files in a read-only folder."""

import sqlite3
from contextlib import closing

from stores.tables import make_database, sqlite_uri


def test_a_database_in_a_read_only_folder_is_read_without_new_files(tmp_path, monkeypatch):
    path = tmp_path / "a file?.db"
    make_database(path, ["CREATE TABLE t (n)", "INSERT INTO t VALUES (7)"])
    monkeypatch.setattr("os.access", lambda *_: False)
    with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
        assert [
            file.name
            for file in tmp_path.iterdir()
            if "db" in file.name and not file.name.startswith(".")
        ] == ["a file?.db"]


def test_a_write_ahead_log_in_a_read_only_folder_is_read_too(tmp_path, monkeypatch):
    path = tmp_path / "with a journal.db"
    make_database(path, ["CREATE TABLE t (n)"])
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("INSERT INTO t VALUES (7)")
        writer.commit()
        monkeypatch.setattr("os.access", lambda *_: False)
        with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
