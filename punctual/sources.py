"""Raw data sources: the location of a file, the contract of its rows, and how they are cleaned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from punctual.home import Home

# What a build does with an event that its source no longer gives.
Vanished = Literal["withdraw", "keep"]

# A function is called at each read, since the location may depend on the environment.
Location = str | Path | Callable[[], str | Path]


@dataclass(frozen=True)
class Rule:
    """A condition on each row of a source, checked after its `clean`.

    - `name`: the name in build reports and in quarantine; unique in the source, and not `type`.
    - `holds`: a boolean DuckDB expression over the clean columns; subqueries may read the sources
      in `reads`. As with a SQL CHECK constraint, only false breaks the rule: null passes.

    A row that breaks a rule is quarantined, once, with the names of all the rules it breaks.
    """

    name: str
    holds: str


@dataclass(frozen=True)
class CsvSource:
    """A CSV file, the types of its columns, and how its rows are cleaned.

    The file has a header line and comma-separated values, quoted with `"`. A path that ends in
    `.gz` or `.zip` is decompressed; a zip archive holds exactly one `.csv` file. A row passes
    through `columns`, `key`, `clean` and `rules` in this order; a row that fails one of them is
    quarantined with the reason. A build raises `BrokenSource` if the file is missing, has no rows
    or lacks a declared column, or if more than half of its lines, or of the non-null values of a
    column, cannot be read.

    - `name`: the name of the source's table in SQL; unique in the domain.
    - `location`: the path of the file, or a function without arguments that returns it and is
      called at each read. A relative path is relative to the data folder.
    - `columns`: column name to DuckDB type, such as `"BIGINT"` or `"DECIMAL(9, 2)"`. A row with a
      value that cannot be read as the type is quarantined; an integer or decimal is never rounded.
      Columns of the file that are not declared are ignored and reported.
    - `key`: the columns that identify a row, at least one; a row with a null in the key is
      quarantined. The first row of each key is kept; a later row with equal values is dropped as a
      duplicate, one with other values is quarantined.
    - `rules`: conditions on the cleaned rows; default none.
    - `clean`: a SELECT over the table `name`, which has the rows after the key check. It returns
      exactly one row for each row, with the column `row_number`. Default None: no change.
    - `supplement`: rows that the file lacks, each a tuple of values in the order of `columns`, None
      for null; default none. They pass through the same steps and are counted separately.
    - `null_values`: texts that are read as null; default `""` and `"NA"`.
    - `reads`: other sources whose clean rows `clean` and `rules` read as tables; default none.
    - `description`: what the file contains, for readers of the declaration; default empty.
    - `vanished`: what a build does with an event that the file gave before and gives no longer,
      because its row was removed, no longer passes the rules, or is excluded by the events' SQL.

      - `"withdraw"` (default) suits a file with all rows that are currently valid, such as an
        export of a database table. The event is withdrawn as of the build that notices it:
        features, labels and requests as of later moments exclude it, those as of earlier moments do
        not change. If its row returns, so does the event.
      - `"keep"` suits a file with a part of the rows, such as the last 30 days. The event remains
        as last seen, and builds report the number of such events.
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
        """The path of the file now; a relative location is relative to the data folder."""
        return home.folder / (self.location() if callable(self.location) else self.location)

    @property
    def fingerprint(self) -> str:
        """A hash of the contract and the cleaning; without file, location and `vanished`."""
        parts = (
            self.name,
            dict(self.columns),
            self.key,
            [(rule.name, on_one_line(rule.holds)) for rule in self.rules],
            on_one_line(self.clean or ""),
            self.supplement,
            self.null_values,
            [source.fingerprint for source in self.reads],
        )
        return digest(repr(parts))


def with_dependencies(sources: Sequence[CsvSource]) -> tuple[CsvSource, ...]:
    """The sources and all sources that they read, each once and before those that read it."""
    ordered: dict[str, CsvSource] = {}
    for source in sources:
        for needed in (*with_dependencies(source.reads), source):
            ordered.setdefault(needed.name, needed)
    return tuple(ordered.values())


def on_one_line(sql: str) -> str:
    """The statement on one line: its layout does not change its result."""
    return " ".join(sql.split())


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
