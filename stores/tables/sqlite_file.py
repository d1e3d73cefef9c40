"""A SQLite file that any number of processes may make and use at once."""

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
    """The file as `sqlite3.connect(…, uri=True)` takes it; where nobody can write, it is read
    without a reader's files beside it.
    """
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"file:{quote(os.fsencode(path))}" + ("?immutable=1" if alone else "")


def make_database(path: Path, statements: Sequence[str], page_size: int = 4096) -> None:
    """Make the file with its tables, in write-ahead mode, whole or not at all; a file that is there
    is left alone.

    SQLite's own way shows a file before its tables, and meets a lock that waits for nobody where
    two switch its mode.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.exists():
            return
        aside = path.with_name(f".{path.name}.aside")
        aside.unlink(missing_ok=True)
        with closing(sqlite3.connect(aside, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {page_size}")
            for statement in statements:
                connection.execute(statement)
            connection.execute("PRAGMA journal_mode = WAL")
        # The journal of a file that somebody removed would be played into this one.
        for left_behind in ("-wal", "-shm"):
            path.with_name(path.name + left_behind).unlink(missing_ok=True)
        aside.replace(path)


def archive_database(path: Path, reason: Callable[[sqlite3.Connection], str | None]) -> None:
    """Move the file away if there is a reason, which its name then ends with: `online.db.format-1`;
    nothing is lost.

    Who has it open keeps it as it is.
    """
    if not path.is_file():
        return
    with _locked(path):
        with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
            # Closing puts the journal into the file, unless others have it open; then it goes with
            # it.
            found = reason(connection)
        if found is None:
            return
        number = 1
        while (
            aside := path.with_name(f"{path.name}.{found}" + (f".{number}" if number > 1 else ""))
        ).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))


def archived_databases(path: Path) -> list[Path]:
    """The files that `archive_database` left."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.format-*"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
