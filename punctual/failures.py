"""The message of an exception that ended a command, and the log file of an unexpected one."""

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

# SQLite's primary result codes that a folder or file causes, and not a statement: no permission,
# read-only, input/output, corrupt, full, cannot open, not a database.
_SQLITE_FOLDER = frozenset({3, 8, 10, 11, 13, 14, 26})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def failure(error: Exception, command: Sequence[str], home: Home) -> tuple[str, ExitCode]:
    """The message for the user and the exit code; an unexpected error is also logged."""
    if isinstance(error, PunctualError):
        return str(error), exit_code_of(error)
    if message := _system_message(error, home):
        is_temporary = exit_code_of(error) == ExitCode.TRY_AGAIN
        return message, ExitCode.TRY_AGAIN if is_temporary else ExitCode.NEEDS_A_PERSON
    return _unexpected_message(error, command, home), exit_code_of(error)


def _system_message(error: Exception, home: Home) -> str | None:
    """The message for a locked database, a full disk, a missing permission or a damaged file."""
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


def _unexpected_message(error: Exception, command: Sequence[str], home: Home) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()) or type(error).__name__
    text = text if len(text) <= 300 else f"{text[:299]}…"
    log = _write_log(error, command, home)
    return (
        f"UnexpectedError: {text}. This is a fault of Punctual, not of what was typed."
        f" The traceback is in {log}; report that file."
    )


def _write_log(error: Exception, command: Sequence[str], home: Home) -> str:
    """Write a log file to the data folder, or else to the temporary folder; its path."""
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
    return "no file, because none could be written"


def _version() -> str:
    try:
        return version("punctual")
    except PackageNotFoundError:
        return "not installed"
