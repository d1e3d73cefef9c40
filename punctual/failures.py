"""What a command line says of an exception that ended it: one sentence, and a log with the rest."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from punctual.clock import wall_clock
from punctual.errors import ExitCode, PunctualError, exit_code_of, is_locked
from punctual.home import Home

# SQLite's primary result codes for what its folder or its file causes, not a statement of ours:
# no permission, read-only, input/output, corrupt, full, cannot open, not a database.
_SQLITE_FOLDER = frozenset({3, 8, 10, 11, 13, 14, 26})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def failure(error: Exception, command: Sequence[str], home: Home) -> tuple[str, ExitCode]:
    """What to tell the person who ran `command`, and the exit code; the unexpected is logged."""
    if isinstance(error, PunctualError):
        return str(error), exit_code_of(error)
    if said := _of_the_system(error, home):
        locked = exit_code_of(error) == ExitCode.TRY_AGAIN
        return said, ExitCode.TRY_AGAIN if locked else ExitCode.NEEDS_A_PERSON
    return _unexpected(error, command, home), exit_code_of(error)


def _of_the_system(error: Exception, home: Home) -> str | None:
    """A full disk, missing rights or a damaged file, wherever something is read or written."""
    if is_locked(error):
        return (
            f"DataFolderLocked: a database in {home.folder} is locked by another process."
            " Try again."
        )
    if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_FOLDER:
        return (
            f"DataFolderError: a database in {home.folder}: {error}."
            " Free space, correct its permissions, restore it, or choose another --home."
        )
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK):
        path = error.filename or home.folder
        return (
            f"DataFolderError: {error.strerror or error}: {path}."
            " Free space, correct its permissions, or choose another path."
        )
    return None


def _unexpected(error: Exception, command: Sequence[str], home: Home) -> str:
    what = " ".join(f"{type(error).__name__}: {error}".split()) or type(error).__name__
    what = what if len(what) <= 300 else f"{what[:299]}…"
    log = _logged(error, command, home)
    return (
        f"UnexpectedError: {what}. This is a fault of Punctual, not of what was typed."
        f" The traceback is in {log}; report that file."
    )


def _logged(error: Exception, command: Sequence[str], home: Home) -> str:
    """The new log file: in the data folder, or in the folder for temporary files."""
    now = wall_clock()
    text = "\n".join(
        [
            f"$ {shlex.join(command)}",
            f"{now.isoformat()}, Punctual {_version()}, Python {sys.version.split()[0]},"
            f" {platform.platform()}",
            "",
            *traceback.format_exception(error),
        ]
    )
    name = f"crash-{now:%Y%m%dT%H%M%S}-{os.getpid()}.log"
    for folder in (home.path("logs"), tempfile.gettempdir()):
        path = Path(folder, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return str(path)
    return "no file, since none could be written"


def _version() -> str:
    try:
        return version("punctual")
    except PackageNotFoundError:
        return "not installed"
