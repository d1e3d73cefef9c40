"""The SQLite file that online records are in: opened as it is now, checked, and its errors in the
platform's words.
"""

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

# The format of the file; that of a record is in its first byte, and in the fingerprint of its view.
FORMAT = 3
_SCHEMA = f"""
CREATE TABLE places (
    schema TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, place TEXT NOT NULL, beside TEXT, version INTEGER, until INTEGER
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
        """The thread's connection to the file that is there now; without `make` None where there is
        none.
        """
        local = self._local
        existing: sqlite3.Connection | None = getattr(local, "connection", None)
        if existing is not None and local.file == (
            _as_it_is(self.path) if local.frozen else _file(self.path)
        ):
            return existing
        # None yet, or one to a file that somebody removed or replaced and that nobody else sees any
        # more.
        self.close()
        with self._refusing("open"):
            if not make and not self.path.exists():
                return None
            if self.path.is_dir():
                raise DataFolderError(
                    f"the online store {self.path} is a folder; expected a file, or nothing yet."
                )
            make_database(self.path, _SCHEMA.strip().split(";"), page_size=8192)
            address = sqlite_uri(self.path)
            local.frozen = "immutable" in address
            file = _as_it_is(self.path) if local.frozen else _file(self.path)
            connection = sqlite3.connect(
                address,
                uri=True,
                timeout=PATIENCE_SECONDS,
                isolation_level=None,
                cached_statements=512,
            )
            try:
                # A mark that outlived a power failure must not speak for rows that did not; and
                # pages are read where they lie.
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA mmap_size = {1 << 32}")
                connection.execute(f"PRAGMA journal_size_limit = {1 << 24}")
                # What is to leave no byte goes with `scrub`; some builds would else write every
                # dropped page once more.
                connection.execute("PRAGMA secure_delete = OFF")
                self._check_format(connection)
            except BaseException:
                connection.close()
                raise
        local.connection, local.file, local.generations = connection, file, {}
        return connection

    def _existing(self) -> sqlite3.Connection:
        """The thread's connection, the file made if there is none."""
        connection = self._connect()
        assert connection is not None
        return connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        found = _format_of(connection)
        if found is None:
            raise DataFolderError(
                f"{self.path} is a SQLite file, but no online store. Name another path, or move"
                " the file away."
            )
        if found > FORMAT:
            raise StoreOutdated(
                f"the online store {self.path} is of format {found}, which a newer version of"
                f" Punctual made; this one knows {FORMAT}. "
                "Use that version, or name another path."
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
        """SQLite's and the system's errors in the platform's words."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._refusal(act, error) from error

    def _refusal(self, act: str, error: Exception) -> Exception:
        said = str(error)
        if isinstance(error, (sqlite3.OperationalError, OSError)):
            if "no such table" in said:
                return GenerationGone(said)
            if "locked" in said:
                return OnlineStoreUnavailable(
                    f"cannot {act} the online store {self.path}: another process has kept it"
                    f" locked for {PATIENCE_SECONDS:.0f} s."
                )
            return DataFolderError(
                f"cannot {act} the online store {self.path}: {said}. Free space or mend its rights."
            )
        if "not a database" in said:
            return DataFolderError(
                f"{self.path} is no online store: {said}. Name another path, or move the file away."
            )
        return DataFolderError(
            f"the online store {self.path} is damaged: {said}. Move it away and materialize again."
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; others who write wait."""
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


# SQLite's connections, and the locks they hold, do not survive a fork: a child would read a journal
# that others removed.
os.register_at_fork(before=_close_all)


def _format_of(connection: sqlite3.Connection) -> int | None:
    """The format of the online store that the file is, 0 of an empty file; None of somebody else's."""
    tables = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if not tables and not found:
        return 0
    if "places" in tables:
        return int(found)
    # The first format had no number.
    return 1 if "identity" in tables and not found else None


def is_older(connection: sqlite3.Connection) -> str | None:
    """How the name of a file of an older format goes on once it is moved aside; None of any other."""
    found = _format_of(connection)
    return None if found is None or found >= FORMAT else f"format-{found}"


def _file(path: Path) -> tuple[int, ...] | None:
    """Which file is at the path now."""
    try:
        found = os.stat(path)  # noqa: PTH116  twice as fast, at every read
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _as_it_is(path: Path) -> tuple[int, ...] | None:
    """Which file is at the path and how somebody left it, for a connection that takes it for
    immutable.
    """
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
