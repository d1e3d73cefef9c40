"""The manifest: which files make up a table at a commit, and up to when each table is built.

One SQLite file describes all tables of a data folder, so that a commit, its files and its watermark
change in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path

from punctual.errors import BrokenTable, StoreOutdated
from punctual.times import from_micros, micros
from stores.tables.sqlite_file import make_database, sqlite_uri
from stores.tables.write_errors import writing

MANIFEST_FILE = "manifest.db"
# The format of the file, stored as `user_version`; files of the first format have 0.
_FORMAT = 2
_SCHEMA = f"""
CREATE TABLE tables (
    name TEXT NOT NULL, version INTEGER NOT NULL, fingerprint TEXT NOT NULL, keys TEXT NOT NULL,
    PRIMARY KEY (name, version)) WITHOUT ROWID;
CREATE TABLE commits (
    name TEXT NOT NULL, version INTEGER NOT NULL, number INTEGER NOT NULL, built_until INTEGER,
    PRIMARY KEY (name, version, number)) WITHOUT ROWID;
CREATE TABLE files (
    name TEXT NOT NULL, version INTEGER NOT NULL, path TEXT NOT NULL,
    added INTEGER NOT NULL, removed INTEGER, rows INTEGER NOT NULL,
    min_event INTEGER NOT NULL, max_event INTEGER NOT NULL,
    min_created INTEGER NOT NULL, max_created INTEGER NOT NULL,
    min_lag INTEGER NOT NULL, max_lag INTEGER NOT NULL,
    in_order INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (name, version, path)) WITHOUT ROWID;
CREATE INDEX files_of_newest_commit ON files (name, version) WHERE removed IS NULL;
PRAGMA user_version = {_FORMAT}
"""


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of a set of rows; times are microseconds since 1970 in UTC, bounds inclusive.

    The lag of a row is `created_timestamp - event_timestamp` in microseconds. `in_order` is true if
    the rows, following all earlier rows of their table, were created in the order of their events.
    """

    rows: int
    min_event: int
    max_event: int
    min_created: int
    max_created: int
    min_lag: int
    max_lag: int
    in_order: bool

    @property
    def is_regular(self) -> bool:
        """Whether all rows have the same lag.

        Event time and creation time then order them alike, and no two rows of the same keys tie.
        """
        return self.min_lag == self.max_lag

    @classmethod
    def combined(cls, parts: Sequence[RowStatistics]) -> RowStatistics:
        """The statistics of the union of the parts, of which there is at least one."""
        return RowStatistics(
            sum(part.rows for part in parts),
            min(part.min_event for part in parts),
            max(part.max_event for part in parts),
            min(part.min_created for part in parts),
            max(part.max_created for part in parts),
            min(part.min_lag for part in parts),
            max(part.max_lag for part in parts),
            all(part.in_order for part in parts),
        )


@dataclass(frozen=True)
class DataFile(RowStatistics):
    """One immutable Parquet file of a table, with its path relative to the `tables` folder."""

    path: str
    bytes: int


_FILE_COLUMNS = [field.name for field in fields(DataFile)]


@dataclass(frozen=True)
class TableVersion:
    """A version of a table: the rows that one definition computes, identified by a fingerprint."""

    name: str
    version: int
    fingerprint: str
    keys: tuple[str, ...]


