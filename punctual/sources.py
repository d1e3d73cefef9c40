"""What a domain says about its raw data: where rows are, what they must look like, what happened
according to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from punctual.home import Home

# What becomes of events whose rows are no longer in their source.
Vanished = Literal["withdraw", "keep"]

# A source's place may depend on the environment it runs in, so it may be a function, called when it
# is read.
Location = str | Path | Callable[[], str | Path]


@dataclass(frozen=True)
class Rule:
    """What every clean row must satisfy: a DuckDB expression over the clean columns and earlier
    sources.

    As with a SQL CHECK, a row breaks the rule only where `holds` is false; a null passes.
    """

    name: str
    holds: str


@dataclass(frozen=True)
class CsvSource:
    """A CSV file (plain, .gz or .zip), its contract, and how its rows are cleaned.

    `columns` maps each column of the file to its DuckDB type; a value that cannot be read as that
    type sends its row to quarantine. `key` identifies a row: a repetition of an equal row is a
    duplicate, of an unequal one is quarantined. `clean` is a SELECT over the table that bears the
    source's name (typed rows); it must hand on the column `row_number` and exactly one row for each
    row it gets; without it, typed rows are clean rows. `supplement` adds rows that the file is
    known to lack; they are counted apart from it.

    `vanished` says what becomes of an event that the file gave before and no longer gives, because
    its row was removed, no longer passes the rules, or is filtered out by the events' SQL:

    - `"withdraw"` (the default) is for a file that holds all rows that are true now, such as an
      export of a database table. The event is withdrawn at the moment of the build that notices it:
      features, labels and requests as of later moments are without it, those as of earlier moments
      stay as they were. A row that returns brings its event back.
    - `"keep"` is for a file that holds only some of the rows, such as the last 30 days. The event
      stays as it was last seen, and builds report how many such events there are.
    """

    name: str
    location: Location
    columns: Mapping[str, str]
    key: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    clean: str | None = None
    supplement: tuple[tuple[object, ...], ...] = ()
    null_values: tuple[str, ...] = ("", "NA")
    reads: tuple[CsvSource, ...] = ()
    description: str = ""
    vanished: Vanished = "withdraw"

    def path(self, home: Home) -> Path:
        """Where the file is, resolved now; a relative location is in the data folder."""
        return home.folder / (self.location() if callable(self.location) else self.location)

    @property
    def fingerprint(self) -> str:
        """Changes with contract and cleaning, not with the file, its place or `vanished`."""
        said = (
            self.name,
            dict(self.columns),
            self.key,
            [(rule.name, folded(rule.holds)) for rule in self.rules],
            folded(self.clean or ""),
            self.supplement,
            self.null_values,
            [source.fingerprint for source in self.reads],
        )
        return digest(repr(said))


def with_dependencies(sources: Sequence[CsvSource]) -> tuple[CsvSource, ...]:
    """The sources and all they read, each once, before those that read it."""
    ordered: dict[str, CsvSource] = {}
    for source in sources:
        for needed in (*with_dependencies(source.reads), source):
            ordered.setdefault(needed.name, needed)
    return tuple(ordered.values())


def folded(sql: str) -> str:
    """The statement on one line: how it is broken into lines changes no row."""
    return " ".join(sql.split())


def digest(text: str) -> str:
    """A short stable fingerprint of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
