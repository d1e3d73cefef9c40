"""Declared feature views: aggregates over sliding windows of events, and the latest event.

Each declaration returns a plain Feast `FeatureView`. The feature pipeline reads how to compute its
rows from `declaration_of(view)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from feast import Entity, FeatureView, Field, FileSource
from feast import types as feast_types
from feast.data_format import ParquetFormat
from feast.types import FeastType, Float64, Int64

from punctual.column_types import ColumnType, UnknownColumnType, column_type
from punctual.events import Events
from punctual.sources import digest
from punctual.times import duration, duration_text
from punctual.version import with_version

EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"

Function = Literal["count", "sum", "mean", "share", "std"]


@dataclass(frozen=True)
class Aggregation:
    """One function of one measure, over several windows."""

    function: Function
    measure: str | None
    over: tuple[timedelta, ...]
    description: str

    def feature_name(self, window: timedelta, events: Events) -> str:
        """`<measure>_<function>_<window>`; a count has the name of the events as its measure."""
        return f"{self.measure or events.name}_{self.function}_{duration_text(window)}"

    def dtype(self, events: Events) -> FeastType:
        """Int64 for counts and for sums of integers, else Float64."""
        if self.function == "count":
            return Int64
        type_ = _declared_type(events, self.measure or "")
        return Int64 if self.function == "sum" and type_.kind == "integer" else Float64


def _aggregation(
    function: Function, measure: str | None, over: Sequence[str | timedelta], description: str
) -> Aggregation:
    return Aggregation(
        function, measure, tuple(sorted(duration(window) for window in over)), description
    )


def count(*, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """The number of events in a window (Int64), named `<events>_count_<window>`.

    `over` gives the windows, such as `("1h", "7d")`: timedeltas or a whole number and s, m, h, d or
    w; each is a multiple of the view's `every`. A window at `g` has the events in
    `(g - window, g]` that are known at `g`. `description` is completed to "<description>, last 7d".
    Both apply to all aggregations.

    The count of an empty window is 0. It is null until the first event of the entity enters the
    view's longest window, since the view then has no row for the entity.
    """
    return _aggregation("count", None, over, description)


def sum_of(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """The sum of an integer (Int64) or DECIMAL (Float64) measure, `<measure>_sum_<window>`.

    Nulls are skipped; the sum is null if no event in the window has the measure. `over` and
    `description` are as for `count`.
    """
    return _aggregation("sum", measure, over, description)


def mean(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """The arithmetic mean (Float64) of an integer or DECIMAL measure, `<measure>_mean_<window>`.

    Nulls are skipped; the mean is null if no event in the window has the measure. `over` and
    `description` are as for `count`.
    """
    return _aggregation("mean", measure, over, description)


def share(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """The share of true values, 0 to 1 (Float64), of a BOOLEAN, `<measure>_share_<window>`.

    Nulls are skipped; the share is null if no event in the window has the measure. `over` and
    `description` are as for `count`.
    """
    return _aggregation("share", measure, over, description)


def std(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """The population standard deviation (Float64) of an integer or DECIMAL measure.

    The feature is named `<measure>_std_<window>`. Nulls are skipped: the deviation of one value is
    0, and null if no event in the window has the measure. `over` and `description` are as for
    `count`.
    """
    return _aggregation("std", measure, over, description)


@dataclass(frozen=True)
class Declaration:
    """How the rows of a feature view are computed.

    With `aggregations`: at each grid time g, one row per entity whose values may have changed,
    over the events in `(g - window, g]` that are known at g and not withdrawn. An entity has no
    row, and its features are null, until its first event enters a window.

    Without: one row per event with the columns in `fields`, and one row whenever a correction or a
    withdrawal makes another event the newest.

    A row takes effect at its `created_timestamp`: the grid time at which its events are known, plus
    `available_after`.
    """

    name: str
    join_keys: tuple[str, ...]
    events: Events
    every: timedelta
    available_after: timedelta
    aggregations: tuple[Aggregation, ...] = ()
    fields: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A hash of everything that determines the rows computed from a given file."""
        grid = (
            self.join_keys,
            self.events.fingerprint,
            self.every,
            self.available_after,
            self.fields,
        )
        aggregations = [(each.function, each.measure, each.over) for each in self.aggregations]
        return digest(repr((grid, aggregations)))

    @property
    def longest_window(self) -> timedelta:
        """The longest window of all aggregations; 0 without aggregations."""
        return max(
            (window for each in self.aggregations for window in each.over), default=timedelta(0)
        )

    @property
    def features(self) -> tuple[str, ...]:
        """The feature names in the order of the declaration."""
        if not self.aggregations:
            return self.fields
        return tuple(
            each.feature_name(window, self.events)
            for each in self.aggregations
            for window in each.over
        )


