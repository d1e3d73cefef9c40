"""Versions of events and the grid on which they become known."""

from __future__ import annotations

from punctual.windows import Declaration
from stores.tables import CREATED, EVENT, SUPERSEDED, WITHDRAWN, quoted, version_lifetimes


def event_versions(declared: Declaration, events: str) -> str:
    """Each version of each event, withdrawals included.

    In microseconds: `__e` happened, `__k` known, `__next` superseded (null for the newest version).
    """
    return (
        f"SELECT *, epoch_us({EVENT}) AS __e, epoch_us({CREATED}) AS __k,"
        f" epoch_us({SUPERSEDED}) AS __next FROM ({version_lifetimes(events, declared.events.id)})"
    )


def has_value(declared: Declaration) -> str:
    """A condition for the versions that count for an entity: no key is null, no withdrawal."""
    keys = [f"{quoted(key)} IS NOT NULL" for key in declared.join_keys]
    return " AND ".join([*keys, f"NOT {WITHDRAWN}"])


def column_names(columns: tuple[str, ...]) -> str:
    """A list of columns in SQL."""
    return ", ".join(map(quoted, columns))


def first_grid_time(moment: str, every: int) -> str:
    """The first grid time at or after a moment in microseconds."""
    shift = 2**60 // every * every  # DuckDB divides towards zero
    return f"(({moment} + {shift + every - 1}) // {every} * {every} - {shift})"
