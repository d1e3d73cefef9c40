"""The packed online row: all of a view's features for one entity in one record, on SQLite.

A record holds the row that is effective and those published ahead, so that each is shown from its moment on.
Rows are `[event, created, values…]` in MessagePack: integers, doubles and nulls come back exactly as they were.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from feast import FeatureView

from feature_repo.errors import DataFolderError, NotBuilt
from feature_repo.raw import digest
from feature_repo.times import micros
from stores.database import address_of, make_database
from stores.table import quoted

FORMAT = 1
Status = Literal["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
Row = list[Any]  # [event microseconds, created microseconds, values in the order of the view's features]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True)
class OnlineView:
    """What the online store has to know of a feature view."""

    name: str
    join_keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl: int
    schema: str

    @classmethod
    def of(cls, project: str, view: FeatureView) -> OnlineView:
        """The online side of a Feast view; another schema is another table."""
        keys = tuple(sorted(column.name for column in view.entity_columns))
        features = tuple((column.name, str(column.dtype)) for column in view.features)
        fingerprint = view.tags.get("fingerprint", "")
        schema = digest(repr((FORMAT, project, view.name, keys, features, fingerprint)))
        return cls(view.name, keys, tuple(name for name, _ in features), micros(view.ttl) if view.ttl else 0, schema)

    @property
    def table(self) -> str:
        """The SQLite table's name."""
        return f"{self.name}.{self.schema}"


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """What a view shows for one entity at one moment; times in microseconds, None where there is no row."""

    status: Status
    event: int | None
    created: int | None
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Written:
    """How many records a write changed, and in how many of them the row to show had been due before it was there."""

    records: int
    missed: int


def encode_key(values: Sequence[Any]) -> bytes | None:
    """The record's key from the join keys' values in sorted order of their names; None where one is null."""
    return None if any(value is None for value in values) else _encode(values)


def effective(row: Row) -> int:
    """The moment from which a row may be shown."""
    return max(row[0], row[1])


