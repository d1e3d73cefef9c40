"""The newest event of each entity, on a grid."""

from __future__ import annotations

from pipelines.windows.grid import column_names, event_versions, first_grid_time, has_value
from punctual.times import micros
from punctual.windows import Declaration
from stores.tables import CREATED, EVENT, WITHDRAWN, quoted


def lives(declared: Declaration, versions: str) -> str:
    """The versions that are known at any grid time, from `__in` until before `__out`.

    `__moved` says that no version with the same keys and event time follows.
    """
    every = micros(declared.every)
    moved = " OR ".join(
        f"lead({quoted(name)}) OVER of_id IS DISTINCT FROM {quoted(name)}"
        for name in (*declared.join_keys, EVENT, WITHDRAWN)
    )
    return f"""
        SELECT * FROM (
            SELECT *, {moved} AS __moved
            FROM (
                SELECT *, {first_grid_time("__k", every)} AS __in,
                    coalesce({first_grid_time("__next", every)}, {2**62}) AS __out
                FROM ({versions})
            )
            WHERE __in < __out
            WINDOW of_id AS (PARTITION BY {column_names(declared.events.id)} ORDER BY __in)
        )
        WHERE {has_value(declared)}"""


def latest_rows(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A row for each version that becomes known at a grid time in `(low, high]`."""
    keys, ids = column_names(declared.join_keys), column_names(declared.events.id)
    return f"""
        SELECT {keys}, {column_names(declared.fields)}, {EVENT},
            make_timestamp(__in + {micros(declared.available_after)}) AS {CREATED}
        FROM ({lives(declared, versions)})
        WHERE __in > {low} AND __in <= {high}
        QUALIFY row_number() OVER (
            PARTITION BY {keys}, {EVENT}, __in ORDER BY __k DESC, {ids}
        ) = 1"""


def last_loss(declared: Declaration, versions: str, high: int) -> str:
    """The last grid time up to `high` at which an entity loses an event; null if there is none.

    An entity loses an event that is withdrawn, or moved to another time or entity.
    """
    return f"SELECT max(__out) FROM ({lives(declared, versions)}) WHERE __moved AND __out <= {high}"


def with_several_versions(declared: Declaration, events: str) -> str:
    """The ids of events that were corrected or withdrawn."""
    ids = column_names(declared.events.id)
    return f"SELECT {ids} FROM ({events}) GROUP BY {ids} HAVING count(*) > 1"


def uncovered_rows(
    declared: Declaration, changed: str, recent: str, remaining: str, low: int, high: int
) -> str:
    """Rows for the event times that a correction or a withdrawal took away.

    A row that was once published for such a time would go on being the newest. From then on, and
    whenever something at or before the time changes, the newest event that remains is shown there
    (nulls if there is none). Its age is judged by the time that was taken away.

    `changed` has the ids of all events that change in `(low, high]`, `recent` their versions, and
    `remaining` the versions of all events that may remain the newest of the same entities.
    """
    keys, ids = column_names(declared.join_keys), column_names(declared.events.id)
    points = ", ".join(f"p.{quoted(key)}" for key in declared.join_keys)
    of_keys = " AND ".join(f"v.{quoted(key)} = p.{quoted(key)}" for key in declared.join_keys)
    fields = ", ".join(f"v.{quoted(name)}" for name in declared.fields)
    ties = ", ".join(f"v.{quoted(name)}" for name in declared.events.id)
    # Newer versions of the events of the same keys may have other keys.
    of_interest = f"FROM ({remaining}) SEMI JOIN __wanted USING ({ids})"
    return f"""
        SELECT * FROM (
            WITH __touched AS MATERIALIZED (
                SELECT DISTINCT {keys} FROM ({recent}) SEMI JOIN ({changed}) USING ({ids})
            ),
            __wanted AS MATERIALIZED (
                SELECT DISTINCT {ids} FROM ({remaining}) SEMI JOIN __touched USING ({keys})
            ),
            __lives AS MATERIALIZED ({lives(declared, event_versions(declared, of_interest))}),
            __taken AS (
                SELECT {keys}, __e AS __p, min(__out) AS __from
                FROM __lives WHERE __moved AND __out <= {high} GROUP BY {keys}, __e
            ),
            __changes AS (SELECT {keys}, __e, unnest([__in, __out]) AS __g FROM __lives),
            __points AS (
                SELECT DISTINCT {points}, p.__p, v.__g
                FROM __taken AS p
                JOIN __changes AS v ON {of_keys} AND v.__e <= p.__p AND v.__g >= p.__from
                WHERE v.__g > {low} AND v.__g <= {high}
            )
            SELECT {points}, {fields}, make_timestamp(p.__p) AS {EVENT},
                make_timestamp(p.__g + {micros(declared.available_after)}) AS {CREATED}
            FROM __points AS p
            LEFT JOIN __lives AS v
                ON {of_keys} AND v.__e <= p.__p AND v.__in <= p.__g AND p.__g < v.__out
            -- Where the newest that remains has this very time, it has a row of its own.
            QUALIFY row_number() OVER (
                    PARTITION BY {points}, p.__p, p.__g
                    ORDER BY v.__e DESC NULLS LAST, v.__k DESC, {ties}
                ) = 1
                AND NOT coalesce(v.__e = p.__p AND v.__in = p.__g, false)
        )"""
