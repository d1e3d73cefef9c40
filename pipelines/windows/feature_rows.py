"""Feature rows from events: sliding windows as prefix sums over change points, and the latest event, on a grid.

An event enters a window at the first grid time at which it has happened and is known, and leaves it at the first
grid time at or after `event_timestamp + window`, or when a newer version of it is known. Sums are over integers
and decimals, so that they are exact whatever the order: a backfill and hourly runs give the same rows.
"""

from __future__ import annotations

from datetime import datetime

from pipelines.windows.additive import windowed_rows
from pipelines.windows.grid import event_versions
from pipelines.windows.latest import latest_rows, uncovered_rows
from punctual.times import micros
from punctual.windows import Declaration
from stores.tables import Table


def feature_rows(
    declared: Declaration, events: Table, since: datetime | None, until: datetime
) -> str | None:
    """A SELECT of the view's rows at grid times in `(since, until]`; None where no event can matter.

    `since` None means from the beginning. Columns are the join keys, the features and both times.
    """
    files = events.files()
    low, high = -(2**60) if since is None else micros(since), micros(until)
    if since is not None:
        # The last grid time of the run before may lie up to a grid's step before `since`. What had left the longest
        # window by then, and was known, changes nothing after it.
        reached = low - micros(declared.every)
        horizon = reached - micros(declared.longest_window)
        matter = [file for file in files if file.max_event > horizon or file.max_created > reached]
        # A newer version of an event that matters came after it, whatever event time it has now.
        first = min((file.min_created for file in matter), default=2**62)
        files = [file for file in files if file.max_created >= first]
    if not files:
        return None
    versions = event_versions(declared, events.scan(files))
    if declared.aggregations:
        return windowed_rows(declared, versions, low, high)
    return f"{latest_rows(declared, versions, low, high)} UNION ALL {uncovered_rows(declared, events.scan(), low, high)}"