class Manifest:
    """Reads and writes the manifest of a `tables` folder; each call is one transaction.

    Several processes may use the manifest at once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / MANIFEST_FILE

    @contextmanager
    def _connection(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Raises `DataFolderError`, `StoreOutdated` or `BrokenTable` (a damaged file)."""
        try:
            with writing("the manifest", self.path):
                if write:
                    make_database(self.path, _SCHEMA.split(";"))
                connection = sqlite3.connect(
                    sqlite_uri(self.path), uri=True, timeout=60, isolation_level=None
                )
                with closing(connection):
                    self._check_format(connection)
                    if write:
                        connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    if write:
                        connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise BrokenTable(
                f"{self.path}, which lists the files of all tables, cannot be read: {error}."
                " Restore the file, or move the folder away and build again."
            ) from error

    def _check_format(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found != _FORMAT:
            raise StoreOutdated(
                f"the tables in {self.root} are of format {found}, written by another version of"
                f" Punctual; this version reads and writes {_FORMAT}. Use the other version, or"
                " move the data folder away and build again: punctual features build."
            )

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple]:
        if not self.path.exists():
            return []
        with self._connection() as connection:
            return connection.execute(statement, values).fetchall()

    def names(self) -> list[str]:
        """The names of all tables."""
        return [
            name for (name,) in self._rows("SELECT DISTINCT name FROM tables ORDER BY name", ())
        ]

    def current(self, name: str) -> TableVersion | None:
        """The newest version of the table, if there is one."""
        rows = self._rows(
            """
            SELECT version, fingerprint, keys
            FROM tables
            WHERE name = ?
            ORDER BY version DESC
            LIMIT 1
            """,
            (name,),
        )
        return (
            TableVersion(name, rows[0][0], rows[0][1], _key_columns(rows[0][2])) if rows else None
        )

    def of_fingerprint(self, name: str, fingerprint: str) -> TableVersion | None:
        """The newest version of the table that the definition computed, if there is one."""
        rows = self._rows(
            """
            SELECT version, keys
            FROM tables
            WHERE name = ? AND fingerprint = ?
            ORDER BY version DESC
            LIMIT 1
            """,
            (name, fingerprint),
        )
        return (
            TableVersion(name, rows[0][0], fingerprint, _key_columns(rows[0][1])) if rows else None
        )

    def at_version(self, name: str, version: int) -> TableVersion | None:
        """A given version of the table, if it exists."""
        rows = self._rows(
            "SELECT fingerprint, keys FROM tables WHERE name = ? AND version = ?", (name, version)
        )
        return TableVersion(name, version, rows[0][0], _key_columns(rows[0][1])) if rows else None

    def next_version(self, name: str, fingerprint: str, keys: tuple[str, ...]) -> TableVersion:
        """The version after the newest one; the first commit to it adds it to the manifest."""
        newest = self.current(name)
        return TableVersion(name, newest.version + 1 if newest else 1, fingerprint, keys)

    def head(self, table: TableVersion) -> int:
        """The number of the newest commit; 0 before the first."""
        rows = self._rows(
            "SELECT max(number) FROM commits WHERE name = ? AND version = ?",
            (table.name, table.version),
        )
        return (rows[0][0] or 0) if rows else 0

    def built_until(self, table: TableVersion) -> datetime | None:
        """The time by which all rows that take effect are in the table; None before a build."""
        rows = self._rows(
            """
            SELECT built_until
            FROM commits
            WHERE name = ? AND version = ?
            ORDER BY number DESC
            LIMIT 1
            """,
            (table.name, table.version),
        )
        return from_micros(rows[0][0]) if rows and rows[0][0] is not None else None

    def files(self, table: TableVersion, commit: int | None = None) -> list[DataFile]:
        """The files of the table at a commit (the newest by default), in order of creation."""
        condition, values = (
            ("removed IS NULL", ())
            if commit is None
            else ("added <= ? AND (removed IS NULL OR removed > ?)", (commit, commit))
        )
        rows = self._rows(
            f"""
            SELECT {", ".join(_FILE_COLUMNS)}
            FROM files
            WHERE name = ? AND version = ? AND {condition}
            ORDER BY min_created, min_event, path
            """,
            (table.name, table.version, *values),
        )
        return [DataFile(*row) for row in rows]

    def commit(
        self,
        table: TableVersion,
        added: Sequence[DataFile],
        built_until: datetime | None,
        removed: Sequence[DataFile] = (),
    ) -> int:
        """Add files to the table, remove those that they replace, and advance `built_until`.

        An earlier `built_until` than the table's has no effect. Returns the number of the commit;
        the first is 1.
        """
        with self._connection(write=True) as connection:
            key = (table.name, table.version)
            connection.execute(
                "INSERT OR IGNORE INTO tables VALUES (?, ?, ?, ?)",
                (*key, table.fingerprint, "\n".join(table.keys)),
            )
            (last, until) = connection.execute(
                """
                SELECT number, built_until
                FROM commits
                WHERE name = ? AND version = ?
                ORDER BY number DESC
                LIMIT 1
                """,
                key,
            ).fetchone() or (0, None)
            if built_until is not None:
                until = max(micros(built_until), until if until is not None else -(2**63))
            connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?)", (*key, last + 1, until))
            columns = ("name", "version", "added", *_FILE_COLUMNS)
            connection.executemany(
                f"INSERT INTO files ({', '.join(columns)})"
                f" VALUES ({', '.join('?' * len(columns))})",
                [(*key, last + 1, *astuple(file)) for file in added],
            )
            connection.executemany(
                "UPDATE files SET removed = ? WHERE name = ? AND version = ? AND path = ?",
                [(last + 1, *key, file.path) for file in removed],
            )
            return int(last) + 1


def _key_columns(keys: str) -> tuple[str, ...]:
    return tuple(keys.split("\n")) if keys else ()
