"""Appends clean rows to event tables as versions with an event time and a knowledge time.

The knowledge time of a version is set once and never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import msgspec
import pyarrow as pa

from pipelines.clean.cleaning import SourceReport, register_clean, write_atomically
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
    """The result of a run for one stream of events.

    `new` counts events that the table did not have, `late` those of them that should have been
    known by an earlier run, `corrected` newer versions of events (including an event that returns
    after its withdrawal), `withdrawn` events that the sources no longer have. `kept` counts all
    events of the table, from any run, that the sources no longer have and that stay because a
    source declares `vanished="keep"`.
    """

    events: str
    new: int
    late: int
    corrected: int
    withdrawn: int
    kept: int
    first_load: bool


class IngestedInput(msgspec.Struct):
    """The input of a run: the table's version, each source's stamp, the rule for vanished events.

    `kept` is as in `Ingested`. `is_pending` says that the sources have a newer version of an event
    of the table that becomes known after the run's `as_of`.
    """

    version: int
    stamps: dict[str, str]
    vanished: str
    kept: int = 0
    is_pending: bool = False

    def same_input(self, other: IngestedInput) -> bool:
        """Whether both runs read the same rows under the same declaration."""
        return (self.version, self.stamps, self.vanished) == (
            other.version,
            other.stamps,
            other.vanished,
        )


def ingest(
    domain: LoadedDomain, events: Events, reports: list[SourceReport], as_of: datetime
) -> Ingested:
    """Append versions that became known by `as_of` (aware UTC) and are not in the stream's table.

    The domain's rule says when an event became known. The past stays as it was: an event that the
    last run should have had, a changed event and a withdrawal become known at `as_of`. Raises
    `InvalidDeclaration` if the stream's SQL does not give valid events.
    """
    table = event_table(domain, events)
    built_until = table.built_until
    marker = domain.home.path("clean", domain.name, f"{events.name}.ingested.json")
    before = (
        msgspec.json.decode(marker.read_bytes(), type=IngestedInput) if marker.exists() else None
    )
    if built_until is not None and built_until >= as_of:
        kept = before.kept if before else 0
        return Ingested(events.name, 0, 0, 0, 0, kept, first_load=False)
    stamps = {report.source: report.stamp for report in reports}
    used = {source.name: stamps[source.name] for source in events.all_sources}
    read = IngestedInput(table.version.version, used, events.vanished)
    with connect() as connection:
        register_clean(connection, domain.home, domain.name, events.all_sources)
        if built_until is None:
            _create_known(connection, events, None, as_of)
            _create_new_from_known(connection)
        elif before is not None and not before.is_pending and before.same_input(read):
            # With unchanged input, the table already has what was known by the last run.
            read.kept = before.kept
            _create_known(connection, events, built_until, as_of)
            _create_new_from_known(connection)
        else:
            _create_known(connection, events, None, as_of)
            _create_new_from_changes(connection, events, table, built_until, as_of)
            read.kept, read.is_pending = _kept_and_pending(connection, events, as_of)
        counts = dict(
            connection.execute("SELECT __kind, count(*) FROM __new GROUP BY __kind").fetchall()
        )
        # The old marker is deleted first: after a crash no marker describes other rows.
        marker.unlink(missing_ok=True)
        table.publish(connection, "SELECT * EXCLUDE (__kind) FROM __new", as_of)
    write_atomically(marker, msgspec.json.encode(read))
    late = counts.get("late", 0)
    return Ingested(
        events.name,
        new=counts.get("new", 0) + late,
        late=late,
        corrected=counts.get("corrected", 0),
        withdrawn=counts.get("withdrawn", 0),
        kept=read.kept,
        first_load=built_until is None,
    )


def final_events(home: Home, domain: str, events: Events, ids: pa.Table) -> pa.Table:
    """The events with the given ids, including those that become known in the future.

    `ids` has the stream's id columns. For showing the true outcome beside a prediction: the rows
    are not published, so no feature, label or training set uses them.
    """
    with connect() as connection:
        register_clean(connection, home, domain, events.all_sources)
        connection.register("__ids", ids)
        columns = ", ".join(map(quoted, events.id))
        return connection.sql(
            f"SELECT event.* FROM ({events.sql}) AS event SEMI JOIN __ids USING ({columns})"
        ).to_arrow_table()


def _create_known(
    connection: duckdb.DuckDBPyConnection, events: Events, since: datetime | None, as_of: datetime
) -> None:
    """Create `__all`, the stream's events in declared types, and `__known`, those known by `as_of`.

    With `since`, both have only the events that became known after `since`.
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
            f"events '{events.name}'",
            [f"their SQL does not give the columns {', '.join(columns)}: {error}"],
        ) from error
    problems = []
    timeless = connection.execute(
        f"SELECT count(*) FROM __all WHERE {EVENT} IS NULL OR {CREATED} IS NULL"
    ).fetchone()
    if timeless and timeless[0]:
        problems.append(
            f"{timeless[0]} events have no {EVENT} or no {CREATED}; leave them out or set when"
            " they are known."
        )
    ids = ", ".join(map(quoted, events.id))
    nameless = connection.execute(
        "SELECT count(*) FROM __all WHERE"
        f" {' OR '.join(f'{quoted(name)} IS NULL' for name in events.id)}"
    ).fetchone()
    if nameless and nameless[0]:
        problems.append(
            f"{nameless[0]} events have no {' or no '.join(events.id)}, so corrections cannot be"
            " matched to them; leave them out."
        )
    repeated = connection.execute(
        f"SELECT {ids}, count(*) FROM __all GROUP BY {ids} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if repeated:
        problems.append(
            f"id {', '.join(events.id)} = {repeated[:-1]} identifies {repeated[-1]} events;"
            " expected one."
        )
    if problems:
        raise InvalidDeclaration(f"events '{events.name}'", problems)
    connection.execute(
        f"CREATE TABLE __known AS FROM __all WHERE {CREATED} <= make_timestamp({micros(as_of)})"
    )


def _create_new_from_known(connection: duckdb.DuckDBPyConnection) -> None:
    """Create `__new` with all rows of `__known` as new events."""
    connection.execute(
        f"CREATE TABLE __new AS SELECT *, false AS {WITHDRAWN}, 'new' AS __kind FROM __known"
    )


def _create_new_from_changes(
    connection: duckdb.DuckDBPyConnection,
    events: Events,
    table: Table,
    built_until: datetime,
    as_of: datetime,
) -> None:
    """Create `__new` with events that are not in the table, newer versions, and withdrawals.

    `__current` has the newest version of each event in the table. A version with another event time
    than the version it replaces comes with a withdrawal at the earlier event time: readers choose
    files by event time, and so find the row that ends the replaced version.
    """
    ids = ", ".join(map(quoted, events.id))
    equal = _all_equal((*sorted(events.columns), EVENT))
    rows = table.scan() if table.files() else f"SELECT *, false AS {WITHDRAWN} FROM __known LIMIT 0"
    connection.execute(
        f"""
        CREATE TABLE __current AS
        SELECT * EXCLUDE ({SUPERSEDED})
        FROM ({version_lifetimes(rows, events.id)})
        WHERE {SUPERSEDED} IS NULL"""
    )
    connection.execute(
        f"""
        CREATE TABLE __new AS
        SELECT
            __known.* REPLACE (
                CASE
                    WHEN __known.{CREATED} <= {timestamp(built_until)} THEN {timestamp(as_of)}
                    ELSE __known.{CREATED}
                END AS {CREATED}
            ),
            false AS {WITHDRAWN},
            CASE
                WHEN __current.{EVENT} IS NOT NULL THEN 'corrected'
                WHEN __known.{CREATED} <= {timestamp(built_until)} THEN 'late'
                ELSE 'new'
            END AS __kind
        FROM __known
        LEFT JOIN __current USING ({ids})
        WHERE __current.{EVENT} IS NULL OR __current.{WITHDRAWN} OR NOT ({equal})"""
    )
    connection.execute(
        f"""
        INSERT INTO __new BY NAME
        SELECT __current.* REPLACE (__new.{CREATED} AS {CREATED}, true AS {WITHDRAWN}),
            'moved' AS __kind
        FROM __current
        JOIN __new USING ({ids})
        WHERE NOT __current.{WITHDRAWN} AND __current.{EVENT} <> __new.{EVENT}"""
    )
    if events.vanished == "withdraw":
        connection.execute(
            f"""
            INSERT INTO __new BY NAME
            SELECT * REPLACE ({timestamp(as_of)} AS {CREATED}, true AS {WITHDRAWN}),
                'withdrawn' AS __kind
            FROM __current
            ANTI JOIN __all USING ({ids})
            WHERE NOT {WITHDRAWN}"""
        )


def _kept_and_pending(
    connection: duckdb.DuckDBPyConnection, events: Events, as_of: datetime
) -> tuple[int, bool]:
    """How many vanished events are kept, and whether any version becomes known after `as_of`."""
    ids = ", ".join(map(quoted, events.id))
    vanished, pending = connection.execute(
        f"""
        SELECT count(*) FILTER (__all.{CREATED} IS NULL),
            count(*) FILTER (__all.{CREATED} > {timestamp(as_of)})
        FROM __current
        LEFT JOIN __all USING ({ids})
        WHERE NOT __current.{WITHDRAWN}"""
    ).fetchone() or (0, 0)
    return (vanished if events.vanished == "keep" else 0), pending > 0


def _all_equal(columns: tuple[str, ...]) -> str:
    """A condition that `__known` and `__current` have equal values, nulls included."""
    return " AND ".join(
        f"__known.{quoted(name)} IS NOT DISTINCT FROM __current.{quoted(name)}" for name in columns
    )
