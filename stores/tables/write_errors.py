"""Failed writes, whoever meets them (SQLite, DuckDB, Arrow or the system), as one error with what
to do.
"""

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
# DuckDB has one class for all input and output, and one for memory and its spill folder.
_DUCKDB_WRITES = ("Could not write", "Could not truncate", "Could not sync", "fsync", "Cannot open")
_DUCKDB_DISK = ("No space left", "File too large", "Read-only file", "Permission denied", "quota")
_DUCKDB_SPILL = ("failed to offload", "max_temp_directory_size")


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Raise `DataFolderError` for a full disk, missing rights, a failing device or a lasting lock.

    `what` names what is written at the path, as in 'the online store'. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise DataFolderError(
            f"cannot write {what} {path}: {reason}."
            " Free space, mend its rights or choose another --home."
        ) from error


def write_failure(error: Exception) -> str | None:
    """Why a write failed, where the error says that the place to write to is at fault; else None."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, sqlite3.OperationalError):
        # The lower byte is the kind of error; Python's own errors have no code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _LOCKED:
            return f"another process keeps it locked ({error})"
        return str(error) if code in _NOT_WRITABLE else None
    # Where nobody has imported DuckDB, the error is not one of DuckDB's.
    duckdb = sys.modules.get("duckdb")
    if duckdb is None or not isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)):
        return None
    said = str(error).strip().splitlines()[0]
    signs = (
        _DUCKDB_SPILL
        if isinstance(error, duckdb.OutOfMemoryException)
        else (*_DUCKDB_WRITES, *_DUCKDB_DISK)
    )
    return said if any(sign in str(error) for sign in signs) else None
