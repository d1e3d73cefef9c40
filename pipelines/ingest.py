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
from punctual.loaded_domain import LoadedDomain
from punctual.times import micros
from stores.tables import (
    CREATED,
    EVENT,
    SUPERSEDED,
    WITHDRAWN,
    Table,
    connect,
    event_table,
    quoted,
    timestamp,
    version_lifetimes,
)


@dataclass(frozen=True)
class Ingested:
    """What a run took in of one stream.

    `new` counts events that were never there, `late` those of them that should have been known by
    an earlier run, `corrected` newer versions of earlier events (one that returns after its
    withdrawal included), `withdrawn` events that the sources no longer have. `kept` is not of this
    run alone: it counts all events of the table that the sources no longer have, and that stay
    because a source declares `vanished="keep"`.
    """

    events: str
    new: int
    late: int
    corrected: int
    withdrawn: int
    kept: int
    first_load: bool


class Taken(msgspec.Struct):
    """What a run read: the table's version, each source's stamp, and the rule for vanished events.

    `kept` is that of `Ingested`. `is_pending` says that the sources hold another version of an
    event in the table, which is known only later.
    """

    version: int
    stamps: dict[str, str]
    vanished: str
    kept: int = 0
    is_pending: bool = False

    def same_input(self, other: Taken) -> bool:
        """Whether both runs read the same rows under the same declaration."""
        return (self.version, self.stamps, self.vanished) == (
            other.version,
            other.stamps,
            other.vanished,
        )


def ingest(
    domain: LoadedDomain, events: Events, reports: list[SourceReport], as_of: datetime
) -> Ingested:
    """Append what became known of the stream by `as_of` (aware UTC) and is not in its table.

    The domain's rule says when an event was known. A moment that is already closed stays closed:
    what should have been known by the last run and was not there, what differs from what was there,
    and what is gone, is known from `as_of` on.
    """
    table = event_table(domain, events)
    closed = table.built_until
    marker = domain.home.path("clean", domain.name, f"{events.name}.ingested.json")
    before = msgspec.json.decode(marker.read_bytes(), type=Taken) if marker.exists() else None
    if closed is not None and closed >= as_of:
        kept = before.kept if before else 0
        return Ingested(events.name, 0, 0, 0, 0, kept, first_load=False)
    stamps = {report.source: report.stamp for report in reports}
    used = {source.name: stamps[source.name] for source in events.all_sources}
    taken = Taken(table.version.version, used, events.vanished)
    with connect() as connection:
        register_clean(connection, domain.home, domain.name, events.all_sources)
        if closed is None:
            _known_events(connection, events, None, as_of)
            _take_all(connection)
        elif before is not None and not before.is_pending and before.same_input(taken):
            # Where no file changed, what was known by the last run is in the table.
            taken.kept = before.kept
            _known_events(connection, events, closed, as_of)
            _take_all(connection)
        else:
            _known_events(connection, events, None, as_of)
            _compare(connection, events, table, closed, as_of)
            taken.kept, taken.is_pending = _not_taken(connection, events, as_of)
        counts = dict(
            connection.execute("SELECT __kind, count(*) FROM __new GROUP BY __kind").fetchall()
        )
        # The marker is there only when the table has what it says, wherever a run dies.
        marker.unlink(missing_ok=True)
        table.publish(connection, "SELECT * EXCLUDE (__kind) FROM __new", as_of)
    write_whole(marker, msgspec.json.encode(taken))
    late = counts.get("late", 0)
    return Ingested(
        events.name,
        new=counts.get("new", 0) + late,
        late=late,
        corrected=counts.get("corrected", 0),
        withdrawn=counts.get("withdrawn", 0),
        kept=taken.kept,
        first_load=closed is None,
    )


