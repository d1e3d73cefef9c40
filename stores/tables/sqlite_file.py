"""SQLite files that several processes may create and use at once."""

from __future__ import annotations

import fcntl
import glob
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote


def sqlite_uri(path: Path) -> str:
    """The URI of the file for `sqlite3.connect(…, uri=True)`.

    In a read-only folder without a WAL the file is opened as immutable, since SQLite could not
    create the `-wal` and `-shm` files that even a reader needs.
    """
    immutable = (
        not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    )
    return f"file:{quote(os.fsencode(path))}" + ("?immutable=1" if immutable else "")


def make_database(path: Path, statements: Sequence[str], page_size: int = 4096) -> None:
    """Create the file with its tables in WAL mode, atomically; an existing file is not changed.

    If SQLite created the file under its final name, other processes could open it without tables,
    and two processes that switch it to WAL mode at once fail without waiting for the lock.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.aside")
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {page_size}")
            for statement in statements:
                connection.execute(statement)
            connection.execute("PRAGMA journal_mode = WAL")
        # SQLite would apply the WAL that a removed file left behind to the new file.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        temporary.replace(path)


def archive_database(path: Path, reason: Callable[[sqlite3.Connection], str | None]) -> None:
    """Rename the file if `reason` returns a suffix for its name, as in `online.db.format-1`.

    Processes that have the file open keep using it under its new name.
    """
    if not path.is_file():
        return
    with _locked(path):
        with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
            # Closing moves the WAL into the file, unless other processes have the file open; then
            # the WAL is renamed with it.
            archive_suffix = reason(connection)
        if archive_suffix is None:
            return
        number = 1
        archived = path.with_name(f"{path.name}.{archive_suffix}")
        while archived.exists():
            number += 1
            archived = path.with_name(f"{path.name}.{archive_suffix}.{number}")
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(
                    archived.with_name(archived.name + suffix)
                )


def archived_databases(path: Path) -> list[Path]:
    """The files of older formats that `archive_database` renamed."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.format-*"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
