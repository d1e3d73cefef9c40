"""The SQLite file of online records: opening, checking its format, and translating its errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from punctual.errors import DataFolderError, StoreOutdated
from stores.online.backend import GenerationGone, OnlineStoreUnavailable
from stores.tables import make_database, sqlite_uri

# The format of the file. The format of a record is in its first byte and in its view's schema.
FORMAT = 3
# One row per schema: `place` is the current generation, `beside` the one that a rebuild fills,
# `version` and `until` the watermark.
_SCHEMA = f"""
CREATE TABLE places (
    schema TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL,
    place TEXT NOT NULL, beside TEXT, version INTEGER, until INTEGER
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT}
"""
PATIENCE_SECONDS = 60.0


class OnlineFile:
    """See the module. Each thread has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self._local = threading.local()
        _opened.add(self)

    # Connections.

    def _connect(self, *, make: bool = True) -> sqlite3.Connection | None:
        """The thread's connection to the file now at the path; without `make` None if none is."""
        local = self._local
        existing: sqlite3.Connection | None = getattr(local, "connection", None)
        if existing is not None and local.file == (
            _unchanged_file(self.path) if local.frozen else _file(self.path)
        ):
            return existing
        # There is no connection, or its file was removed or replaced.
        self.close()
        with self._refusing("open"):
            if not make and not self.path.exists():
                return None
            if self.path.is_dir():
                raise DataFolderError(
                    f"the online store {self.path} is a folder; expected a file or a free path."
                )
            make_database(self.path, _SCHEMA.strip().split(";"), page_size=8192)
            address = sqlite_uri(self.path)
            local.frozen = "immutable" in address
            file = _unchanged_file(self.path) if local.frozen else _file(self.path)
            connection = sqlite3.connect(
                address,
                uri=True,
                timeout=PATIENCE_SECONDS,
                isolation_level=None,
                cached_statements=512,
            )
            try:
                # After a power failure the watermark must not cover rows that were lost.
                connection.execute("PRAGMA synchronous = FULL")
                # Reading through a memory map saves copying pages.
                connection.execute(f"PRAGMA mmap_size = {1 << 32}")
                connection.execute(f"PRAGMA journal_size_limit = {1 << 24}")
                # Some builds of SQLite overwrite dropped pages by default; `scrub` does it instead.
                connection.execute("PRAGMA secure_delete = OFF")
                self._check_format(connection)
            except BaseException:
                connection.close()
                raise
        local.connection, local.file, local.generations = connection, file, {}
        return connection

    def _existing(self) -> sqlite3.Connection:
        """The thread's connection; creates the file if there is none."""
        connection = self._connect()
        assert connection is not None
        return connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        found = _format_of(connection)
        if found is None:
            raise DataFolderError(
                f"{self.path} is a SQLite file, but not an online store. Name another path, or move"
                " the file away."
            )
        if found > FORMAT:
            raise StoreOutdated(
                f"the online store {self.path} is of format {found}, which a newer version of"
                f" Punctual made; this version reads {FORMAT}. "
                "Use the newer version, or name another path."
            )
        if found < FORMAT:
            raise StoreOutdated(
                f"the online store {self.path} is of format {found}, and this version of Punctual"
                f" reads and writes {FORMAT}. "
                "Run: punctual features materialize; it moves the file aside and fills a new one."
            )

    def close(self) -> None:
        """Close this thread's connection."""
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            existing.close()
            self._local.connection = None

    @contextmanager
    def _refusing(self, act: str) -> Iterator[None]:
        """Translate errors of SQLite and of the operating system."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._refusal(act, error) from error

    def _refusal(self, act: str, error: Exception) -> Exception:
        message = str(error)
        if isinstance(error, (sqlite3.OperationalError, OSError)):
            if "no such table" in message:
                return GenerationGone(message)
            if "locked" in message:
                return OnlineStoreUnavailable(
                    f"cannot {act} the online store {self.path}: another process has kept it"
                    f" locked for {PATIENCE_SECONDS:.0f} s."
                )
            return DataFolderError(
                f"cannot {act} the online store {self.path}: {message}. Free disk space or"
                " correct the file's permissions."
            )
        if "not a database" in message:
            return DataFolderError(
                f"{self.path} is not an online store: {message}. Name another path, or move the"
                " file away."
            )
        return DataFolderError(
            f"the online store {self.path} is damaged: {message}. Move it away and materialize"
            " again."
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; other writers wait for its end."""
        connection = self._existing()
        with self._refusing("write"):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.execute("ROLLBACK") if connection.in_transaction else None


_opened: weakref.WeakSet[OnlineFile] = weakref.WeakSet()


def _close_all() -> None:
    for records in list(_opened):
        records.close()


# SQLite's connections and file locks do not survive a fork: a child could read a journal that
# another process has removed.
os.register_at_fork(before=_close_all)


def _format_of(connection: sqlite3.Connection) -> int | None:
    """The format of the online store; 0 of an empty file, None of another database."""
    tables = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if not tables and not found:
        return 0
    if "places" in tables:
        return int(found)
    # The first format set no version number.
    return 1 if "identity" in tables and not found else None


def is_older(connection: sqlite3.Connection) -> str | None:
    """The suffix with which a file of an older format is moved aside; None for any other file."""
    found = _format_of(connection)
    return None if found is None or found >= FORMAT else f"format-{found}"


def _file(path: Path) -> tuple[int, ...] | None:
    """The identity of the file now at the path."""
    try:
        found = os.stat(path)  # noqa: PTH116  twice as fast, and called for every read
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _unchanged_file(path: Path) -> tuple[int, ...] | None:
    """The identity and state of the file, for a connection that takes it for immutable."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return (
        found.st_dev,
        found.st_ino,
        found.st_mtime_ns,
        found.st_size,
        path.with_name(path.name + "-wal").exists(),
    )
