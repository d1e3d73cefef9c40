"""Turns write failures of SQLite, DuckDB, Arrow and the system into `DataFolderError`."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from punctual.errors import DataFolderError

_NOT_WRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# DuckDB has one error class for all I/O and one for memory and spilling; messages tell them apart.
_DUCKDB_WRITES = ("Could not write", "Could not truncate", "Could not sync", "fsync", "Cannot open")
_DUCKDB_DISK = ("No space left", "File too large", "Read-only file", "Permission denied", "quota")
_DUCKDB_SPILL = ("failed to offload", "max_temp_directory_size")


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Raise `DataFolderError` for a full disk, missing permissions, a failing device or a lock.

    `what` names the target of the write, as in 'the online store'. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise DataFolderError(
            f"cannot write {what} {path}: {reason}."
            " Free space, fix its permissions or choose another --home."
        ) from error


def write_failure(error: Exception) -> str | None:
    """The reason of a write failure that its target caused; None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, sqlite3.OperationalError):
        # The lower byte is the primary result code; errors raised by Python's module have no code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _LOCKED:
            return f"another process keeps it locked ({error})"
        return str(error) if code in _NOT_WRITABLE else None
    # If DuckDB was not imported, the error is not one of DuckDB's.
    duckdb = sys.modules.get("duckdb")
    if duckdb is None or not isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)):
        return None
    first_line = str(error).strip().splitlines()[0]
    fragments = (
        _DUCKDB_SPILL
        if isinstance(error, duckdb.OutOfMemoryException)
        else (*_DUCKDB_WRITES, *_DUCKDB_DISK)
    )
    return first_line if any(fragment in str(error) for fragment in fragments) else None
