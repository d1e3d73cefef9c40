"""Folders and files whose names look like patterns or URLs to DuckDB and SQLite."""

import shutil
import sqlite3
from contextlib import closing
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.repo_config import RepoConfig

from stores.offline.view_files import plain_scan
from stores.online import packed_database
from stores.tables import Manifest, Table, connect, file_literal, make_database, sqlite_uri
from stores.tables.compaction import FANOUT

NAMES = [
    "things [1]",
    "a *",
    "wh?t",
    "[a-z]",
    "feature%2Fx",
    'it\'s "quoted"',
    "a#b;c&d=e",
    "year=2020",
    "{x,y} ünï 日本",
]
TRIPS = {"driver": pa.int64(), "trips": pa.int64()}


@pytest.fixture(params=NAMES)
def folder(request, tmp_path):
    """A folder with such a name, beside folders that the name matches as a pattern."""
    for rival in ("things 1", "a b", "what", "b"):
        (tmp_path / rival).mkdir()
    made = tmp_path / request.param
    made.mkdir()
    return made


def at(hour):
    return datetime(2013, 6, 1, hour)


def test_a_table_is_published_merged_and_read_in_a_folder_of_any_name(folder, publish):
    other = folder.parent / "things 1" / "tables"
    for root, trips in ((folder / "tables", 1), (other, 2)):
        table = Table.for_definition(root, "trips", "first", ("driver",))
        for hour in range(FANOUT + 1):
            publish(table, TRIPS, [(7, trips, at(hour), at(hour))])
    table = Table.current(folder / "tables", "trips")
    assert [file.rows for file in table.files()] == [FANOUT, 1]
    rows = table.read()
    assert rows.column_names == ["driver", "trips", "event_timestamp", "created_timestamp"]
    assert rows["trips"].to_pylist() == [1] * (FANOUT + 1)
    assert Manifest(folder / "tables").names() == ["trips"]


def test_a_folder_of_tables_that_is_moved_reads_the_same(folder, publish, tmp_path):
    table = Table.for_definition(folder / "tables", "trips", "first", ("driver",))
    publish(table, TRIPS, [(7, 3, at(1), at(1))])
    shutil.move(folder, tmp_path / "elsewhere")
    moved = Table.current(tmp_path / "elsewhere" / "tables", "trips")
    assert moved.read()["trips"].to_pylist() == [3]
    with closing(sqlite3.connect(moved.manifest.path)) as manifest:
        assert str(tmp_path) not in "\n".join(manifest.iterdump())


def test_plain_files_in_a_folder_of_any_name_are_read_and_no_others(folder):
    pq.write_table(pa.table({"x": [1]}), folder / "rows.parquet")
    pq.write_table(pa.table({"x": [2]}), folder.parent / "things 1" / "rows.parquet")
    with connect() as connection:
        for path in (folder, folder / "rows.parquet"):
            rows = connection.sql(plain_scan(path)).to_arrow_table()
            assert rows.to_pydict() == {"x": [1]}


def test_a_file_of_any_name_is_read_and_not_its_neighbour(folder):
    for file, x in (("things [1].csv", 1), ("things 1.csv", 2)):
        (folder / file).write_text(f"x\n{x}\n")
    with connect() as connection:
        read = f"SELECT x FROM read_csv({file_literal(folder / 'things [1].csv')})"
        assert connection.execute(read).fetchall() == [(1,)]


def test_a_sqlite_file_is_made_and_opened_in_a_folder_of_any_name(folder, monkeypatch):
    path = folder / "a file?#%41.db"
    make_database(path, ["CREATE TABLE t (n)", "INSERT INTO t VALUES (7)"])
    for _ in ("writable", "read only"):
        with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
        monkeypatch.setattr("os.access", lambda *_: False)
    assert {file.name for file in folder.iterdir()} == {path.name, f".{path.name}.lock"}


def test_the_online_store_is_in_the_file_that_is_named(folder):
    path = folder / "online ?#%41.db"
    config = RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store={"type": "stores.online.PackedOnlineStore", "path": str(path)},
        entity_key_serialization_version=3,
    )
    records = packed_database(config).records
    records._existing()  # the file is made at the first write
    records.close()
    assert path.is_file()
    assert all(file.name.lstrip(".").startswith(path.name) for file in folder.iterdir())