def windowed_feature_view(
    *,
    name: str,
    entities: list[Entity],
    events: Events,
    every: timedelta,
    available_after: timedelta,
    features: Sequence[Aggregation],
    description: str,
    version: int = 1,
) -> FeatureView:
    """A feature view of aggregates over sliding windows of events.

    - `name`: the name of the view; unique in the repository.
    - `entities`: the Feast entities. Their join keys are columns of `events`; an event with a null
      join key is left out.
    - `events`: the events that are aggregated.
    - `every`: the step of the grid, more than 0. Windows are computed at multiples of `every` since
      1970-01-01 00:00 UTC, and every window is a multiple of `every`.
    - `available_after`: how long after a grid time its values may be used, 0 or more: as long as a
      scheduled run needs to compute and materialize them.
    - `features`: aggregations from `count`, `sum_of`, `mean`, `share` and `std`, at least one.
    - `description`: what the view contains; Feast registers it.
    - `version`: 1 or more, default 1. A change of a view that a champion reads needs a higher
      version: it makes a new view, and the champion keeps reading the previous one.

    The view has no ttl, since the last row of an entity is valid until its next row. All features
    of an entity, counts included, are null until its first event enters the longest window. For a
    window that is empty later, counts are 0 and all other features null.
    """
    declared = Declaration(
        name, _join_keys(entities), events, every, available_after, aggregations=tuple(features)
    )
    schema = [
        Field(
            name=each.feature_name(window, events),
            dtype=each.dtype(events),
            description=f"{each.description}, last {duration_text(window)}",
        )
        for each in features
        for window in each.over
    ]
    return _feature_view(declared, entities, schema, description, timedelta(0), version)


def latest_feature_view(
    *,
    name: str,
    entities: list[Entity],
    events: Events,
    every: timedelta,
    available_after: timedelta,
    fields: Mapping[str, str],
    description: str,
    ttl: timedelta = timedelta(0),
    version: int = 1,
) -> FeatureView:
    """A feature view of columns of each entity's newest event, by `event_timestamp`.

    - `name`, `entities`, `events`, `available_after`, `description`, `version`: as for
      `windowed_feature_view`.
    - `every`: the step of the grid; an event takes effect at the first grid time at which it is
      known, plus `available_after`.
    - `fields`: column of `events` to the description of its feature, which has the column's name.
    - `ttl`: the greatest age of an event, counted from its `event_timestamp` and inclusive; the
      features of an older event are null. Default 0: no limit.

    All features are null for an entity without an event. Of events with the same `event_timestamp`,
    the one that became known last takes effect. If the newest event is withdrawn, or a
    correction gives it an earlier time or another entity, the newest remaining event takes effect;
    its age is then counted from the `event_timestamp` of the event that it replaces.
    """
    declared = Declaration(
        name, _join_keys(entities), events, every, available_after, fields=tuple(fields)
    )
    schema = [
        Field(name=column, dtype=_feast_type(events, column), description=text)
        for column, text in fields.items()
    ]
    return _feature_view(declared, entities, schema, description, ttl, version)


def _feast_type(events: Events, column: str) -> FeastType:
    """The Feast type of a column of events; String if Feast has none, which the checks report."""
    dtype: FeastType = getattr(feast_types, _declared_type(events, column).feast or "String")
    return dtype


def _declared_type(events: Events, column: str) -> ColumnType:
    """A column's type; BIGINT for a missing column or an unknown type, which the checks report."""
    try:
        return column_type(events.columns.get(column, "BIGINT"))
    except UnknownColumnType:
        return column_type("BIGINT")


def _join_keys(entities: Sequence[Entity]) -> tuple[str, ...]:
    return tuple(entity.join_key for entity in entities)


def _feature_view(
    declared: Declaration,
    entities: list[Entity],
    features: list[Field],
    description: str,
    ttl: timedelta,
    version: int,
) -> FeatureView:
    keys = [Field(name=key, dtype=_feast_type(declared.events, key)) for key in declared.join_keys]
    view = FeatureView(
        name=declared.name,
        entities=entities,
        schema=[*keys, *features],
        source=FileSource(
            name=f"{declared.name}_table",
            # Relative to the data folder, which the stores know.
            path=f"tables/{declared.name}",
            file_format=ParquetFormat(),
            timestamp_field=EVENT_TIMESTAMP,
            created_timestamp_column=CREATED_TIMESTAMP,
        ),
        ttl=ttl,
        description=description,
        tags=with_version(
            {
                "fingerprint": declared.fingerprint,
                "events": declared.events.name,
                "every": duration_text(declared.every),
                "available_after": duration_text(declared.available_after),
                **_event_texts(declared.events),
            },
            version,
        ),
    )
    declare(view, declared)
    return view


def _event_texts(events: Events) -> dict[str, str]:
    """The texts that describe the events, as tags of the view; empty texts are left out."""
    texts = {"events_description": events.description, "known": events.known}
    return {tag: text for tag, text in texts.items() if text}


def declare(view: FeatureView, declared: Declaration) -> None:
    """Attach a declaration to a view. Feast's copies of the view, and its registry, lack it."""
    view.__dict__["declaration"] = declared


def declaration_of(view: FeatureView) -> Declaration | None:
    """How the rows of a view are computed; None if the platform does not compute them."""
    return view.__dict__.get("declaration")


def grid_of(view: FeatureView) -> tuple[timedelta, timedelta] | None:
    """The view's `every` and `available_after`; None if the platform does not compute its rows.

    They are read from tags, which views from Feast's registry or from a model card also have.
    """
    if not {"every", "available_after"} <= view.tags.keys():
        return None
    return duration(view.tags["every"]), duration(view.tags["available_after"])
