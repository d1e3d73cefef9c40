"""Events of a use case as they were known at a moment: the requests to predict for, and the labels that came."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from punctual.errors import NotBuilt
from punctual.events import Events
from punctual.loaded_domain import LoadedDomain
from punctual.times import aware, micros
from stores.tables.sql import connect, quoted
from stores.tables.table import CREATED, EVENT, Table


def event_table(domain: LoadedDomain, events: Events) -> Table:
    """The table of a stream as its definition makes it."""
    return Table.for_definition(
        domain.home.tables, f"{domain.name}.{events.name}", events.fingerprint, events.id
    )


def built_until(domain: LoadedDomain, events: Events) -> datetime:
    """How far the stream is known. Raises `NotBuilt` where it is not at all."""
    built = event_table(domain, events).built_until
    if built is None:
        raise NotBuilt(
            f"the events '{events.name}' are not built as they are defined now; run: punctual features build {domain.name}."
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
    """Each event as its newest version known at `as_of`, with an `event_timestamp` in `(since, until]`.

    In order of event time and id, both times aware UTC. Raises `NotBuilt`.
    """
    built_until(domain, events)
    table = event_table(domain, events)
    low, high = (None if moment is None else micros(aware(moment)) for moment in (since, until))
    files = [file for file in table.files() if file.min_created <= micros(aware(as_of))]
    inside = [
        file
        for file in files
        if (low is None or file.max_event > low) and (high is None or file.min_event <= high)
    ]
    # A version that takes an event out of the period became known after the one that is in it.
    first = min((file.min_created for file in inside), default=2**62)
    files = [file for file in files if file.max_created >= first]
    if not files:
        return _nothing(events)
    ids = ", ".join(map(quoted, events.id))
    columns = ", ".join(map(quoted, events.columns))
    bounds = [f"{EVENT} > make_timestamp({low})"] if low is not None else []
    bounds += [f"{EVENT} <= make_timestamp({high})"] if high is not None else []
    times = ", ".join(f"timezone('UTC', {name}) AS {name}" for name in (EVENT, CREATED))
    with connect() as connection:
        # A newer version may have moved the event's time, so it is chosen before the bounds are asked.
        return connection.sql(
            f"SELECT {columns}, {times} FROM (SELECT * FROM ({table.scan(files)}) WHERE {CREATED} <= make_timestamp({micros(aware(as_of))})"
            f" QUALIFY row_number() OVER (PARTITION BY {ids} ORDER BY {CREATED} DESC) = 1)"
            f"{' WHERE ' + ' AND '.join(bounds) if bounds else ''} ORDER BY {EVENT}, {ids}"
        ).to_arrow_table()


def _nothing(events: Events) -> pa.Table:
    """No events, in the types that the stream declares."""
    columns = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in events.columns.items())
    with connect() as connection:
        return connection.sql(
            f"SELECT {columns}, NULL::TIMESTAMPTZ AS {EVENT}, NULL::TIMESTAMPTZ AS {CREATED} WHERE false"
        ).to_arrow_table()
