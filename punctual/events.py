"""What happened according to clean rows, when, and from when on it was known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from punctual.sources import CsvSource, Vanished, digest, folded, with_dependencies

# Part of every stream's fingerprint: tables of another format become new versions.
_TABLE_FORMAT = 2


@dataclass(frozen=True)
class Events:
    """What happened, when, and from when on it was known.

    `sql` is a SELECT over clean tables, each by its source's name. It gives the `columns`,
    `event_timestamp` (naive UTC, the moment the event describes) and `created_timestamp` (naive
    UTC, the moment it was known). `id` names the columns that identify an event: another row with
    the same id is a newer version of it. `columns` maps every other column, the id's included, to
    its DuckDB type. An event that the SQL gave in an earlier build and gives no longer is withdrawn
    or kept, as `vanished` of the sources says. `known` says in words when an event is known; Feast
    registers it, and `description`, as tags of the feature views of the events.
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
        said = (
            _TABLE_FORMAT,
            self.name,
            folded(self.sql),
            self.id,
            dict(self.columns),
            [source.fingerprint for source in self.sources],
        )
        return digest(repr(said))

    @property
    def vanished(self) -> Vanished:
        """`"keep"` where any of `sources` declares it, else `"withdraw"`."""
        kept = any(source.vanished == "keep" for source in self.sources)
        return "keep" if kept else "withdraw"

    @property
    def all_sources(self) -> tuple[CsvSource, ...]:
        """Every source the events rest on, those first that others read."""
        return with_dependencies(self.sources)
