"""Versions of events and the grid on which they become known."""

from __future__ import annotations

from punctual.windows import Declaration
from stores.tables import CREATED, EVENT, quoted


def event_versions(declared: Declaration, events: str) -> str:
    """Each version of each event: `__e` happened, `__k` known, `__next` superseded."""
    return (
        f"SELECT *, epoch_us({EVENT}) AS __e, epoch_us({CREATED}) AS __k, lead(epoch_us({CREATED})) OVER of_id AS __next"
        f" FROM ({events}) WINDOW of_id AS (PARTITION BY {column_names(declared.events.id)} ORDER BY {CREATED}, {EVENT})"
    )


def has_keys(declared: Declaration) -> str:
    """A condition: no join key of the view is null."""
    return " AND ".join(f"{quoted(key)} IS NOT NULL" for key in declared.join_keys)


def column_names(columns: tuple[str, ...]) -> str:
    """A list of columns in SQL."""
    return ", ".join(map(quoted, columns))


def first_grid_time(moment: str, every: int) -> str:
    """The first grid time at or after a moment in microseconds."""
    shift = 2**60 // every * every  # DuckDB divides towards zero
    return f"(({moment} + {shift + every - 1}) // {every} * {every} - {shift})"
