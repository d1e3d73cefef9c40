"""Clean rows become events with two times; an event's knowledge time is given once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import msgspec
import pyarrow as pa

from pipelines.clean.cleaning import SourceReport, register_clean, write_whole
from punctual.errors import InvalidDeclaration
from punctual.events import Events
from punctual.home import Home
from punctual.times import micros
from stores.tables import CREATED, EVENT, Table, connect, quoted


@dataclass(frozen=True)
class Ingested:
    """What a run took in of one stream: new events, late ones among them, corrections of earlier ones."""

    events: str
    new: int
    late: int
    corrected: int
    first_load: bool


def event_table(home: Home, domain: str, events: Events) -> Table:
    """The table of a stream as its definition makes it."""
    return Table.for_definition(
        home.tables, f"{domain}.{events.name}", events.fingerprint, events.id
    )


def ingest(
    home: Home, domain: str, events: Events, reports: list[SourceReport], as_of: datetime
) -> Ingested:
    """Append the events that became known by `as_of` (aware UTC) and are not in the stream's table.

    The domain's rule says when an event was known. A moment that is already closed stays closed: what should have
    been known by the last run and was not there, and what differs from what was there, is known from `as_of` on.
    """
    table = event_table(home, domain, events)
    closed = table.built_until
    if closed is not None and closed >= as_of:
        return Ingested(events.name, 0, 0, 0, first_load=False)
    stamps = {report.source: report.stamp for report in reports}
    used = {source.name: stamps[source.name] for source in events.all_sources}
    marker = home.path("clean", domain, f"{events.name}.ingested.json")
    unchanged = (
        closed is not None
        and marker.exists()
        and msgspec.json.decode(marker.read_bytes()) == [table.version.version, used]
    )
    with connect() as connection:
        register_clean(connection, home, domain, events.all_sources)
        # Where no file changed, what was known by the last run is in the table.
        _known_events(connection, events, closed if unchanged else None, as_of)
        if closed is None or unchanged:
            connection.execute(
                "CREATE TABLE __new AS SELECT *, false AS __late, false AS __corrected FROM __known"
            )
        else:
            _compare(connection, events, table, closed, as_of)
        new, late, corrected = connection.execute(
            "SELECT count(*) FILTER (NOT __corrected), count(*) FILTER (__late AND NOT __corrected),"
            " count(*) FILTER (__corrected) FROM __new"
        ).fetchone() or (0, 0, 0)
        # The marker stands only for what is in the table, wherever a run dies.
        marker.unlink(missing_ok=True)
        table.publish(connection, "SELECT * EXCLUDE (__late, __corrected) FROM __new", as_of)
    write_whole(marker, msgspec.json.encode([table.version.version, used]))
    return Ingested(events.name, new, late, corrected, first_load=closed is None)


def in_the_end(home: Home, domain: str, events: Events, ids: pa.Table) -> pa.Table:
    """What a stream says of some ids once everything is known, whatever the clock; for showing what then really happened.

    `ids` has the stream's id columns. Nothing is published: no feature, label or training set ever sees these rows.
    """
    with connect() as connection:
        register_clean(connection, home, domain, events.all_sources)
        connection.register("__ids", ids)
        columns = ", ".join(map(quoted, events.id))
        return connection.sql(
            f"SELECT e.* FROM ({events.sql}) AS e SEMI JOIN __ids USING ({columns})"
        ).to_arrow_table()


def _known_events(
    connection: duckdb.DuckDBPyConnection, events: Events, since: datetime | None, as_of: datetime
) -> None:
    """`__known`: what the stream's SQL gives, in its declared types, as far as the rule lets it be known in `(since, as_of]`."""
    columns = {**events.columns, EVENT: "TIMESTAMP", CREATED: "TIMESTAMP"}
    cast = ", ".join(
        f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in columns.items()
    )
    try:
        later = f" WHERE {CREATED} > make_timestamp({micros(since)})" if since else ""
        connection.execute(f"CREATE TABLE __all AS SELECT {cast} FROM ({events.sql}){later}")
    except duckdb.Error as error:
        raise InvalidDeclaration(
            f"events '{events.name}'", [f"their SQL does not give the declared columns: {error}"]
        ) from error
    problems = []
    timeless = connection.execute(
        f"SELECT count(*) FROM __all WHERE {EVENT} IS NULL OR {CREATED} IS NULL"
    ).fetchone()
    if timeless and timeless[0]:
        problems.append(
            f"{timeless[0]} events have no {EVENT} or no {CREATED}; leave them out or say when they are known."
        )
    ids = ", ".join(map(quoted, events.id))
    nameless = connection.execute(
        f"SELECT count(*) FROM __all WHERE {' OR '.join(f'{quoted(name)} IS NULL' for name in events.id)}"
    ).fetchone()
    if nameless and nameless[0]:
        problems.append(
            f"{nameless[0]} events have no {' or no '.join(events.id)}, so that a correction would not find them; leave them out."
        )
    repeated = connection.execute(
        f"SELECT {ids}, count(*) FROM __all GROUP BY {ids} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if repeated:
        problems.append(
            f"id {', '.join(events.id)} = {repeated[:-1]} stands for {repeated[-1]} events; expected one."
        )
    if problems:
        raise InvalidDeclaration(f"events '{events.name}'", problems)
    connection.execute(
        f"CREATE TABLE __known AS FROM __all WHERE {CREATED} <= make_timestamp({micros(as_of)})"
    )


def _compare(
    connection: duckdb.DuckDBPyConnection,
    events: Events,
    table: Table,
    closed: datetime,
    as_of: datetime,
) -> None:
    """`__new`: events that are not in the table, and newer versions of those that are."""
    ids = ", ".join(map(quoted, events.id))
    columns = (*sorted(events.columns), EVENT)
    here = table.scan() if table.files() else "SELECT * FROM __known WHERE false"
    connection.execute(
        f"CREATE TABLE __here AS SELECT {ids}, {_packed(columns)} AS __content FROM ({here})"
        f" QUALIFY row_number() OVER (PARTITION BY {ids} ORDER BY {CREATED} DESC) = 1"
    )
    connection.execute(
        f"CREATE TABLE __new AS SELECT k.* REPLACE (CASE WHEN {CREATED} > make_timestamp({micros(closed)}) THEN {CREATED}"
        f" ELSE make_timestamp({micros(as_of)}) END AS {CREATED}),"
        f" k.{CREATED} <= make_timestamp({micros(closed)}) AS __late, h.__content IS NOT NULL AS __corrected"
        f" FROM __known AS k LEFT JOIN __here AS h USING ({ids})"
        f" WHERE h.__content IS NULL OR h.__content IS DISTINCT FROM {_packed(columns, 'k.')}"
    )


def _packed(columns: tuple[str, ...], prefix: str = "") -> str:
    """The columns as one value, which compares equal where all of them do, nulls included."""
    return (
        f"struct_pack({', '.join(f'{quoted(name)} := {prefix}{quoted(name)}' for name in columns)})"
    )