def in_the_end(home: Home, domain: str, events: Events, ids: pa.Table) -> pa.Table:
    """What a stream says of some ids once everything is known, whatever the clock; for showing what
    then really happened.

    `ids` has the stream's id columns. Nothing is published: no feature, label or training set ever
    sees these rows.
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
    """`__known`: what the stream's SQL gives, in its declared types, as far as the rule lets it be
    known in `(since, as_of]`.
    """
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
            f"{timeless[0]} events have no {EVENT} or no {CREATED}; leave them out or say when"
            " they are known."
        )
    ids = ", ".join(map(quoted, events.id))
    nameless = connection.execute(
        "SELECT count(*) FROM __all WHERE"
        f" {' OR '.join(f'{quoted(name)} IS NULL' for name in events.id)}"
    ).fetchone()
    if nameless and nameless[0]:
        problems.append(
            f"{nameless[0]} events have no {' or no '.join(events.id)}, so that a correction would"
            " not find them; leave them out."
        )
    repeated = connection.execute(
        f"SELECT {ids}, count(*) FROM __all GROUP BY {ids} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if repeated:
        problems.append(
            f"id {', '.join(events.id)} = {repeated[:-1]} stands for {repeated[-1]} events;"
            " expected one."
        )
    if problems:
        raise InvalidDeclaration(f"events '{events.name}'", problems)
    connection.execute(
        f"CREATE TABLE __known AS FROM __all WHERE {CREATED} <= make_timestamp({micros(as_of)})"
    )


def _take_all(connection: duckdb.DuckDBPyConnection) -> None:
    """`__new`: all that is known, as new events."""
    connection.execute(
        f"CREATE TABLE __new AS SELECT *, false AS {WITHDRAWN}, 'new' AS __kind FROM __known"
    )


def _compare(
    connection: duckdb.DuckDBPyConnection,
    events: Events,
    table: Table,
    closed: datetime,
    as_of: datetime,
) -> None:
    """`__new`: events that are not in the table, newer versions of those that are, withdrawals.

    `__here` is the newest version of each event in the table. A version with another event time
    than the one it replaces comes with a withdrawal of that one: whatever ends at a moment then has
    a row with its event time, by which readers choose files.
    """
    ids = ", ".join(map(quoted, events.id))
    same = _all_equal((*sorted(events.columns), EVENT))
    rows = table.scan() if table.files() else f"SELECT *, false AS {WITHDRAWN} FROM __known LIMIT 0"
    connection.execute(
        f"CREATE TABLE __here AS SELECT * EXCLUDE ({SUPERSEDED})"
        f" FROM ({version_lifetimes(rows, events.id)}) WHERE {SUPERSEDED} IS NULL"
    )
    connection.execute(
        f"""CREATE TABLE __new AS
        SELECT k.* REPLACE (CASE WHEN k.{CREATED} <= {timestamp(closed)}
                THEN {timestamp(as_of)} ELSE k.{CREATED} END AS {CREATED}),
            false AS {WITHDRAWN},
            CASE WHEN h.{EVENT} IS NOT NULL THEN 'corrected'
                WHEN k.{CREATED} <= {timestamp(closed)} THEN 'late' ELSE 'new' END AS __kind
        FROM __known AS k LEFT JOIN __here AS h USING ({ids})
        WHERE h.{EVENT} IS NULL OR h.{WITHDRAWN} OR NOT ({same})"""
    )
    connection.execute(
        f"""INSERT INTO __new BY NAME
        SELECT h.* REPLACE (n.{CREATED} AS {CREATED}, true AS {WITHDRAWN}), 'moved' AS __kind
        FROM __here AS h JOIN __new AS n USING ({ids})
        WHERE NOT h.{WITHDRAWN} AND h.{EVENT} <> n.{EVENT}"""
    )
    if events.vanished == "withdraw":
        connection.execute(
            f"""INSERT INTO __new BY NAME
            SELECT * REPLACE ({timestamp(as_of)} AS {CREATED}, true AS {WITHDRAWN}),
                'withdrawn' AS __kind
            FROM __here ANTI JOIN __all USING ({ids}) WHERE NOT {WITHDRAWN}"""
        )


def _not_taken(
    connection: duckdb.DuckDBPyConnection, events: Events, as_of: datetime
) -> tuple[int, bool]:
    """How many events are gone and kept, and whether any has a version that is known only later."""
    ids = ", ".join(map(quoted, events.id))
    gone, later = connection.execute(
        f"""SELECT count(*) FILTER (a.{CREATED} IS NULL),
            count(*) FILTER (a.{CREATED} > {timestamp(as_of)})
        FROM __here AS h LEFT JOIN __all AS a USING ({ids}) WHERE NOT h.{WITHDRAWN}"""
    ).fetchone() or (0, 0)
    return (gone if events.vanished == "keep" else 0), later > 0


def _all_equal(columns: tuple[str, ...]) -> str:
    """A condition that holds where the columns of `k` and `h` are equal, nulls included."""
    return " AND ".join(
        f"k.{quoted(name)} IS NOT DISTINCT FROM h.{quoted(name)}" for name in columns
    )
