"""Where DuckDB connections put what does not fit into memory: each into a folder of its own."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path

from punctual.errors import DataFolderError

_LOCK = ".lock"


def spill_folder(within: Path | None) -> Path:
    """A folder that no other connection has; DuckDB makes it when it spills, and removes it when
    the connection is closed.

    DuckDB 1.5 names its files the same in every connection, and two that share a folder read each
    other's rows. Without a folder to be within, it is the system's for temporary files. Raises
    `DataFolderError` where the folder cannot be written.
    """
    if within is None:
        return Path(tempfile.gettempdir()) / f"duckdb-{uuid.uuid4().hex[:12]}"
    return _process_folder(within.absolute(), os.getpid()) / uuid.uuid4().hex[:12]


@cache
def _process_folder(within: Path, pid: int) -> Path:
    """The part of a spill folder that is this process's own; removes the parts of processes that
    died.
    """
    folder = within / f"spill-{pid}-{uuid.uuid4().hex[:8]}"
    # Nobody looks for a part before it is locked.
    unlocked = folder.with_name(f".{folder.name}")
    try:
        within.mkdir(parents=True, exist_ok=True)
        for other in within.glob(f"spill-*/{_LOCK}"):
            _remove_if_abandoned(other)
        unlocked.mkdir()
        # Open, and so locked, as long as the process lives.
        lock = os.open(unlocked / _LOCK, os.O_CREAT | os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot write spill_folder {within}: {error.strerror}. Name another one in"
            " feature_store.yaml."
        ) from error
    return folder


def _remove_if_abandoned(lock: Path) -> None:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        # Its process is alive, or somebody else has just removed it.
        return
