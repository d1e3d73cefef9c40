"""SQL for versions of events and for the grid of times at which feature rows are computed."""

from __future__ import annotations

from punctual.windows import Declaration
from stores.tables import CREATED, EVENT, SUPERSEDED, WITHDRAWN, quoted, version_lifetimes


def event_versions(declared: Declaration, events: str) -> str:
    """A SELECT of all versions of events, withdrawals included, with their times in microseconds.

    `__event_us` is when the event happened, `__created_us` when the version became known, and
    `__superseded_us` when the next version became known (null for the newest version).
    """
    return f"""
        SELECT *, epoch_us({EVENT}) AS __event_us, epoch_us({CREATED}) AS __created_us,
            epoch_us({SUPERSEDED}) AS __superseded_us
        FROM ({version_lifetimes(events, declared.events.id)})"""


def has_value(declared: Declaration) -> str:
    """A condition for the versions that belong to an entity: all keys present, no withdrawal."""
    keys = [f"{quoted(key)} IS NOT NULL" for key in declared.join_keys]
    return " AND ".join([*keys, f"NOT {WITHDRAWN}"])


def column_names(columns: tuple[str, ...]) -> str:
    """The columns, quoted, as a SQL list."""
    return ", ".join(map(quoted, columns))


def first_grid_time(time_us: str, every: int) -> str:
    """SQL for the first grid time at or after a time; both, and `every`, in microseconds."""
    # DuckDB's integer division rounds towards zero: the shift makes negative times positive.
    shift = 2**60 // every * every
    return f"(({time_us} + {shift + every - 1}) // {every} * {every} - {shift})"
