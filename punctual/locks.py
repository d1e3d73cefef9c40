"""The data folder's locks: one process at a time does a kind of work, and one that dies, however it
dies, lets go.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from punctual.errors import AlreadyRunning, DataFolderError
from punctual.home import Home


@contextmanager
def only_one(home: Home, work: str, patience: float = 0.0) -> Iterator[int]:
    """Hold the lock of a kind of work; the descriptor that is given, handed to child processes,
    holds it as long as they live.

    Raises `AlreadyRunning` where another process has it after `patience` seconds, and
    `DataFolderError` where the folder cannot be written.
    """
    path = home.path("locks", work)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise DataFolderError(
            f"cannot write {path.parent}: {error.strerror}. Mend its rights or choose another"
            " --home."
        ) from error
    with file:
        until = time.monotonic() + patience
        while not _taken(file, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                raise AlreadyRunning(
                    f"'{work}' runs in {home.folder} already (process {_holder(file)}, or a child"
                    " it left);"
                    " wait for it to end, stop it, or choose another --home."
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def is_running(home: Home, work: str) -> bool:
    """Whether a process, or a child that one left, holds the lock of a kind of work; changes
    nothing.
    """
    path = home.path("locks", work)
    if not path.exists():
        return False
    with path.open() as file:
        return not _taken(file, fcntl.LOCK_SH)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


def _taken(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
