"""Events: what happened according to clean rows, when, and when it became known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from punctual.sources import CsvSource, Vanished, digest, on_one_line, with_dependencies

# A part of every fingerprint, so that a change of the table format makes new table versions.
_TABLE_FORMAT = 2


@dataclass(frozen=True)
class Events:
    """What happened, when it happened, and when it became known.

    - `name`: unique in the domain; a `count` feature is named after it.
    - `sources`: the sources that `sql` reads, at least one.
    - `sql`: a SELECT over the clean tables of `sources`, each under the name of its source, with
      all their rows. It returns `columns`, `event_timestamp` (the moment the event describes) and
      `created_timestamp` (the moment the event became known): UTC without a zone, never null.
    - `id`: the columns that identify an event. No id is null, and no two rows have the same id.
    - `columns`: column name to DuckDB type, without the two timestamps and with the id.
    - `description`, `known`: what the events are, and when an event becomes known, in words. Feast
      registers both as tags of the feature views of the events; default empty.

    A build at `t` reads the events with `created_timestamp <= t`. If the SQL returns other values
    for an id than in an earlier build, they become a newer version of the event. An event that is
    missing from a build's SQL result is withdrawn or kept, as the sources' `vanished` says. What
    earlier builds knew does not change: a withdrawal, and an event or a version whose
    `created_timestamp` is not later than the previous build, is known from the build that notices
    it. A build raises `InvalidDeclaration` if the SQL does not return what is declared.
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
        """A hash of everything that determines the events of a given file."""
        parts = (
            _TABLE_FORMAT,
            self.name,
            on_one_line(self.sql),
            self.id,
            dict(self.columns),
            [source.fingerprint for source in self.sources],
        )
        return digest(repr(parts))

    @property
    def vanished(self) -> Vanished:
        """`"keep"` if any of `sources` declares it, else `"withdraw"`."""
        kept = any(source.vanished == "keep" for source in self.sources)
        return "keep" if kept else "withdraw"

    @property
    def all_sources(self) -> tuple[CsvSource, ...]:
        """All sources that the events depend on, each after the sources that it reads."""
        return with_dependencies(self.sources)
