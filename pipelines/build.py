"""Builds a domain's tables up to a time, incrementally: clean rows, events, feature rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipelines.clean.cleaning import SourceReport, clean_source
from pipelines.ingest import Ingested, ingest
from pipelines.windows.feature_rows import feature_rows
from punctual.events import Events
from punctual.home import Home
from punctual.loaded_domain import LoadedDomain
from punctual.locks import exclusive_lock
from punctual.progress import Progress
from punctual.sources import CsvSource
from punctual.times import aware
from punctual.use_case import check_horizon
from punctual.windows import Declaration, declaration_of
from stores.models import earlier_views
from stores.tables import (
    CREATED,
    EVENT,
    WITHDRAWN,
    Table,
    connect,
    event_table,
    known_events_sql,
    quoted,
)


@dataclass(frozen=True)
class BuiltView:
    """The result of a build for one feature view."""

    view: str
    new_rows: int
    rows: int
    built_until: datetime


@dataclass(frozen=True)
class Built:
    """The result of a build for a domain."""

    domain: str
    as_of: datetime
    sources: list[SourceReport]
    events: list[Ingested]
    views: list[BuiltView]


def view_table(home: Home, declared: Declaration) -> Table:
    """The table of a feature view's current definition."""
    return Table.for_definition(
        home.tables, declared.name, declared.fingerprint, declared.join_keys
    )


def build(domain: LoadedDomain, as_of: datetime, progress: Progress) -> Built:
    """Build every table of the domain up to `as_of` (aware UTC).

    A table that is already built up to `as_of` stays unchanged. Raises `BrokenSource` before any
    table changes, `InvalidDeclaration` before any feature table changes, and `AlreadyRunning` while
    another build runs.
    """
    as_of = aware(as_of)
    with exclusive_lock(domain.home, "build"):
        reports: dict[str, SourceReport] = {}
        progress.each(
            "clean",
            domain.sources,
            _name,
            lambda each: reports.update(
                {each.name: clean_source(domain.home, domain.name, each, reports)}
            ),
        )
        events = progress.each(
            "events",
            domain.events,
            _name,
            lambda each: ingest(domain, each, list(reports.values()), as_of),
        )
        for use_case in domain.use_cases.values():
            check_horizon(use_case, _label_delays(domain, use_case.name))
        views = progress.each(
            "features",
            [*domain.declarations, *_earlier_declarations(domain)],
            _name,
            lambda each: _build_view(domain, each, as_of),
        )
    return Built(domain.name, as_of, list(reports.values()), events, views)


def _earlier_declarations(domain: LoadedDomain) -> list[Declaration]:
    """Definitions that a model in use reads and that the domain has changed since its training."""
    return [declared for view in earlier_views(domain) if (declared := declaration_of(view))]


def _name(declared: CsvSource | Events | Declaration) -> str:
    return declared.name


def _build_view(domain: LoadedDomain, declared: Declaration, as_of: datetime) -> BuiltView:
    table, events = view_table(domain.home, declared), event_table(domain, declared.events)
    since = table.built_until
    new_rows = 0
    if since is None or since < as_of:
        with connect() as connection:
            select = feature_rows(connection, declared, events, since, as_of)
            if select is None:
                table.manifest.commit(table.version, [], as_of)
            else:
                new_rows = table.publish(connection, select, as_of)
    return BuiltView(declared.name, new_rows, table.rows(), table.built_until or as_of)


def _label_delays(domain: LoadedDomain, name: str) -> list[int]:
    """Microseconds from prediction time to the first known label, for each labelled event."""
    use_case = domain.use_cases[name]
    labels = event_table(domain, use_case.label.of)
    requests = event_table(domain, use_case.requests)
    built = requests.built_until
    if built is None or not labels.files():
        return []
    ids = ", ".join(map(quoted, use_case.requests.id))
    known = known_events_sql(requests, use_case.requests, as_of=built)
    # A correction does not delay a label: its first version says when the label became known.
    first_labels = f"""
        SELECT {ids}, min({CREATED}) AS {CREATED}
        FROM ({labels.scan()})
        WHERE {quoted(use_case.label.column)} IS NOT NULL AND NOT {WITHDRAWN}
        GROUP BY {ids}"""
    with connect() as connection:
        rows = connection.execute(
            f"""
            SELECT epoch_us(label.{CREATED}) - epoch_us(request.{EVENT}) AS delay
            FROM ({first_labels}) AS label
            JOIN ({known}) AS request USING ({ids})
            ORDER BY delay"""
        ).fetchnumpy()
    return [int(delay) for delay in rows["delay"]]
