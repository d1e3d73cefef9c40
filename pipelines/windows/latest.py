"""SQL for the newest event of each entity, on the grid of times."""

from __future__ import annotations

from pipelines.windows.grid import column_names, event_versions, first_grid_time, has_value
from punctual.times import micros
from punctual.windows import Declaration
from stores.tables import CREATED, EVENT, WITHDRAWN, quoted


def visible_versions(declared: Declaration, versions: str) -> str:
    """The versions that are current at some grid time: those in `[__from_us, __until_us)`.

    `__is_removed` is true if the next version has other keys or another event time, is a
    withdrawal, or does not exist.
    """
    every = micros(declared.every)
    removed = " OR ".join(
        f"lead({quoted(name)}) OVER of_id IS DISTINCT FROM {quoted(name)}"
        for name in (*declared.join_keys, EVENT, WITHDRAWN)
    )
    return f"""
        SELECT * FROM (
            SELECT *, {removed} AS __is_removed
            FROM (
                SELECT *, {first_grid_time("__created_us", every)} AS __from_us,
                    coalesce({first_grid_time("__superseded_us", every)}, {2**62}) AS __until_us
                FROM ({versions})
            )
            WHERE __from_us < __until_us
            WINDOW of_id AS (PARTITION BY {column_names(declared.events.id)} ORDER BY __from_us)
        )
        WHERE {has_value(declared)}"""


def latest_rows(declared: Declaration, versions: str, low: int, high: int) -> str:
    """A row for each version that becomes known at a grid time in `(low, high]` (microseconds)."""
    keys, ids = column_names(declared.join_keys), column_names(declared.events.id)
    return f"""
        SELECT {keys}, {column_names(declared.fields)}, {EVENT},
            make_timestamp(__from_us + {micros(declared.available_after)}) AS {CREATED}
        FROM ({visible_versions(declared, versions)})
        WHERE __from_us > {low} AND __from_us <= {high}
        QUALIFY row_number() OVER (
            PARTITION BY {keys}, {EVENT}, __from_us ORDER BY __created_us DESC, {ids}
        ) = 1"""


def last_removal(declared: Declaration, versions: str, high: int) -> str:
    """The last grid time up to `high` at which an entity loses an event; null if none does.

    An entity loses an event that is withdrawn, or corrected to another event time or entity.
    """
    return f"""
        SELECT max(__until_us)
        FROM ({visible_versions(declared, versions)})
        WHERE __is_removed AND __until_us <= {high}"""


def changed_event_ids(declared: Declaration, events: str) -> str:
    """The ids of events that were corrected or withdrawn."""
    ids = column_names(declared.events.id)
    return f"SELECT {ids} FROM ({events}) GROUP BY {ids} HAVING count(*) > 1"


def replacement_rows(
    declared: Declaration, changed: str, recent: str, remaining: str, low: int, high: int
) -> str:
    """Rows that replace published rows whose event a correction or a withdrawal removed.

    Without a replacement, the published row at a removed event time would remain the entity's
    newest. From the removal on, and again whenever an event at or before that time changes, a row
    with the removed event time has the values of the newest remaining event (nulls if none
    remains). Readers compute the age of that row from the removed event time.

    `changed` has the ids of all events that change in `(low, high]`, `recent` their versions, and
    `remaining` the versions of all events that may become the newest of the same entities.
    """
    keys, ids = column_names(declared.join_keys), column_names(declared.events.id)
    point_keys = ", ".join(f"point.{quoted(key)}" for key in declared.join_keys)
    removed_keys = ", ".join(f"removed.{quoted(key)}" for key in declared.join_keys)
    same_keys_as = {
        table: " AND ".join(
            f"version.{quoted(key)} = {table}.{quoted(key)}" for key in declared.join_keys
        )
        for table in ("removed", "point")
    }
    fields = ", ".join(f"version.{quoted(name)}" for name in declared.fields)
    version_ids = ", ".join(f"version.{quoted(name)}" for name in declared.events.id)
    # Selected by event id: a newer version of an affected event may have other keys.
    affected = f"FROM ({remaining}) SEMI JOIN __affected_ids USING ({ids})"
    return f"""
        SELECT * FROM (
            WITH __affected_keys AS MATERIALIZED (
                SELECT DISTINCT {keys} FROM ({recent}) SEMI JOIN ({changed}) USING ({ids})
            ),
            __affected_ids AS MATERIALIZED (
                SELECT DISTINCT {ids} FROM ({remaining}) SEMI JOIN __affected_keys USING ({keys})
            ),
            __visible AS MATERIALIZED (
                {visible_versions(declared, event_versions(declared, affected))}
            ),
            __removed AS (
                SELECT {keys}, __event_us, min(__until_us) AS __removed_us
                FROM __visible
                WHERE __is_removed AND __until_us <= {high}
                GROUP BY {keys}, __event_us
            ),
            __changes AS (
                SELECT {keys}, __event_us, unnest([__from_us, __until_us]) AS __grid_us
                FROM __visible
            ),
            __points AS (
                SELECT DISTINCT {removed_keys}, removed.__event_us, version.__grid_us
                FROM __removed AS removed
                JOIN __changes AS version
                    ON {same_keys_as["removed"]}
                    AND version.__event_us <= removed.__event_us
                    AND version.__grid_us >= removed.__removed_us
                WHERE version.__grid_us > {low} AND version.__grid_us <= {high}
            )
            SELECT {point_keys}, {fields}, make_timestamp(point.__event_us) AS {EVENT},
                make_timestamp(point.__grid_us + {micros(declared.available_after)}) AS {CREATED}
            FROM __points AS point
            LEFT JOIN __visible AS version
                ON {same_keys_as["point"]}
                AND version.__event_us <= point.__event_us
                AND version.__from_us <= point.__grid_us
                AND point.__grid_us < version.__until_us
            QUALIFY row_number() OVER (
                    PARTITION BY {point_keys}, point.__event_us, point.__grid_us
                    ORDER BY version.__event_us DESC NULLS LAST, version.__created_us DESC,
                        {version_ids}
                ) = 1
                -- latest_rows already has a row for a version that becomes known at this point.
                AND NOT coalesce(
                    version.__event_us = point.__event_us AND version.__from_us = point.__grid_us,
                    false
                )
        )"""