def merged(rows: Iterable[Row], now: int) -> list[Row]:
    """The rows a record needs from `now` on: the one that is shown, and those yet to come that will be."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (effective(row), row[0], row[1])):
        if kept and (row[0], row[1]) <= (kept[-1][0], kept[-1][1]):
            continue  # something newer is effective already
        if effective(row) <= now or (kept and effective(row) == effective(kept[-1])):
            kept = [*kept[:-1], row] if kept else [row]
        else:
            kept.append(row)
    return kept


class PackedDatabase:
    """The SQLite file: many readers, one writer at a time, in any number of threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def _connect(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None and self._local.file == _file(self.path):
            return existing
        # None yet, or one to a file that somebody removed or replaced and that nobody else sees any more.
        self.close()
        try:
            identity = f"INSERT INTO identity VALUES ('{uuid.uuid4().hex[:12]}')"
            make_database(self.path, ["CREATE TABLE identity (id TEXT NOT NULL)", identity])
            connection = sqlite3.connect(address_of(self.path), uri=True, timeout=60, isolation_level=None)
            # A watermark that outlived a power failure must not speak for rows that did not.
            connection.execute("PRAGMA synchronous = FULL")
        except (OSError, sqlite3.OperationalError) as error:
            raise DataFolderError(f"cannot open the online store {self.path}: {error}. Free space or mend its rights.") from error
        self._local.connection, self._local.file = connection, _file(self.path)
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            existing.close()
            self._local.connection = None

    @property
    def identity(self) -> str:
        """Made with the file; a watermark belongs to the file it was reached on."""
        return str(self._connect().execute("SELECT id FROM identity").fetchone()[0])

    def watermark(self, view: OnlineView) -> str:
        """The manifest's name for how far a view, as it is defined now, is online in this file."""
        return f"online:{self.identity}:{view.schema}"

    def tables(self) -> list[str]:
        """The tables of all views and schemas."""
        names = self._connect().execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%.%'")
        return [name for (name,) in names]

    def create(self, view: OnlineView) -> None:
        """Make the view's table if it is not there."""
        self._connect().execute(
            f"CREATE TABLE IF NOT EXISTS {quoted(view.table)} (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"
        )

    def drop(self, table: str) -> None:
        """Remove a view's table by its full name."""
        self._connect().execute(f"DROP TABLE IF EXISTS {quoted(table)}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            connection.execute("ROLLBACK") if connection.in_transaction else None
            raise DataFolderError(f"cannot write the online store {self.path}: {error}. Free space or mend its rights.") from error
        except BaseException:
            connection.execute("ROLLBACK") if connection.in_transaction else None
            raise

    def write(self, view: OnlineView, rows: Iterable[tuple[bytes, Row]], now: int, shown_at: Callable[[], int] | None = None) -> Written:
        """Merge rows into their records in one transaction.

        What is effective at `now` and older than another effective row goes; an older row never replaces a newer.
        `shown_at` says what time it is when the rows come online, where that is known to be later than `now`.
        """
        offered: dict[bytes, list[Row]] = {}
        for key, row in rows:
            offered.setdefault(key, []).append(row)
        changed: list[tuple[bytes, bytes]] = []
        due: list[int] = []
        with self._writing() as connection:
            select = f"SELECT record FROM {quoted(view.table)} WHERE key = ?"
            for key in sorted(offered):
                found = connection.execute(select, (key,)).fetchone()
                before = _decode(found[0])[1:] if found else []
                kept = merged([*before, *offered[key]], now)
                there = {tuple(row[:2]) for row in before}
                due += [effective(row) for row in kept if tuple(row[:2]) not in there][:1]
                record = _encode([FORMAT, *kept])
                if not found or record != found[0]:
                    changed.append((key, record))
            connection.executemany(f"INSERT OR REPLACE INTO {quoted(view.table)} VALUES (?, ?)", changed)
            then = now if shown_at is None else max(now, shown_at())
        return Written(len(changed), sum(moment < then for moment in due))

    def read(self, view: OnlineView, keys: Sequence[bytes | None], at: int) -> list[OnlineRow]:
        """What the view shows for each key at a moment (microseconds); a null key is not found.

        Raises `NotBuilt` where the view was never materialized in its present schema.
        """
        connection = self._connect()
        select = f"SELECT record FROM {quoted(view.table)} WHERE key = ?"
        nothing = OnlineRow("NOT_FOUND", None, None, [None] * len(view.features))
        shown: list[OnlineRow] = []
        try:
            for key in keys:
                found = connection.execute(select, (key,)).fetchone() if key is not None else None
                shown.append(_shown(_decode(found[0])[1:], view, at) or nothing if found else nothing)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise NotBuilt(
                    f"view '{view.name}' is not in the online store as it is defined now; run: punctual features materialize."
                ) from error
            raise
        return shown

    def count(self, view: OnlineView) -> int:
        """How many entities the view has; 0 if it was never materialized."""
        if view.table not in self.tables():
            return 0
        return int(self._connect().execute(f"SELECT count(*) FROM {quoted(view.table)}").fetchone()[0])


def _file(path: Path) -> tuple[int, int] | None:
    """Which file is at the path now."""
    try:
        found = os.stat(path)  # noqa: PTH116  twice as fast, at every read
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _shown(rows: list[Row], view: OnlineView, at: int) -> OnlineRow | None:
    """The newest of the rows that are effective at the moment, judged by the ttl as the offline join does."""
    newest: Row | None = None
    for row in rows:
        if effective(row) <= at and (newest is None or (row[0], row[1]) > (newest[0], newest[1])):
            newest = row
    if newest is None:
        return None
    if view.ttl and newest[0] + view.ttl < at:
        return OnlineRow("OUTSIDE_MAX_AGE", newest[0], newest[1], [None] * len(view.features))
    return OnlineRow("PRESENT", newest[0], newest[1], newest[2:])
