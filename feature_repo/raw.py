"""What a domain says about its raw data: where rows are, what they must look like, what happened according to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

# A source's place may depend on the environment it runs in, so it may be a function, called when it is read.
Location = str | Path | Callable[[], str | Path]


@dataclass(frozen=True)
class Rule:
    """What every clean row must satisfy: a DuckDB expression over the clean columns and earlier sources.

    As with a SQL CHECK, a row breaks the rule only where `holds` is false; a null passes.
    """

    name: str
    holds: str


@dataclass(frozen=True)
class CsvSource:
    """A CSV file (plain, .gz or .zip), its contract, and how its rows are cleaned.

    `columns` maps each column of the file to its DuckDB type; a value that cannot be read as that type sends its
    row to quarantine. `key` identifies a row: a repetition of an equal row is a duplicate, of an unequal one is
    quarantined. `clean` is a SELECT over the table that bears the source's name (typed rows); it must hand on
    the column `row_number` and exactly one row for each row it gets; without it, typed rows are clean rows.
    `supplement` adds rows that the file is known to lack; they are counted apart from it.
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

    @property
    def path(self) -> Path:
        """Where the file is, resolved now."""
        return Path(self.location() if callable(self.location) else self.location)

    @property
    def fingerprint(self) -> str:
        """Changes with the contract and the cleaning, not with the file or its place."""
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


@dataclass(frozen=True)
class Events:
    """What happened, when, and from when on it was known.

    `sql` is a SELECT over clean tables, each by its source's name. It gives the `columns`, `event_timestamp`
    (naive UTC, the moment the event describes) and `created_timestamp` (naive UTC, the moment it was known).
    `id` names the columns that identify an event: another row with the same id is a newer version of it.
    `columns` maps every other column, the id's included, to its DuckDB type.
    """

    name: str
    sources: tuple[CsvSource, ...]
    sql: str
    id: tuple[str, ...]
    columns: Mapping[str, str]
    description: str = ""
    known: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the events of an unchanged file might."""
        said = (self.name, folded(self.sql), self.id, dict(self.columns), [source.fingerprint for source in self.sources])
        return digest(repr(said))

    @property
    def all_sources(self) -> tuple[CsvSource, ...]:
        """Every source the events rest on, those first that others read."""
        return with_dependencies(self.sources)


@dataclass(frozen=True)
class Domain:
    """A domain's own facts for those who run it.

    `demo_at` is the moment at which its demonstration stands (aware UTC), None for live data; `schedule` gives each recurring
    step a cron expression in UTC, and `time_limits` how long one of its runs may take by the wall's clock before it is stopped.
    """

    name: str
    description: str
    demo_at: datetime | None = None
    schedule: Mapping[str, str] = field(default_factory=lambda: {"materialize": "0 * * * *", "batch": "0 6 * * *", "train": "0 7 * * 1"})
    time_limits: Mapping[str, timedelta] = field(default_factory=dict)


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
