"""Folders for the data that DuckDB writes to disk when memory is full, one per connection."""

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
    """A path of a new spill folder in `within`, or in the system's temporary folder.

    DuckDB creates the folder when it spills, and removes it when the connection is closed. Each
    connection needs its own: DuckDB 1.5 uses the same file names in every connection, and two
    connections that share a folder read each other's rows. Raises `DataFolderError` if `within`
    cannot be written.
    """
    if within is None:
        return Path(tempfile.gettempdir()) / f"duckdb-{uuid.uuid4().hex[:12]}"
    return _process_folder(within.absolute(), os.getpid()) / uuid.uuid4().hex[:12]


@cache
def _process_folder(within: Path, pid: int) -> Path:
    """The process's folder in `within`; the folders of processes that died are removed."""
    folder = within / f"spill-{pid}-{uuid.uuid4().hex[:8]}"
    # Other processes ignore this name, and so do not remove the folder before it is locked.
    unlocked = folder.with_name(f".{folder.name}")
    try:
        within.mkdir(parents=True, exist_ok=True)
        for other in within.glob(f"spill-*/{_LOCK}"):
            _remove_if_abandoned(other)
        unlocked.mkdir()
        # The file stays open, and therefore locked, until the process ends.
        lock = os.open(unlocked / _LOCK, os.O_CREAT | os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError as error:
        raise DataFolderError(
            f"cannot write spill_folder {within}: {error.strerror}. Set another folder in"
            " feature_store.yaml."
        ) from error
    return folder


def _remove_if_abandoned(lock: Path) -> None:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        # The process is alive, or another process has just removed the folder.
        return
