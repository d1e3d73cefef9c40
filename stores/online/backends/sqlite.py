"""Packed records in one SQLite file, for many readers and one writer at a time.

Readers and writers may be in any number of threads and processes of one machine.
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

from stores.online.backend import (
    GenerationGone,
    KeyGroup,
    OnlineStoreUnavailable,
    RecordRows,
    Watermark,
)
from stores.online.backends.sqlite_file import PATIENCE_SECONDS, OnlineFile, is_older
from stores.online.backends.sqlite_tables import (
    column_keys,
    create_table,
    delete_keys,
    drop_other_tables,
    drop_tables,
    new_table_name,
    other_schemas,
    select_many,
    select_one,
    tables_of,
)
from stores.online.records import not_online, removed_meanwhile
from stores.online.view import OnlineView
from stores.tables import archive_database, archived_databases, quoted

# SQLite joins at most 64 tables. Compiling a statement takes longer than running it, so statements
# come in a few sizes, each of which is compiled once.
_VIEWS_AT_ONCE = 48
_KEYS_AT_ONCE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class SqliteRecords(OnlineFile):
    """`Records` in a SQLite file. Each thread has a connection of its own."""

    # Reading.

    def read_records(self, groups: Sequence[KeyGroup]) -> list[RecordRows]:
        """See `Records`; all groups are read from one snapshot."""
        connection = self._connect(make=False)
        if connection is None:
            raise not_online(next(view for _, views in groups for view in views))
        try:
            try:
                generations = self._generations(connection, groups)
                if all(len(keys) == 1 for keys, _ in groups):
                    return self._read_one(connection, groups, generations)
                if (
                    len(groups) == 1
                    and len(groups[0][0]) <= _KEYS_AT_ONCE[-1]
                    and len(groups[0][1]) <= _VIEWS_AT_ONCE
                ):
                    # A single statement reads one snapshot without a transaction.
                    ((keys, views),) = groups
                    return [
                        self._read_many(
                            connection, keys, [generations[view.schema] for view in views]
                        )
                    ]
                return self._read_in_transaction(connection, groups, generations)
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
            # A rebuild replaced a cached generation. Names and records that are read in one
            # transaction agree.
            self._local.generations = {}
            return self._read_in_transaction(connection, groups)
        except sqlite3.DatabaseError as error:
            raise self._refusal("read", error) from error

    def _read_in_transaction(
        self,
        connection: sqlite3.Connection,
        groups: Sequence[KeyGroup],
        generations: dict[str, str] | None = None,
    ) -> list[RecordRows]:
        connection.execute("BEGIN")
        try:
            if generations is None:
                generations = self._generations(connection, groups)
            return [
                self._read_many(connection, keys, [generations[view.schema] for view in views])
                for keys, views in groups
            ]
        finally:
            connection.execute("COMMIT") if connection.in_transaction else None

    def _generations(
        self, connection: sqlite3.Connection, groups: Sequence[KeyGroup]
    ) -> dict[str, str]:
        known: dict[str, str] = self._local.generations
        missing = [view for _, views in groups for view in views if view.schema not in known]
        if missing:
            known.update(connection.execute("SELECT schema, place FROM places").fetchall())
            for view in missing:
                if view.schema not in known:
                    raise not_online(view)
        return known

    @staticmethod
    def _read_one(
        connection: sqlite3.Connection, groups: Sequence[KeyGroup], generations: dict[str, str]
    ) -> list[RecordRows]:
        """One key per group, as in a request of one row: one statement for all views."""
        tables = tuple(tuple(generations[view.schema] for view in views) for _, views in groups)
        keys = [
            column_keys(names[0], keys)[0] for names, (keys, _) in zip(tables, groups, strict=True)
        ]
        (row,) = connection.execute(select_one(tables), keys).fetchall()
        found: list[RecordRows] = []
        start = 0
        for _, views in groups:
            found.append([row[start : start + len(views)]])
            start += len(views)
        return found

    @staticmethod
    def _read_many(
        connection: sqlite3.Connection, keys: Sequence[bytes | None], generations: Sequence[str]
    ) -> RecordRows:
        chunks = [
            generations[start : start + _VIEWS_AT_ONCE]
            for start in range(0, len(generations), _VIEWS_AT_ONCE)
        ]
        if len(chunks) > 1:
            found = [SqliteRecords._read_many(connection, keys, part) for part in chunks]
            return [sum(rows, ()) for rows in zip(*found, strict=True)]
        result: list[tuple[bytes | None, ...]] = [()] * len(keys)
        sql_keys = column_keys(generations[0], keys)
        for start in range(0, len(sql_keys), _KEYS_AT_ONCE[-1]):
            chunk = sql_keys[start : start + _KEYS_AT_ONCE[-1]]
            size = next(size for size in _KEYS_AT_ONCE if size >= len(chunk))
            statement = select_many(tuple(generations), size)
            for number, *records in connection.execute(
                statement, chunk + [None] * (size - len(chunk))
            ):
                if number < len(chunk):
                    result[start + number] = tuple(records)
        return result

    def get(self, generation: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Records`."""
        with self._refusing("read"):
            return [record for (record,) in self._read_many(self._existing(), keys, [generation])]

    def _select(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a SELECT; none if there is no file."""
        connection = self._connect(make=False)
        if connection is None:
            return []
        with self._refusing("read"):
            return connection.execute(statement, values).fetchall()

    # Writing.

    def put(
        self,
        generation: str,
        keys: Sequence[bytes],
        before: Sequence[bytes | None] | None,
        after: Sequence[bytes],
    ) -> list[int]:
        """See `Records`; one transaction, fastest if keys are sorted."""
        sql_keys = column_keys(generation, keys)
        insert = f"INSERT OR IGNORE INTO {quoted(generation)} VALUES (?, ?)"
        with self._writing() as connection:
            changes_before = connection.total_changes
            if before is None:
                connection.executemany(insert, zip(sql_keys, after, strict=True))
            else:
                offered = list(zip(sql_keys, before, after, strict=True))
                connection.executemany(
                    insert, sorted((key, new) for key, old, new in offered if old is None)
                )
                changed = sorted((key, old, new) for key, old, new in offered if old is not None)
                connection.executemany(
                    f"UPDATE {quoted(generation)} SET record = ?3 WHERE key = ?1 AND record = ?2",
                    changed,
                )
            if connection.total_changes - changes_before == len(keys):
                return []
            present = self._read_many(connection, keys, [generation])
            return [
                number
                for number, ((record,), written) in enumerate(zip(present, after, strict=True))
                if record != written
            ]

    def generation(self, view: OnlineView) -> str | None:
        """See `Records`."""
        found = self._select("SELECT place FROM places WHERE schema = ?", view.schema)
        return str(found[0][0]) if found else None

    def writable_generations(self, view: OnlineView) -> list[str]:
        """See `Records`."""
        statement = "SELECT place, beside FROM places WHERE schema = ?"
        found = self._select(statement, view.schema)
        expected = self._exclusive_generations.get(view.schema)
        if expected and (not found or found[0][0] != expected):
            raise removed_meanwhile(view, self.where)
        if not found:
            with self._writing() as connection:
                found = connection.execute(statement, (view.schema,)).fetchall()
                if not found:
                    found = [(new_table_name(view), None)]
                    row = (view.schema, view.project, view.name, found[0][0])
                    connection.execute(
                        "INSERT INTO places VALUES (?, ?, ?, ?, NULL, NULL, NULL)", row
                    )
                    create_table(connection, found[0][0])
        return [generation for generation in found[0] if generation]

    def new_generation(self, view: OnlineView) -> str:
        """See `Records`."""
        generation = new_table_name(view)
        with self._writing() as connection:
            drop_other_tables(connection, view.schema)
            create_table(connection, generation)
            connection.execute(
                "UPDATE places SET beside = ? WHERE schema = ?", (generation, view.schema)
            )
        return generation

    def swap(self, view: OnlineView, generation: str, watermark: Watermark) -> None:
        """See `Records`; readers see either the old or the new generation."""
        with self._writing() as connection:
            if generation not in tables_of(connection, view.schema):
                raise removed_meanwhile(view, self.where)
            connection.execute(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, NULL, ?, ?)",
                (
                    view.schema,
                    view.project,
                    view.name,
                    generation,
                    watermark.version,
                    watermark.until,
                ),
            )
            drop_other_tables(connection, view.schema)
        if view.schema in self._exclusive_generations:
            self._exclusive_generations[view.schema] = generation

    def first_version(self, view: OnlineView, version: int) -> int:
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

    def watermark(self, view: OnlineView) -> Watermark | None:
        """See `Records`."""
        found = self._select(
            "SELECT version, until FROM places WHERE schema = ? AND until IS NOT NULL", view.schema
        )
        return Watermark(*found[0]) if found else None

    def move_watermark(self, view: OnlineView, watermark: Watermark) -> None:
        """See `Records`."""
        with self._writing() as connection:
            found = connection.execute(
                "SELECT place FROM places WHERE schema = ?", (view.schema,)
            ).fetchone()
            if not found or self._exclusive_generations.get(view.schema, found[0]) != found[0]:
                raise removed_meanwhile(view, self.where)
            connection.execute(
                """
                UPDATE places
                SET
                    version = ?1,
                    until = CASE WHEN version = ?1 THEN max(ifnull(until, ?2), ?2) ELSE ?2 END
                WHERE schema = ?3
                """,
                (watermark.version, watermark.until, view.schema),
            )

    @property
    def _exclusive_generations(self) -> dict[str, str]:
        """By schema: the generation that was current when this thread locked the view."""
        generations: dict[str, str] = self._local.__dict__.setdefault("exclusive", {})
        return generations

    @contextmanager
    def _locked(self, schema: str) -> Iterator[None]:
        """Hold the file lock of a schema, which the system releases if the process dies."""
        with self._refusing("write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f".{self.path.name}.{schema}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def exclusive(self, view: OnlineView) -> Iterator[None]:
        """See `Records`; a file of an older format is moved aside."""
        with self._locked(view.schema):
            with self._refusing("move aside"):
                archive_database(self.path, is_older)
            (generation, *being_filled) = self.writable_generations(view)
            if being_filled:
                with self._writing() as connection:
                    drop_other_tables(connection, view.schema)
            self._exclusive_generations[view.schema] = generation
            try:
                yield
            finally:
                del self._exclusive_generations[view.schema]

    # Counting and removing.

    def views(self, project: str) -> dict[str, list[str]]:
        """See `Records`."""
        found: dict[str, list[str]] = {}
        for name, schema in self._select(
            "SELECT name, schema FROM places WHERE project = ?", project
        ):
            found.setdefault(name, []).append(schema)
        return found

    def drop(self, schema: str) -> None:
        """See `Records`."""
        with self._writing() as connection:
            drop_tables(connection, schema)

    def count(self, view: OnlineView) -> int:
        """See `Records`."""
        generation = self.generation(view)
        try:
            return (
                int(self._select(f"SELECT count(*) FROM {quoted(generation)}")[0][0])
                if generation
                else 0
            )
        except GenerationGone:  # replaced by a rebuild
            return self.count(view)

    def erase(self, view: OnlineView, keys: Sequence[bytes]) -> int:
        """See `Records`."""
        if not self.path.exists():
            return 0
        with self._locked(view.schema), self._writing() as connection:
            drop_other_tables(connection, view.schema)
            removed = delete_keys(connection, view.schema, keys)
            for schema in other_schemas(connection, view):
                delete_keys(connection, schema, keys)
        return removed

    def scrub(self) -> None:
        """See `Records`; rewrites the file, and empties its journal once earlier readers end."""
        for old_file in archived_databases(self.path):
            old_file.unlink(missing_ok=True)
        connection = self._connect(make=False)
        if connection is None:
            return
        with self._refusing("scrub"):
            # Without secure_delete, a new page may carry leftover bytes of whatever its memory held
            # before.
            connection.execute("PRAGMA secure_delete = ON")
            try:
                connection.execute("VACUUM")
            finally:
                connection.execute("PRAGMA secure_delete = OFF")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise OnlineStoreUnavailable(
                        f"the journal of {self.path} still holds erased records: a reader has"
                        f" kept it open for {PATIENCE_SECONDS:.0f} s. "
                        "Stop the reader and erase again."
                    )
                time.sleep(0.01)

    def teardown(self, project: str) -> None:
        """See `Records`; the file is removed with its last project."""
        for schemas in self.views(project).values():
            for schema in schemas:
                self.drop(schema)
        if self.path.exists() and not self._select("SELECT 1 FROM places"):
            self.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            for lock in self.path.parent.glob(f".{glob.escape(self.path.name)}.*lock"):
                lock.unlink(missing_ok=True)
