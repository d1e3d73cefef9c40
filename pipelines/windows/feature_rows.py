"""Selects the feature rows of a view, and the event files that a run has to read.

An event enters a window at the first grid time at which it has happened and is known. The event
leaves the window at the first grid time at or after `event_timestamp + window`, or when a newer
version or a withdrawal of it is known. Sums are over integers and decimals and therefore exact in
any order: a backfill and hourly runs give the same rows.
"""

from __future__ import annotations

from datetime import datetime

import duckdb

from pipelines.windows.additive import windowed_rows
from pipelines.windows.grid import event_versions
from pipelines.windows.latest import (
    changed_event_ids,
    last_removal,
    latest_rows,
    replacement_rows,
)
from punctual.column_types import column_type
from punctual.times import micros
from punctual.windows import Declaration
from stores.tables import CREATED, DataFile, Table, quoted

_BEGINNING = -(2**60)


def feature_rows(
    connection: duckdb.DuckDBPyConnection,
    declared: Declaration,
    events: Table,
    since: datetime | None,
    until: datetime,
) -> str | None:
    """A SELECT of the view's rows at grid times in `(since, until]`; None if no event affects them.

    `since` None means from the beginning. Columns are the join keys, the features and both times.
    For a view of the latest event, a query on `connection` finds the events to read.
    """
    low, high = _BEGINNING if since is None else micros(since), micros(until)
    if declared.aggregations:
        rows = _rows_of_windows(declared, events, low)
        return rows and windowed_rows(declared, event_versions(declared, rows), low, high)
    rows = _latest(connection, declared, events, low, high)
    return rows and _as_features(declared, rows)


def _latest(
    connection: duckdb.DuckDBPyConnection, declared: Declaration, events: Table, low: int, high: int
) -> str | None:
    every_file = events.files()
    new = [file for file in every_file if file.max_created > low - micros(declared.every)]
    if not new:
        return None
    # The event time of a replaced version is in a new file: as that of its newer version, or of the
    # withdrawal that comes with a correction of the event time.
    earliest = min(file.min_event for file in new)
    files = _with_newer_versions(every_file, [f for f in every_file if f.max_event >= earliest])
    recent = events.scan(files)
    rows = latest_rows(declared, event_versions(declared, events.scan(new)), low, high)
    query = last_removal(declared, event_versions(declared, recent), high)
    (removed_at,) = connection.execute(query).fetchone() or (None,)
    if removed_at is None:
        return rows
    # If an entity loses an event in this run, its newest remaining event may be of any age.
    remaining = events.scan() if removed_at > low else recent
    changed = changed_event_ids(declared, recent) if low == _BEGINNING else events.scan(new)
    return f"{rows} UNION ALL {replacement_rows(declared, changed, recent, remaining, low, high)}"


def _rows_of_windows(declared: Declaration, events: Table, low: int) -> str | None:
    """A SELECT of the events, with newer versions, that can change a window after `low`.

    None if there are none.
    """
    every_file = events.files()
    # The last grid time of the previous run may be up to one grid step before `low`. An event that
    # was known and had left the longest window by then affects no later row.
    last_grid_time = low - micros(declared.every)
    horizon = last_grid_time - micros(declared.longest_window)
    files = _with_newer_versions(
        every_file,
        [f for f in every_file if f.max_event > horizon or f.max_created > last_grid_time],
    )
    if not files:
        return None
    # An event after the horizon was created at least the smallest lag after its own time.
    created_after = min(last_grid_time, horizon + min(file.min_lag for file in files))
    if created_after < min(file.min_created for file in files):
        return events.scan(files)
    return f"SELECT * FROM ({events.scan(files)}) WHERE {CREATED} > make_timestamp({created_after})"


def _with_newer_versions(files: list[DataFile], chosen: list[DataFile]) -> list[DataFile]:
    """The files that can have versions of the chosen files' events, or newer versions of them."""
    first = min((file.min_created for file in chosen), default=2**62)
    return [file for file in files if file.max_created >= first]


def _as_features(declared: Declaration, rows: str) -> str:
    """The rows with decimals cast to DOUBLE: Feast has no decimal type."""
    decimals = [
        f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}"
        for name in declared.fields
        if column_type(declared.events.columns[name]).kind == "decimal"
    ]
    return f"SELECT * REPLACE ({', '.join(decimals)}) FROM ({rows})" if decimals else rows
