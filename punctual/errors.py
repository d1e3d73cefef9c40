"""The platform's errors: what happened, with names and values; what was expected; what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of a command. A scheduler reads the code and no text."""

    DONE = 0
    NEEDS_ATTENTION = 1  # the work is done, and a check failed: drift, a stale feature view
    NEEDS_A_PERSON = 2  # wrong input or a broken state; repeating the command does not help
    REFUSED = 3  # the model is trained and registered, and the gate did not promote it
    UNEXPECTED = 70  # an exception that is not expected; its traceback is in a log file
    TRY_AGAIN = 75  # a temporary failure; the same command may succeed later without any change
    INTERRUPTED = 130  # Ctrl-C
    OUTPUT_CLOSED = 141  # the reader closed the output, as in `punctual status | head -1`


class PunctualError(Exception):
    """An expected failure. A command prints its message without a traceback.

    The command exits with `exit_code`, which a subclass in any module may override.
    """

    exit_code: ExitCode = ExitCode.NEEDS_A_PERSON

    def __str__(self) -> str:
        return f"{type(self).__name__}: {super().__str__()}"


class UnknownName(PunctualError):
    """A domain, use case, view or version that is not declared."""


class UnknownDomain(UnknownName):
    """The feature repository has no domain with this name."""


class UnknownUseCase(UnknownName):
    """No domain has a use case with this name."""


class InvalidDeclaration(PunctualError):
    """A domain's declarations are invalid; the message lists every problem."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{where} has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
        self.problems = list(problems)


class BrokenSource(PunctualError):
    """A source's file is missing, empty or unreadable, or does not have its declared columns."""


class NaiveTimestamp(PunctualError):
    """A datetime without a time zone where one is required."""


class BrokenTable(PunctualError):
    """A table does not match its manifest, or rows to be added violate its contract."""


class StoreOutdated(PunctualError):
    """Stored data were made from another definition than the requested one."""


class ChangeRefused(PunctualError):
    """A definition that a champion reads was changed without a new version."""


class NotBuilt(PunctualError):
    """A table, an online view or a label is not yet built up to the requested moment.

    The failure is temporary: a scheduled run builds it.
    """

    exit_code = ExitCode.TRY_AGAIN


class NotEnoughData(PunctualError):
    """A training set, or one of its parts, has too few rows."""


class NoChampion(PunctualError):
    """No model of the use case is champion yet."""


class BrokenModel(PunctualError):
    """A registered model cannot be loaded, or its predictions differ from those in its card."""


class BrokenRegistry(PunctualError):
    """The model registry cannot be read or written: it is damaged, or from another release."""


class GateRefused(PunctualError):
    """The challenger is not good enough; the champion is unchanged."""

    exit_code = ExitCode.REFUSED


class InvalidRequest(PunctualError):
    """A request has a missing or unknown field, or a value of the wrong type."""


class DataFolderError(PunctualError):
    """The data folder cannot be written: no permission, a full disk, or not a folder."""


class BrokenClock(PunctualError):
    """The data folder's `clock` file does not contain a timestamp."""


class PortInUse(PunctualError):
    """Another program listens on the server's address."""


class AlreadyRunning(PunctualError):
    """Another process is doing the same work in this data folder."""

    exit_code = ExitCode.TRY_AGAIN


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code of a command that ended with `error`.

    It is the code of the error's class, or `TRY_AGAIN` if a locked database, a lost connection or a
    timeout is among its causes.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError)) or is_locked(cause):
            return ExitCode.TRY_AGAIN
        wrapped = getattr(cause, "orig", None)  # SQLAlchemy's reference to the driver's error
        cause = wrapped if isinstance(wrapped, Exception) else cause.__cause__ or cause.__context__
    return error.exit_code if isinstance(error, PunctualError) else ExitCode.UNEXPECTED


def is_locked(error: BaseException) -> bool:
    """Whether SQLite reports a database that another process has locked."""
    busy, locked = 5, 6  # SQLite's primary result codes, which are the lowest 8 bits
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in (busy, locked)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """The message 'no KIND NAME in WHERE. Did you mean …? Known: …'."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"no {kind} '{name}' in {where}.{guess} Known: {', '.join(names) or 'none'}."
