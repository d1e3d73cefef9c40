"""The data folder's locks: one process at a time does a kind of work.

The operating system releases a lock when its process ends, however it ends.
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
def exclusive_lock(home: Home, work: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock of a kind of work, and yield its file descriptor.

    A child process that inherits the descriptor holds the lock until it ends, too. Raises
    `AlreadyRunning` if another process still holds the lock after `wait_seconds`, and
    `DataFolderError` if the folder cannot be written.
    """
    path = home.path("locks", work)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise DataFolderError(
            f"cannot write {path.parent}: {error.strerror}. Correct its permissions or choose"
            " another --home."
        ) from error
    with file:
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(
                    f"'{work}' runs in {home.folder} already (process {_holder(file)}, or one of"
                    " its children); wait for it to end, stop it, or choose another --home."
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def is_running(home: Home, work: str) -> bool:
    """Whether a process holds the lock of a kind of work; the lock is not changed."""
    path = home.path("locks", work)
    if not path.exists():
        return False
    with path.open() as file:
        return not _try_lock(file, fcntl.LOCK_SH)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
