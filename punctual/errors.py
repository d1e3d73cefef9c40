"""The platform's errors: what happened, with names and values; what was expected; what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class PunctualError(Exception):
    """Something a person can answer; a command line prints it without a traceback and exits with 2.

    `may_pass` says whether doing the same again may end otherwise, without anybody mending anything.
    """

    may_pass: ClassVar[bool] = False

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
    """A raw source broke its contract as a whole: a missing column, a wrong type, nothing in it, unreadable."""

    may_pass = True


class NaiveTimestamp(PunctualError):
    """A time without a zone; the platform does not guess one."""


class BrokenTable(PunctualError):
    """A published table cannot be read as its manifest says, or rows offered to it break its contract."""


class StoreOutdated(PunctualError):
    """What is stored was made from an older definition than the one asked for."""


class NotBuilt(PunctualError):
    """A table, an online view or a label is asked for a moment that no run has reached."""

    may_pass = True


class NotEnoughData(PunctualError):
    """A training set or one of its parts is too small to mean anything."""


class NoChampion(PunctualError):
    """No model of this use case has passed the gate yet."""


class BrokenModel(PunctualError):
    """A registered model cannot be loaded, or does not predict what it predicted when it was registered."""


class BrokenRegistry(PunctualError):
    """The model registry cannot be read or written: damaged, locked, or of another release."""

    may_pass = True


class GateRefused(PunctualError):
    """The challenger is not good enough; the champion is unchanged."""


class InvalidRequest(PunctualError):
    """A prediction was asked for with a field missing, of the wrong type, or unknown."""


class DataFolderError(PunctualError):
    """The data folder cannot be written: missing rights, full disk, not a folder."""

    may_pass = True


class PortInUse(PunctualError):
    """Another program listens at the address the server was to use."""

    may_pass = True


class AlreadyRunning(PunctualError):
    """Another process does this work in this data folder right now."""

    may_pass = True


def unknown_name(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """'no KIND NAME in WHERE. Did you mean …? Known: …', for the errors about names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"no {kind} '{name}' in {where}.{guess} Known: {', '.join(names) or 'none'}."
