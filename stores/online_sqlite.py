"""Packed records on SQLite: one file, many readers, one writer at a time, in any number of threads and processes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from feature_repo.errors import DataFolderError, StoreOutdated
from stores.database import address_of, make_database
from stores.layout import FORMAT
from stores.packed import Found, Group, Mark, OnlineView, not_online
from stores.table import quoted

_SCHEMA = f"""
CREATE TABLE places (
    schema TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, place TEXT NOT NULL, version INTEGER, until INTEGER
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT}
"""
# Where the key is one integer, it is the row's number: no index beside the rows, and pages that are filled to the end.
_PLACES = {
    True: "CREATE TABLE {} (key INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    False: "CREATE TABLE {} (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
}
_INTEGER = ".n"  # how the names of such places end
# SQLite joins 64 tables at most, and takes longer to compile a statement than to run it: few shapes, each compiled once.
_VIEWS_AT_ONCE = 48
_KEYS_AT_ONCE = (1, 4, 16, 64, 256)
_PATIENCE_SECONDS = 60.0
_SIGN = 1 << 63
_unpack = struct.Struct(">Q").unpack


class SqliteRecords:
    """See the module. Each thread has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self._local = threading.local()

    # Connections.

    def _connect(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None and self._local.file == _file(self.path):
            return existing
        # None yet, or one to a file that somebody removed or replaced and that nobody else sees any more.
        self.close()
        try:
            make_database(self.path, _SCHEMA.strip().split(";"), page_size=8192)
            connection = sqlite3.connect(
                address_of(self.path), uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None, cached_statements=512
            )
            # A mark that outlived a power failure must not speak for rows that did not; and pages are read where they lie.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA mmap_size = {1 << 32}")
            connection.execute(f"PRAGMA journal_size_limit = {1 << 24}")
            (found,) = connection.execute("PRAGMA user_version").fetchone()
        except (OSError, sqlite3.OperationalError) as error:
            raise DataFolderError(f"cannot open the online store {self.path}: {error}. Free space or mend its rights.") from error
        except sqlite3.DatabaseError as error:
            raise DataFolderError(f"{self.path} is no online store: {error}. Move it away; materialization makes a new one.") from error
        if found != FORMAT:
            connection.close()
            raise StoreOutdated(
                f"the online store {self.path} is of format {found}, this version of Punctual reads and writes {FORMAT}; "
                "move the file away and run: punctual features materialize."
            )
        self._local.connection, self._local.file, self._local.places = connection, _file(self.path), {}
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            existing.close()
            self._local.connection = None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            connection.execute("ROLLBACK") if connection.in_transaction else None
            if "no such table" in str(error):
                raise
            raise DataFolderError(f"cannot write the online store {self.path}: {error}. Free space or mend its rights.") from error
        except BaseException:
            connection.execute("ROLLBACK") if connection.in_transaction else None
            raise

    # Reading.

    def look(self, groups: Sequence[Group]) -> list[Found]:
        """See `Records`; all groups are seen as of one moment."""
        connection = self._connect()
        for _ in range(2):
            places = self._places(connection, groups)
            try:
                if all(len(keys) == 1 for keys, _ in groups):
                    return self._look_at_one(connection, groups, places)
                connection.execute("BEGIN")
                try:
                    return [self._look_at_many(connection, keys, [places[view.schema] for view in views]) for keys, views in groups]
                finally:
                    connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                # Somebody swapped a view's place since we looked it up.
                if "no such table" not in str(error):
                    raise DataFolderError(f"cannot read the online store {self.path}: {error}.") from error
                self._local.places = {}
            except sqlite3.DatabaseError as error:
                raise DataFolderError(f"the online store {self.path} is damaged: {error}. Move it away and materialize again.") from error
        raise DataFolderError(f"the online store {self.path} names places that are not there. Move it away and materialize again.")

    def _places(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> dict[str, str]:
        known: dict[str, str] = self._local.places
        missing = [view for _, views in groups for view in views if view.schema not in known]
        if missing:
            known.update(connection.execute("SELECT schema, place FROM places").fetchall())
            for view in missing:
                if view.schema not in known:
                    raise not_online(view)
        return known

    @staticmethod
    def _look_at_one(connection: sqlite3.Connection, groups: Sequence[Group], places: dict[str, str]) -> list[Found]:
        """One entity per group, as for a request of one row: one statement for all views."""
        named = tuple(tuple(places[view.schema] for view in views) for _, views in groups)
        keys = [_keys_of(each[0], keys)[0] for each, (keys, _) in zip(named, groups, strict=True)]
        (row,) = connection.execute(_statement_for_one(named), keys).fetchall()
        found: list[Found] = []
        start = 0
        for _, views in groups:
            found.append([row[start : start + len(views)]])
            start += len(views)
        return found

    @staticmethod
    def _look_at_many(connection: sqlite3.Connection, keys: Sequence[bytes | None], places: Sequence[str]) -> Found:
        parts = [places[start : start + _VIEWS_AT_ONCE] for start in range(0, len(places), _VIEWS_AT_ONCE)]
        if len(parts) > 1:
            found = [SqliteRecords._look_at_many(connection, keys, part) for part in parts]
            return [sum(rows, ()) for rows in zip(*found, strict=True)]
        result: list[tuple[bytes | None, ...]] = [()] * len(keys)
        named = _keys_of(places[0], keys)
        for start in range(0, len(named), _KEYS_AT_ONCE[-1]):
            chunk = named[start : start + _KEYS_AT_ONCE[-1]]
            size = next(size for size in _KEYS_AT_ONCE if size >= len(chunk))
            statement = _statement(tuple(places), size)
            for number, *records in connection.execute(statement, chunk + [None] * (size - len(chunk))):
                if number < len(chunk):
                    result[start + number] = tuple(records)
        return result

    def get(self, place: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Records`."""
        return [record for (record,) in self._look_at_many(self._connect(), keys, [place])]

    # Writing.

    def put(self, place: str, keys: Sequence[bytes], before: Sequence[bytes | None] | None, after: Sequence[bytes]) -> list[int]:
        """See `Records`; all of it in one transaction. Quickest where keys come in their order."""
        named = _keys_of(place, keys)
        insert = f"INSERT OR IGNORE INTO {quoted(place)} VALUES (?, ?)"
        with self._writing() as connection:
            there = connection.total_changes
            if before is None:
                connection.executemany(insert, zip(named, after, strict=True))
            else:
                offered = list(zip(named, before, after, strict=True))
                connection.executemany(insert, sorted((key, new) for key, old, new in offered if old is None))
                changed = sorted((key, old, new) for key, old, new in offered if old is not None)
                connection.executemany(f"UPDATE {quoted(place)} SET record = ?3 WHERE key = ?1 AND record = ?2", changed)
            if connection.total_changes - there == len(keys):
                return []
            now = self._look_at_many(connection, keys, [place])
            return [number for number, ((record,), wanted) in enumerate(zip(now, after, strict=True)) if record != wanted]

    def place(self, view: OnlineView, *, make: bool = False) -> str | None:
        """See `Records`."""
        if not make and not self.path.exists():
            return None
        connection = self._connect()
        found = connection.execute("SELECT place FROM places WHERE schema = ?", (view.schema,)).fetchone()
        if found or not make:
            return str(found[0]) if found else None
        with self._writing() as connection:
            place = _new_place(view)
            there = connection.execute(
                "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?, NULL, NULL)", (view.schema, view.project, view.name, place)
            )
            if there.rowcount:
                _make_place(connection, place)
        return self.place(view)

    def beside(self, view: OnlineView) -> str:
        """See `Records`; what a rebuild that was killed left beside goes first."""
        place = _new_place(view)
        with self._writing() as connection:
            own = [row[0] for row in connection.execute("SELECT place FROM places WHERE schema = ?", (view.schema,))]
            for (left,) in connection.execute("SELECT name FROM sqlite_master WHERE name GLOB ?", (f"*.{view.schema}.*",)).fetchall():
                if left not in own:
                    connection.execute(f"DROP TABLE {quoted(left)}")
            _make_place(connection, place)
        return place

    def swap(self, view: OnlineView, place: str, mark: Mark) -> None:
        """See `Records`; readers see the one or the other, whole."""
        with self._writing() as connection:
            old = connection.execute("SELECT place FROM places WHERE schema = ?", (view.schema,)).fetchone()
            connection.execute(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, ?, ?)",
                (view.schema, view.project, view.name, place, mark.version, mark.until),
            )
            if old:
                connection.execute(f"DROP TABLE {quoted(old[0])}")
            self._drop_other_schemas(connection, view)

    @staticmethod
    def _drop_other_schemas(connection: sqlite3.Connection, view: OnlineView) -> None:
        """Once a view is online as it is defined now, nobody reads what earlier definitions left."""
        others = connection.execute(
            "SELECT schema, place FROM places WHERE project = ? AND name = ? AND schema <> ?", (view.project, view.name, view.schema)
        ).fetchall()
        for schema, place in others:
            connection.execute("DELETE FROM places WHERE schema = ?", (schema,))
            connection.execute(f"DROP TABLE {quoted(place)}")

    def mark(self, view: OnlineView) -> Mark | None:
        """See `Records`."""
        if not self.path.exists():
            return None
        statement = "SELECT version, until FROM places WHERE schema = ? AND until IS NOT NULL"
        found = self._connect().execute(statement, (view.schema,)).fetchone()
        return Mark(*found) if found else None

    def move_mark(self, view: OnlineView, mark: Mark) -> None:
        """See `Records`."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE places SET version = ?1, until = CASE WHEN version = ?1 THEN max(until, ?2) ELSE ?2 END WHERE schema = ?3",
                (mark.version, mark.until, view.schema),
            )

    @contextmanager
    def alone(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; a process that dies lets go."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.{view.schema}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # What is there, and its end.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        if self.path.exists():
            for name, schema in self._connect().execute("SELECT name, schema FROM places WHERE project = ?", (project,)):
                found.setdefault(name, []).append(schema)
        return found

    def drop(self, schema: str) -> None:
        """See `Records`."""
        with self._writing() as connection:
            for (place,) in connection.execute("SELECT place FROM places WHERE schema = ?", (schema,)).fetchall():
                connection.execute(f"DROP TABLE IF EXISTS {quoted(place)}")
            connection.execute("DELETE FROM places WHERE schema = ?", (schema,))

    def count(self, view: OnlineView) -> int:
        """See `Records`."""
        place = self.place(view)
        return int(self._connect().execute(f"SELECT count(*) FROM {quoted(place)}").fetchone()[0]) if place else 0

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`."""
        place = self.place(view)
        if place is None:
            return 0
        with self._writing() as connection:
            return connection.executemany(f"DELETE FROM {quoted(place)} WHERE key = ?", [(key,) for key in _keys_of(place, keys)]).rowcount

    def scrub(self) -> None:
        """See `Records`; writes the whole file anew, and empties its journal as soon as the readers of before are done."""
        connection = self._connect()
        try:
            connection.execute("VACUUM")
            until = time.monotonic() + _PATIENCE_SECONDS
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > until:
                    raise DataFolderError(
                        f"the journal of {self.path} still holds what was erased: a reader has been busy for {_PATIENCE_SECONDS:.0f} s. "
                        "Stop it and erase again."
                    )
                time.sleep(0.01)
        except sqlite3.OperationalError as error:
            raise DataFolderError(f"cannot scrub the online store {self.path}: {error}. Free space and erase again.") from error

    def teardown(self, project: str) -> None:
        """See `Records`; the file goes with its last project."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        if self.path.exists() and not self._connect().execute("SELECT 1 FROM places").fetchone():
            self.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


@cache
def _statement(places: tuple[str, ...], size: int) -> str:
    """A SELECT of the record per key and place, for so many keys; sqlite3 keeps it compiled."""
    keys = ", ".join(f"({number}, ?)" for number in range(size))
    records = ", ".join(f"p{number}.record" for number in range(len(places)))
    joins = " ".join(f"LEFT JOIN {quoted(place)} AS p{number} ON p{number}.key = wanted.key" for number, place in enumerate(places))
    return f"WITH wanted(number, key) AS (VALUES {keys}) SELECT number, {records} FROM wanted {joins}"


@cache
def _statement_for_one(groups: tuple[tuple[str, ...], ...]) -> str:
    """A SELECT of one row: a record per place of each group, whose one key is the group's parameter."""
    records = [f"(SELECT record FROM {quoted(place)} WHERE key = ?{number})" for number, places in enumerate(groups, 1) for place in places]
    return f"SELECT {', '.join(records)}"


def _keys_of(place: str, keys: Sequence[bytes | None]) -> list[Any]:
    """The keys as the place has them."""
    if not place.endswith(_INTEGER):
        return list(keys)
    return [None if key is None else _unpack(key)[0] - _SIGN for key in keys]


def _new_place(view: OnlineView) -> str:
    return f"{view.name}.{view.schema}.{uuid.uuid4().hex[:8]}{_INTEGER if view.entity_keys.is_integer else ''}"


def _make_place(connection: sqlite3.Connection, place: str) -> None:
    connection.execute(_PLACES[place.endswith(_INTEGER)].format(quoted(place)))


def _file(path: Path) -> tuple[int, int] | None:
    """Which file is at the path now."""
    try:
        found = os.stat(path)  # noqa: PTH116  twice as fast, at every read
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
