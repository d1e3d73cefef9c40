"""The manifest: which files make up a table at a commit, and how far each table is built and materialized.

One SQLite file for all tables of a data folder, so that a commit, its files and its watermark move together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path

from punctual.errors import DataFolderError, StoreOutdated
from punctual.times import from_micros, micros
from stores.tables.sqlite_file import make_database, sqlite_uri

MANIFEST_FILE = "manifest.db"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tables (
    name TEXT NOT NULL, version INTEGER NOT NULL, fingerprint TEXT NOT NULL, keys TEXT NOT NULL,
    PRIMARY KEY (name, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    name TEXT NOT NULL, version INTEGER NOT NULL, number INTEGER NOT NULL, built_until INTEGER NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (name, version, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    name TEXT NOT NULL, version INTEGER NOT NULL, path TEXT NOT NULL, added INTEGER NOT NULL, removed INTEGER,
    rows INTEGER NOT NULL, min_event INTEGER NOT NULL, max_event INTEGER NOT NULL,
    min_created INTEGER NOT NULL, max_created INTEGER NOT NULL, min_lag INTEGER NOT NULL, max_lag INTEGER NOT NULL,
    in_order INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (name, version, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    name TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL, moment INTEGER NOT NULL,
    PRIMARY KEY (name, version, kind)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Stretch:
    """What is known of some rows without reading them; times are microseconds since 1970 in UTC, both ends inclusive.

    The lag of a row is `created_timestamp - event_timestamp` in microseconds. `in_order` says that the rows, one after the
    other and after all earlier ones of their table, were created in the order of their events.
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
        """Whether all rows became known equally long after their event, so that none overtook another and no two tie."""
        return self.min_lag == self.max_lag

    @classmethod
    def over(cls, parts: Sequence[Stretch]) -> Stretch:
        """What is known of all the parts together; at least one."""
        return Stretch(
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
class DataFile(Stretch):
    """One immutable Parquet file of a table: its rows, its path below the tables' folder, its size."""

    path: str
    bytes: int


_FILE_COLUMNS = [field.name for field in fields(DataFile)]


@dataclass(frozen=True)
class TableVersion:
    """A table as one definition of it makes it."""

    name: str
    version: int
    fingerprint: str
    keys: tuple[str, ...]


class Manifest:
    """Reads and writes the manifest of a `tables` folder; each call is a transaction, safe among processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / MANIFEST_FILE

    @contextmanager
    def _connection(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if write:
                make_database(self.path, _SCHEMA.split(";"))
            connection = sqlite3.connect(
                sqlite_uri(self.path), uri=True, timeout=60, isolation_level=None
            )
        except OSError as error:
            raise DataFolderError(
                f"cannot make {self.path}: {error.strerror}. Choose another --home or mend its rights."
            ) from error
        except sqlite3.OperationalError as error:
            raise DataFolderError(
                f"cannot open {self.path}: {error}. Choose another --home or mend its rights."
            ) from error
        try:
            if write:
                connection.execute("BEGIN IMMEDIATE")
            yield connection
            if write:
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "no such column" in str(error):
                raise StoreOutdated(
                    f"the tables in {self.root} were written by an earlier version of Punctual; remove the data folder and build it again."
                ) from error
            if "readonly" in str(error) or "full" in str(error) or "unable to open" in str(error):
                raise DataFolderError(
                    f"cannot write {self.path}: {error}. Free space or choose another --home."
                ) from error
            raise
        finally:
            connection.close()

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple]:
        if not self.path.exists():
            return []
        with self._connection() as connection:
            return connection.execute(statement, values).fetchall()

    def names(self) -> list[str]:
        """All tables that have a version."""
        return [
            name for (name,) in self._rows("SELECT DISTINCT name FROM tables ORDER BY name", ())
        ]

    def current(self, name: str) -> TableVersion | None:
        """The newest version of the table, if there is any."""
        rows = self._rows(
            "SELECT version, fingerprint, keys FROM tables WHERE name = ? ORDER BY version DESC LIMIT 1",
            (name,),
        )
        return TableVersion(name, rows[0][0], rows[0][1], _split(rows[0][2])) if rows else None

    def at_version(self, name: str, version: int) -> TableVersion | None:
        """A given version of the table, if it exists."""
        rows = self._rows(
            "SELECT fingerprint, keys FROM tables WHERE name = ? AND version = ?", (name, version)
        )
        return TableVersion(name, version, rows[0][0], _split(rows[0][1])) if rows else None

    def next_version(self, name: str, fingerprint: str, keys: tuple[str, ...]) -> TableVersion:
        """What the next version would be; it comes into being with its first commit."""
        now = self.current(name)
        return TableVersion(name, now.version + 1 if now else 1, fingerprint, keys)

    def head(self, table: TableVersion) -> int:
        """The newest commit's number; 0 before the first."""
        rows = self._rows(
            "SELECT max(number) FROM commits WHERE name = ? AND version = ?",
            (table.name, table.version),
        )
        return (rows[0][0] or 0) if rows else 0

    def files(self, table: TableVersion, commit: int | None = None) -> list[DataFile]:
        """The files of the table at a commit (the newest by default), in order of arrival."""
        at = self.head(table) if commit is None else commit
        rows = self._rows(
            f"SELECT {', '.join(_FILE_COLUMNS)} FROM files"
            " WHERE name = ? AND version = ? AND added <= ? AND (removed IS NULL OR removed > ?) ORDER BY min_created, path",
            (table.name, table.version, at, at),
        )
        return [DataFile(*row) for row in rows]

    def commit(
        self,
        table: TableVersion,
        added: list[DataFile],
        built_until: datetime | None,
        removed: list[DataFile] | None = None,
    ) -> int:
        """Add files to the table, take away those they replace, and move its built watermark; returns the commit's number."""
        with self._connection(write=True) as connection:
            key = (table.name, table.version)
            connection.execute(
                "INSERT OR IGNORE INTO tables VALUES (?, ?, ?, ?)",
                (*key, table.fingerprint, "\n".join(table.keys)),
            )
            (last, until) = connection.execute(
                "SELECT coalesce(max(number), 0), coalesce(max(built_until), 0) FROM commits WHERE name = ? AND version = ?",
                key,
            ).fetchone()
            until = until if built_until is None else max(until, micros(built_until))
            connection.execute(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?)",
                (*key, last + 1, until, sum(file.rows for file in added)),
            )
            columns = ("name", "version", "added", *_FILE_COLUMNS)
            connection.executemany(
                f"INSERT INTO files ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [(*key, last + 1, *astuple(file)) for file in added],
            )
            connection.executemany(
                "UPDATE files SET removed = ? WHERE name = ? AND version = ? AND path = ?",
                [(last + 1, *key, file.path) for file in removed or []],
            )
            self._move(connection, table, "built", until)
            return last + 1

    def watermark(self, table: TableVersion, kind: str) -> datetime | None:
        """How far the table is built or materialized; None before the first time."""
        rows = self._rows(
            "SELECT moment FROM watermarks WHERE name = ? AND version = ? AND kind = ?",
            (table.name, table.version, kind),
        )
        return from_micros(rows[0][0]) if rows and rows[0][0] else None

    def move_watermark(self, table: TableVersion, kind: str, moment: datetime) -> None:
        """Advance a watermark; it never goes back."""
        with self._connection(write=True) as connection:
            self._move(connection, table, kind, micros(moment))

    def _move(
        self, connection: sqlite3.Connection, table: TableVersion, kind: str, moment: int
    ) -> None:
        connection.execute(
            "INSERT INTO watermarks VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET moment = max(moment, excluded.moment)",
            (table.name, table.version, kind, moment),
        )

    def reset_watermark(self, table: TableVersion, kind: str) -> None:
        """Forget a watermark, so that its work starts from the beginning."""
        with self._connection(write=True) as connection:
            connection.execute(
                "DELETE FROM watermarks WHERE name = ? AND version = ? AND kind = ?",
                (table.name, table.version, kind),
            )


def _split(keys: str) -> tuple[str, ...]:
    return tuple(keys.split("\n")) if keys else ()
