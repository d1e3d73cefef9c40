"""Packed records on SQLite: one file, many readers, one writer at a time, in any number of threads
and processes.
"""

from __future__ import annotations

import fcntl
import glob
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stores.online.backend import Found, Group, Mark, OnlineStoreUnavailable, PlaceGone
from stores.online.backends.sqlite_file import PATIENCE_SECONDS, OnlineFile, is_older
from stores.online.backends.sqlite_places import (
    INTEGER,
    drop_places,
    keys_of,
    make_place,
    new_place_of,
    other_schemas,
    places_of,
    statement_for_one,
    statement_of,
)
from stores.online.records import not_online, removed_meanwhile
from stores.online.view import OnlineView
from stores.tables import archive_database, archived_databases, quoted

# SQLite joins 64 tables at most, and takes longer to compile a statement than to run it: few
# shapes, each compiled once.
_VIEWS_AT_ONCE = 48
_KEYS_AT_ONCE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class SqliteRecords(OnlineFile):
    """See the module. Each thread has a connection of its own."""

    # Reading.

    def look(self, groups: Sequence[Group]) -> list[Found]:
        """See `Records`; all groups are seen as of one moment."""
        connection = self._connect(make=False)
        if connection is None:
            raise not_online(next(view for _, views in groups for view in views))
        try:
            try:
                places = self._places(connection, groups)
                if all(len(keys) == 1 for keys, _ in groups):
                    return self._look_at_one(connection, groups, places)
                if (
                    len(groups) == 1
                    and len(groups[0][0]) <= _KEYS_AT_ONCE[-1]
                    and len(groups[0][1]) <= _VIEWS_AT_ONCE
                ):
                    ((keys, views),) = (
                        groups  # one statement, which sees one moment without a transaction
                    )
                    return [
                        self._look_at_many(
                            connection, keys, [places[view.schema] for view in views]
                        )
                    ]
                return self._look_at_all(connection, groups, places)
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
            # Somebody swapped a view's place since we looked it up. Looked up in one transaction
            # with what is in it, it is there.
            self._local.places = {}
            return self._look_at_all(connection, groups)
        except sqlite3.DatabaseError as error:
            raise self._refusal("read", error) from error

    def _look_at_all(
        self,
        connection: sqlite3.Connection,
        groups: Sequence[Group],
        places: dict[str, str] | None = None,
    ) -> list[Found]:
        connection.execute("BEGIN")
        try:
            known = self._places(connection, groups) if places is None else places
            return [
                self._look_at_many(connection, keys, [known[view.schema] for view in views])
                for keys, views in groups
            ]
        finally:
            connection.execute("COMMIT") if connection.in_transaction else None

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
    def _look_at_one(
        connection: sqlite3.Connection, groups: Sequence[Group], places: dict[str, str]
    ) -> list[Found]:
        """One entity per group, as for a request of one row: one statement for all views."""
        named = tuple(tuple(places[view.schema] for view in views) for _, views in groups)
        keys = [keys_of(each[0], keys)[0] for each, (keys, _) in zip(named, groups, strict=True)]
        (row,) = connection.execute(statement_for_one(named), keys).fetchall()
        found: list[Found] = []
        start = 0
        for _, views in groups:
            found.append([row[start : start + len(views)]])
            start += len(views)
        return found

    @staticmethod
    def _look_at_many(
        connection: sqlite3.Connection, keys: Sequence[bytes | None], places: Sequence[str]
    ) -> Found:
        parts = [
            places[start : start + _VIEWS_AT_ONCE]
            for start in range(0, len(places), _VIEWS_AT_ONCE)
        ]
        if len(parts) > 1:
            found = [SqliteRecords._look_at_many(connection, keys, part) for part in parts]
            return [sum(rows, ()) for rows in zip(*found, strict=True)]
        result: list[tuple[bytes | None, ...]] = [()] * len(keys)
        named = keys_of(places[0], keys)
        for start in range(0, len(named), _KEYS_AT_ONCE[-1]):
            chunk = named[start : start + _KEYS_AT_ONCE[-1]]
            size = next(size for size in _KEYS_AT_ONCE if size >= len(chunk))
            statement = statement_of(tuple(places), size)
            for number, *records in connection.execute(
                statement, chunk + [None] * (size - len(chunk))
            ):
                if number < len(chunk):
                    result[start + number] = tuple(records)
        return result

    def get(self, place: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Records`."""
        with self._refusing("read"):
            return [record for (record,) in self._look_at_many(self._existing(), keys, [place])]

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a SELECT; none where there is no file."""
        connection = self._connect(make=False)
        if connection is None:
            return []
        with self._refusing("read"):
            return connection.execute(statement, values).fetchall()

    # Writing.

    def put(
        self,
        place: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """See `Records`; all of it in one transaction. Quickest where keys come in their order."""
        named = keys_of(place, keys)
        insert = f"INSERT OR IGNORE INTO {quoted(place)} VALUES (?, ?)"
        with self._writing() as connection:
            there = connection.total_changes
            if before is None:
                connection.executemany(insert, zip(named, after, strict=True))
            else:
                offered = list(zip(named, before, after, strict=True))
                connection.executemany(
                    insert, sorted((key, new) for key, old, new in offered if old is None)
                )
                changed = sorted((key, old, new) for key, old, new in offered if old is not None)
                connection.executemany(
                    f"UPDATE {quoted(place)} SET record = ?3 WHERE key = ?1 AND record = ?2",
                    changed,
                )
            if connection.total_changes - there == len(keys):
                return []
            now = self._look_at_many(connection, keys, [place])
            return [
                number
                for number, ((record,), wanted) in enumerate(zip(now, after, strict=True))
                if record != wanted
            ]

    def place(self, view: OnlineView) -> str | None:
        """See `Records`."""
        found = self._ask("SELECT place FROM places WHERE schema = ?", view.schema)
        return str(found[0][0]) if found else None

    def places(self, view: OnlineView) -> list[str]:
        """See `Records`."""
        statement = "SELECT place, beside FROM places WHERE schema = ?"
        found = self._ask(statement, view.schema)
        begun = self._begun.get(view.schema)
        if begun and (not found or found[0][0] != begun):
            raise removed_meanwhile(view, self.where)
        if not found:
            with self._writing() as connection:
                found = connection.execute(statement, (view.schema,)).fetchall()
                if not found:
                    found = [(new_place_of(view), None)]
                    row = (view.schema, view.project, view.name, found[0][0])
                    connection.execute(
                        "INSERT INTO places VALUES (?, ?, ?, ?, NULL, NULL, NULL)", row
                    )
                    make_place(connection, found[0][0])
        return [place for place in found[0] if place]

    def beside(self, view: OnlineView) -> str:
        """See `Records`."""
        place = new_place_of(view)
        with self._writing() as connection:
            self._drop_beside(connection, view.schema)
            make_place(connection, place)
            connection.execute(
                "UPDATE places SET beside = ? WHERE schema = ?", (place, view.schema)
            )
        return place

    @staticmethod
    def _drop_beside(connection: sqlite3.Connection, schema: str) -> None:
        """Remove all places of a schema but its own."""
        own = [
            row[0]
            for row in connection.execute("SELECT place FROM places WHERE schema = ?", (schema,))
        ]
        for place in places_of(connection, schema):
            if place not in own:
                connection.execute(f"DROP TABLE {quoted(place)}")
        connection.execute("UPDATE places SET beside = NULL WHERE schema = ?", (schema,))

    def swap(self, view: OnlineView, place: str, mark: Mark) -> None:
        """See `Records`; readers see the one or the other, whole."""
        with self._writing() as connection:
            if place not in places_of(connection, view.schema):
                raise removed_meanwhile(view, self.where)
            connection.execute(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, NULL, ?, ?)",
                (view.schema, view.project, view.name, place, mark.version, mark.until),
            )
            self._drop_beside(connection, view.schema)
        if view.schema in self._begun:
            self._begun[view.schema] = place

    def began(self, view: OnlineView, version: int) -> int:
        """See `Records`."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE places SET version = ? WHERE schema = ? AND version IS NULL",
                (version, view.schema),
            )
            found = connection.execute(
                "SELECT version FROM places WHERE schema = ?", (view.schema,)
            ).fetchone()
        return int(found[0]) if found else version

    def mark(self, view: OnlineView) -> Mark | None:
        """See `Records`."""
        found = self._ask(
            "SELECT version, until FROM places WHERE schema = ? AND until IS NOT NULL", view.schema
        )
        return Mark(*found[0]) if found else None

    def move_mark(self, view: OnlineView, mark: Mark) -> None:
        """See `Records`."""
        with self._writing() as connection:
            found = connection.execute(
                "SELECT place FROM places WHERE schema = ?", (view.schema,)
            ).fetchone()
            if not found or self._begun.get(view.schema, found[0]) != found[0]:
                raise removed_meanwhile(view, self.where)
            reached = "CASE WHEN version = ?1 THEN max(ifnull(until, ?2), ?2) ELSE ?2 END"
            values = (mark.version, mark.until, view.schema)
            connection.execute(
                f"UPDATE places SET version = ?1, until = {reached} WHERE schema = ?3", values
            )

    @property
    def _begun(self) -> dict[str, str]:
        """The views that this thread is alone with: their places when it began."""
        begun: dict[str, str] = self._local.__dict__.setdefault("begun", {})
        return begun

    @contextmanager
    def _locked(self, schema: str) -> Iterator[None]:
        """A process that dies lets go."""
        with self._refusing("write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f".{self.path.name}.{schema}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def alone(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; a file of an older format is moved aside."""
        with self._locked(view.schema):
            with self._refusing("move aside"):
                archive_database(self.path, is_older)
            (place, *beside) = self.places(view)
            if beside:
                with self._writing() as connection:
                    self._drop_beside(connection, view.schema)
            self._begun[view.schema] = place
            try:
                yield
            finally:
                del self._begun[view.schema]

    # What is there, and its end.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        for name, schema in self._ask("SELECT name, schema FROM places WHERE project = ?", project):
            found.setdefault(name, []).append(schema)
        return found

    def drop(self, schema: str) -> None:
        """See `Records`."""
        with self._writing() as connection:
            drop_places(connection, schema)

    def count(self, view: OnlineView) -> int:
        """See `Records`."""
        place = self.place(view)
        try:
            return int(self._ask(f"SELECT count(*) FROM {quoted(place)}")[0][0]) if place else 0
        except PlaceGone:  # swapped since
            return self.count(view)

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`."""
        if not self.path.exists():
            return 0
        with self._locked(view.schema), self._writing() as connection:
            self._drop_beside(connection, view.schema)
            removed = self._delete(connection, view.schema, keys)
            for schema in other_schemas(connection, view):
                self._delete(connection, schema, keys)
        return removed

    @staticmethod
    def _delete(connection: sqlite3.Connection, schema: str, keys: Sequence[bytes]) -> int:
        removed = 0
        for place in places_of(connection, schema):
            # An earlier definition may have had other keys.
            fitting = [key for key in keys if len(key) == 8] if place.endswith(INTEGER) else keys
            delete = f"DELETE FROM {quoted(place)} WHERE key = ?"
            removed += (
                connection.executemany(delete, [(key,) for key in keys_of(place, fitting)]).rowcount
                if fitting
                else 0
            )
        return removed

    def scrub(self) -> None:
        """See `Records`; writes the whole file anew, and empties its journal as soon as the readers
        of before are done.
        """
        for aside in archived_databases(self.path):
            aside.unlink(missing_ok=True)
        connection = self._connect(make=False)
        if connection is None:
            return
        with self._refusing("scrub"):
            # Else a page made of memory that held something else would keep what it does not use of
            # it.
            connection.execute("PRAGMA secure_delete = ON")
            try:
                connection.execute("VACUUM")
            finally:
                connection.execute("PRAGMA secure_delete = OFF")
            until = time.monotonic() + PATIENCE_SECONDS
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > until:
                    raise OnlineStoreUnavailable(
                        f"the journal of {self.path} still holds what was erased: a reader has"
                        f" been busy for {PATIENCE_SECONDS:.0f} s. "
                        "Stop it and erase again."
                    )
                time.sleep(0.01)

    def teardown(self, project: str) -> None:
        """See `Records`; the file goes with its last project."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        if self.path.exists() and not self._ask("SELECT 1 FROM places"):
            self.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            for lock in self.path.parent.glob(f".{glob.escape(self.path.name)}.*lock"):
                lock.unlink(missing_ok=True)
