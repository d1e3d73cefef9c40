"""Events as they were known at a given time; the only reader of streams of events.

A row of a stream's table is a version of an event. A version is valid from its `created_timestamp`
until the `created_timestamp` of the event's next version. A version with `is_withdrawn` removes the
event from the stream until a later version restores it.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from punctual.errors import NotBuilt
from punctual.events import Events
from punctual.loaded_domain import LoadedDomain
from punctual.times import aware, micros
from stores.tables.manifest import DataFile
from stores.tables.sql import connect, quoted, timestamp
from stores.tables.table import CREATED, EVENT, WITHDRAWN, Table

SUPERSEDED = "superseded_timestamp"


def event_table(domain: LoadedDomain, events: Events) -> Table:
    """The table of a stream, in the version of the stream's current definition."""
    return Table.for_definition(
        domain.home.tables, f"{domain.name}.{events.name}", events.fingerprint, events.id
    )


def built_until(domain: LoadedDomain, events: Events) -> datetime:
    """The time up to which the stream is built. Raises `NotBuilt` before its first build."""
    built = event_table(domain, events).built_until
    if built is None:
        raise NotBuilt(
            f"the events '{events.name}' are not built as they are defined now;"
            f" run: punctual features build {domain.name}."
        )
    return built


def known_events(
    domain: LoadedDomain,
    events: Events,
    *,
    as_of: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pa.Table:
    """Events with an `event_timestamp` in `(since, until]`, as they were known at `as_of`.

    Each event has the values of its newest version known at `as_of`; events withdrawn by then are
    left out. Rows are in order of event time and id; both times are aware UTC. Raises `NotBuilt`.
    """
    built_until(domain, events)
    table = event_table(domain, events)
    known = known_events_sql(table, events, as_of=as_of, since=since, until=until)
    aware_times = ", ".join(f"timezone('UTC', {name}) AS {name}" for name in (EVENT, CREATED))
    statement = f"""
        SELECT * REPLACE ({aware_times})
        FROM ({known})
        ORDER BY {", ".join([EVENT, *map(quoted, events.id)])}
    """
    with connect() as connection:
        return connection.sql(statement).to_arrow_table()


def known_events_sql(
    table: Table,
    events: Events,
    *,
    as_of: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    commit: int | None = None,
) -> str:
    """`known_events` as a SELECT over the table's files at `commit` (the newest by default).

    The columns are those that the stream declares, and both times in naive UTC.
    """
    columns = {**events.columns, EVENT: "TIMESTAMP", CREATED: "TIMESTAMP"}
    files = _files_of_period(table, as_of, since, until, commit)
    if not files:
        empty = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in columns.items())
        return f"SELECT {empty} WHERE false"
    rows = table.scan(files)
    if not table.has_withdrawals:
        rows = f"SELECT *, false AS {WITHDRAWN} FROM ({rows})"
    known = f"SELECT * FROM ({rows}) WHERE {CREATED} <= {timestamp(aware(as_of))}"
    # A newer version may have another event time, so that the newest version is chosen before the
    # period applies.
    conditions = [f"{SUPERSEDED} IS NULL", f"{WITHDRAWN} IS NOT TRUE"]
    conditions += [f"{EVENT} > {timestamp(aware(since))}"] if since is not None else []
    conditions += [f"{EVENT} <= {timestamp(aware(until))}"] if until is not None else []
    return f"""
        SELECT {", ".join(map(quoted, columns))}
        FROM ({version_lifetimes(known, events.id)})
        WHERE {" AND ".join(conditions)}
    """


def version_lifetimes(rows: str, ids: tuple[str, ...]) -> str:
    """A SELECT that adds `superseded_timestamp`, when the event's next version replaced the row.

    Withdrawals are versions too. The column is null for an event's newest version. A withdrawal
    with the same `created_timestamp` as another version precedes that version.
    """
    return f"""
        SELECT
            *,
            lead({CREATED}) OVER (
                PARTITION BY {", ".join(map(quoted, ids))}
                ORDER BY {CREATED}, {WITHDRAWN} DESC
            ) AS {SUPERSEDED}
        FROM ({rows})
    """


def _files_of_period(
    table: Table,
    as_of: datetime,
    since: datetime | None,
    until: datetime | None,
    commit: int | None,
) -> list[DataFile]:
    """The files that may have versions, known at `as_of`, of events in `(since, until]`.

    An event is in the period if any of its versions is.
    """
    last = micros(aware(as_of))
    low, high = (None if bound is None else micros(aware(bound)) for bound in (since, until))
    files = [file for file in table.files(commit) if file.min_created <= last]
    inside = [
        file
        for file in files
        if (low is None or file.max_event > low) and (high is None or file.min_event <= high)
    ]
    # A version that moves an event out of the period is newer than the version within the period.
    first = min((file.min_created for file in inside), default=2**62)
    return [file for file in files if file.max_created >= first]
