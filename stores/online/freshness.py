"""The freshness of views: how far they are built and materialized, and until when that suffices."""

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
    """A view's watermarks; before `complete_until` the online store shows every effective row.

    None if the view was never built, was never materialized, or has no grid.
    """

    view: str
    every: timedelta | None
    built_until: datetime | None
    materialized_until: datetime | None
    complete_until: datetime | None

    def is_stale(self, at: datetime) -> bool:
        """Whether a value that was due by `at` is not online."""
        return self.materialized_until is None or (
            self.complete_until is not None and at >= self.complete_until
        )

    def behind(self, at: datetime) -> timedelta:
        """How long the oldest missing value has been due; zero if none is missing."""
        if self.complete_until is None:
            return timedelta(0)
        return max(timedelta(0), at - self.complete_until)


def online_watermark(home: Home, database: PackedDatabase, view: OnlineView) -> Watermark | None:
    """The watermark of the view's present definition; None before its first run."""
    return _watermark_of(database, view, _table_of(home, view))


def _table_of(home: Home, view: OnlineView) -> TableVersion | None:
    """The table version that was built from the view's definition."""
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
    """Each view's freshness, by name."""
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
    """A view's freshness; `grid` is its `every` and `available_after`, None if it has none."""
    table = _table_of(home, view)
    watermark = _watermark_of(database, view, table)
    built = Manifest(home.tables).built_until(table) if table else None
    online = from_micros(watermark.until) if watermark else None
    if grid is None:
        return Freshness(view.name, None, built, online, None)
    complete = None
    if online is not None:
        # A row that is not online yet belongs to the next grid time at the earliest, and becomes
        # effective `available_after` later.
        every = micros(grid[0])
        complete = from_micros((micros(online) // every + 1) * every) + grid[1]
    return Freshness(view.name, grid[0], built, online, complete)
