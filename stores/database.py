"""A SQLite file that any number of processes may make and use at once."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def address_of(path: Path) -> str:
    """The file as `sqlite3.connect(…, uri=True)` takes it; where nobody can write, it is read without a reader's files beside it."""
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"file:{quote(str(path))}" + ("?immutable=1" if alone else "")


def make_database(path: Path, statements: Sequence[str], page_size: int = 4096) -> None:
    """Make the file with its tables, in write-ahead mode, whole or not at all; a file that is there is left alone.

    SQLite's own way shows a file before its tables, and meets a lock that waits for nobody where two switch its mode.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
