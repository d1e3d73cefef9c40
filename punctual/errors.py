"""The platform's errors: what happened, with names and values; what was expected; what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command line ended. A scheduler reads this code and no text."""

    DONE = 0
    NEEDS_ATTENTION = 1  # the work is done, and a check failed: drift, a stale feature view
    NEEDS_A_PERSON = (
        2  # wrong input or a broken state; the same command fails again until it is fixed
    )
    REFUSED = 3  # the model is trained and registered, and the gate did not promote it
    UNEXPECTED = 70  # an exception that nobody foresaw; its traceback is in a log file
    TRY_AGAIN = 75  # a temporary failure; the same command may succeed later without any change
    INTERRUPTED = 130  # Ctrl-C
    OUTPUT_CLOSED = 141  # the reader of the output has gone, as in `punctual status | head -1`


class PunctualError(Exception):
    """A foreseen failure. A command line prints its message without a traceback.

    `exit_code` belongs to the class, wherever the class is defined: the command exits with it.
    """

    exit_code: ExitCode = ExitCode.NEEDS_A_PERSON

    def __str__(self) -> str:
        return f"{type(self).__name__}: {super().__str__()}"


class UnknownName(PunctualError):
    """A domain, use case, view or version that nobody declared."""


class UnknownDomain(UnknownName):
    """No such folder in the feature repository."""


class UnknownUseCase(UnknownName):
    """No such use case in any domain."""


class InvalidDeclaration(PunctualError):
    """A domain says something that cannot be; all its problems are listed at once."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{where} has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
        self.problems = list(problems)


class BrokenSource(PunctualError):
    """A raw source is missing, empty, unreadable, or lacks a column or a type that it declares."""


class NaiveTimestamp(PunctualError):
    """A time without a zone; the platform does not guess one."""


class BrokenTable(PunctualError):
    """A published table cannot be read as its manifest says, or rows offered to it break its
    contract.
    """


class StoreOutdated(PunctualError):
    """What is stored was made from an older definition than the one asked for."""


class ChangeRefused(PunctualError):
    """A definition that a champion reads was changed without becoming a new version."""


class NotBuilt(PunctualError):
    """A table, an online view or a label is asked for a moment that no run has reached yet.

    Temporary: the run that reaches it is scheduled, and nothing needs to be fixed.
    """

    exit_code = ExitCode.TRY_AGAIN


class NotEnoughData(PunctualError):
    """A training set or one of its parts is too small to mean anything."""


class NoChampion(PunctualError):
    """No model of this use case has passed the gate yet."""


class BrokenModel(PunctualError):
    """A registered model cannot be loaded, or does not predict what it predicted when it was
    registered.
    """


class BrokenRegistry(PunctualError):
    """The model registry cannot be read or written: damaged, or of another release."""


class GateRefused(PunctualError):
    """The challenger is not good enough; the champion is unchanged."""

    exit_code = ExitCode.REFUSED


class InvalidRequest(PunctualError):
    """A prediction was asked for with a field missing, of the wrong type, or unknown."""


class DataFolderError(PunctualError):
    """The data folder cannot be written: missing rights, full disk, not a folder."""


class BrokenClock(PunctualError):
    """The data folder's `clock` file does not hold a timestamp."""


class PortInUse(PunctualError):
    """Another program listens at the address the server was to use."""


class AlreadyRunning(PunctualError):
    """Another process does this work in this data folder right now."""

    exit_code = ExitCode.TRY_AGAIN


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code of a command that `error` ended.

    It is the code of the error's class, unless a database locked by another process or a lost
    connection caused the error: that is temporary, whichever message names it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError)) or is_locked(cause):
            return ExitCode.TRY_AGAIN
        wrapped = getattr(cause, "orig", None)  # how SQLAlchemy keeps the driver's error
        cause = wrapped if isinstance(wrapped, Exception) else cause.__cause__ or cause.__context__
    return error.exit_code if isinstance(error, PunctualError) else ExitCode.UNEXPECTED


def is_locked(error: BaseException) -> bool:
    """Whether SQLite found a database locked by another process."""
    busy, locked = 5, 6  # SQLite's primary result codes; the higher bits tell the kind
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in (busy, locked)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """'no KIND NAME in WHERE. Did you mean …? Known: …', for the errors about names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"no {kind} '{name}' in {where}.{guess} Known: {', '.join(names) or 'none'}."
