"""Feature rows from events on a grid: sliding windows as prefix sums, and the latest event.

An event enters a window at the first grid time at which it has happened and is known. It leaves the
window at the first grid time at or after `event_timestamp + window`, or when a newer version or a
withdrawal of it is known. Sums are over integers and decimals, so that they are exact whatever the
order: a backfill and hourly runs give the same rows.
"""

from __future__ import annotations

from datetime import datetime

import duckdb

from pipelines.windows.additive import windowed_rows
from pipelines.windows.grid import event_versions
from pipelines.windows.latest import (
    last_loss,
    latest_rows,
    uncovered_rows,
    with_several_versions,
)
from punctual.column_types import column_type
from punctual.times import micros
from punctual.windows import Declaration
from stores.tables import DataFile, Table, quoted

_BEGINNING = -(2**60)


def feature_rows(
    connection: duckdb.DuckDBPyConnection,
    declared: Declaration,
    events: Table,
    since: datetime | None,
    until: datetime,
) -> str | None:
    """A SELECT of the view's rows at grid times in `(since, until]`; None where no event matters.

    `since` None means from the beginning. Columns are the join keys, the features and both times.
    The connection is only asked which events a view of the latest event has to read.
    """
    low, high = _BEGINNING if since is None else micros(since), micros(until)
    if declared.aggregations:
        files = _files_of_windows(declared, events.files(), low)
        if not files:
            return None
        return windowed_rows(declared, event_versions(declared, events.scan(files)), low, high)
    rows = _latest(connection, declared, events, low, high)
    return rows and _as_features(declared, rows)


def _latest(
    connection: duckdb.DuckDBPyConnection, declared: Declaration, events: Table, low: int, high: int
) -> str | None:
    every_file = events.files()
    new = [file for file in every_file if file.max_created > low - micros(declared.every)]
    if not new:
        return None
    # A new row has the event time of the version it replaces, or a withdrawal beside it has.
    earliest = min(file.min_event for file in new)
    files = _with_newer_versions(every_file, [f for f in every_file if f.max_event >= earliest])
    recent = events.scan(files)
    rows = latest_rows(declared, event_versions(declared, events.scan(new)), low, high)
    query = last_loss(declared, event_versions(declared, recent), high)
    (lost_at,) = connection.execute(query).fetchone() or (None,)
    if lost_at is None:
        return rows
    # Where an entity loses an event in this run, the newest that remains may be of any age.
    remaining = events.scan() if lost_at > low else recent
    changed = with_several_versions(declared, recent) if low == _BEGINNING else events.scan(new)
    return f"{rows} UNION ALL {uncovered_rows(declared, changed, recent, remaining, low, high)}"


def _files_of_windows(declared: Declaration, files: list[DataFile], low: int) -> list[DataFile]:
    """The files whose events can change a window at a grid time after `low`."""
    # The last grid time of the run before may be up to a grid's step before `low`. What had left
    # the longest window by then, and was known, changes nothing after it.
    reached = low - micros(declared.every)
    horizon = reached - micros(declared.longest_window)
    matter = [file for file in files if file.max_event > horizon or file.max_created > reached]
    return _with_newer_versions(files, matter)


def _with_newer_versions(files: list[DataFile], matter: list[DataFile]) -> list[DataFile]:
    """The files that can hold newer versions of the events in those that matter."""
    first = min((file.min_created for file in matter), default=2**62)
    return [file for file in files if file.max_created >= first]


def _as_features(declared: Declaration, rows: str) -> str:
    """The rows with their decimals as doubles, since Feast has no decimal numbers."""
    decimals = [
        f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}"
        for name in declared.fields
        if column_type(declared.events.columns[name]).kind == "decimal"
    ]
    return f"SELECT * REPLACE ({', '.join(decimals)}) FROM ({rows})" if decimals else rows
