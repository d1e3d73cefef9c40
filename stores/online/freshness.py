"""How far each view is built and materialized, and until when what is online is all that should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from punctual.home import Home
from punctual.times import from_micros, micros
from stores.online.backend import Watermark
from stores.online.records import PackedDatabase
from stores.online.view import OnlineView
from stores.tables import Manifest, TableVersion

if TYPE_CHECKING:
    from punctual.loaded_domain import LoadedDomain


@dataclass(frozen=True)
class Freshness:
    """A view's watermarks; before `complete_until` the online store shows all that has taken
    effect.

    None where the view was never built, never materialized, or promises no grid to be judged by.
    """

    view: str
    every: timedelta | None
    built_until: datetime | None
    materialized_until: datetime | None
    complete_until: datetime | None

    def is_stale(self, at: datetime) -> bool:
        """Whether a value was due by the moment that is not online."""
        return self.materialized_until is None or (
            self.complete_until is not None and at >= self.complete_until
        )

    def behind(self, at: datetime) -> timedelta:
        """How long a value has been due that is not online; zero where none is."""
        if self.complete_until is None:
            return timedelta(0)
        return max(timedelta(0), at - self.complete_until)


def online_watermark(home: Home, database: PackedDatabase, view: OnlineView) -> Watermark | None:
    """How far the view is online as it is defined now, and from which version of its table; None
    before the first run.
    """
    return _watermark_of(database, view, _table_of(home, view))


def _table_of(home: Home, view: OnlineView) -> TableVersion | None:
    """The version of the table that the view's definition made."""
    manifest = Manifest(home.tables)
    if view.fingerprint:
        return manifest.of_fingerprint(view.name, view.fingerprint)
    return manifest.current(view.name)


def _watermark_of(
    database: PackedDatabase, view: OnlineView, table: TableVersion | None
) -> Watermark | None:
    watermark = database.records.watermark(view)
    return watermark if table and watermark and watermark.version == table.version else None


def view_freshness(
    domain: LoadedDomain, database: PackedDatabase, views: Iterable[OnlineView]
) -> dict[str, Freshness]:
    """Each view's freshness, by its name. Run hourly and on time, no view is ever stale."""
    from punctual.windows import grid_of

    return {
        view.name: freshness_of(domain.home, database, view, grid_of(domain.views[view.name]))
        for view in views
    }


def freshness_of(
    home: Home,
    database: PackedDatabase,
    view: OnlineView,
    grid: tuple[timedelta, timedelta] | None,
) -> Freshness:
    """A view's freshness; `grid` is its `every` and `available_after`, None where it has none."""
    table = _table_of(home, view)
    watermark = _watermark_of(database, view, table)
    built = Manifest(home.tables).built_until(table) if table else None
    online = from_micros(watermark.until) if watermark else None
    if grid is None:
        return Freshness(view.name, None, built, online, None)
    complete = None
    if online is not None:
        # What is not online yet belongs to the next grid time at the earliest, and is shown when it
        # is available.
        every = micros(grid[0])
        complete = from_micros((micros(online) // every + 1) * every) + grid[1]
    return Freshness(view.name, grid[0], built, online, complete)
