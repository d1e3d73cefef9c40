"""Feature views that a domain declares instead of programming: sliding windows over events, and the
latest event.

Each declaration gives a plain Feast `FeatureView`; the feature pipeline asks `declaration_of` how
to compute its rows.
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
from punctual.version import tagged

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
        """`<measure>_<function>_<window>`; a count counts the events themselves."""
        return f"{self.measure or events.name}_{self.function}_{duration_text(window)}"

    def dtype(self, events: Events) -> FeastType:
        """Counts and sums of integers are exact integers; the rest are doubles."""
        if self.function == "count":
            return Int64
        of = _declared_type(events, self.measure or "")
        return Int64 if self.function == "sum" and of.kind == "integer" else Float64


def _aggregation(
    function: Function, measure: str | None, over: Sequence[str | timedelta], description: str
) -> Aggregation:
    return Aggregation(
        function, measure, tuple(sorted(duration(window) for window in over)), description
    )


def count(*, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """How many events are in the window.

    0 while the window is empty, once any event of the entity has entered the view's longest window.
    Null before that, since the view then has no row of the entity.
    """
    return _aggregation("count", None, over, description)


def sum_of(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """Sum of an integer or decimal measure; null where no event has it."""
    return _aggregation("sum", measure, over, description)


def mean(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """Arithmetic mean over the events that have the measure; null where none has."""
    return _aggregation("mean", measure, over, description)


def share(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """Share of true among the events where a boolean is known; null where none is."""
    return _aggregation("share", measure, over, description)


def std(measure: str, *, over: Sequence[str | timedelta], description: str) -> Aggregation:
    """Population standard deviation of an integer measure; null where no event has it."""
    return _aggregation("std", measure, over, description)


@dataclass(frozen=True)
class Declaration:
    """How the rows of a feature view come about.

    With `aggregations`: at each grid time g a row per entity whose value can have changed, over the
    events in `(g - window, g]` known by g and not withdrawn. An entity has no row, and shows nulls,
    until its first event enters a window. Without: a row per event, its columns as `fields` name
    them, and a row wherever a correction or a withdrawal leaves another event the newest. Either
    way a row may be used from `created_timestamp` on, which is `available_after` the grid time at
    which its events are known.
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
        """Changes whenever rows computed from the same file might."""
        said = (
            self.join_keys,
            self.events.fingerprint,
            self.every,
            self.available_after,
            self.fields,
        )
        asked = [(a.function, a.measure, a.over) for a in self.aggregations]
        return digest(repr((said, asked)))

    @property
    def longest_window(self) -> timedelta:
        """How far back an event can matter."""
        return max(
            (window for each in self.aggregations for window in each.over), default=timedelta(0)
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names in the order of the declaration."""
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
    """A feature view of sliding-window aggregates.

    It has no ttl, since an entity's last row is exact until the next. All features of an entity are
    null, counts included, until its first event enters the longest window. Of a window that is
    empty afterwards, counts are 0 and all other features null.

    A higher `version` makes a changed view a new one beside the view that a champion reads.
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
    """A feature view of the newest event itself; `fields` maps its columns to their descriptions.

    Where the newest event is withdrawn, or a correction gives it an earlier time or another entity,
    the newest event that remains is shown, nulls if there is none. Its age, which `ttl` limits, is
    then still counted from the `event_timestamp` of the event that was taken away.

    `version` is as for `windowed_feature_view`.
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
    """The Feast type of a column as it is."""
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
            # In the data folder; the stores know which one that is.
            path=f"tables/{declared.name}",
            file_format=ParquetFormat(),
            timestamp_field=EVENT_TIMESTAMP,
            created_timestamp_column=CREATED_TIMESTAMP,
        ),
        ttl=ttl,
        description=description,
        tags=tagged(
            {
                "fingerprint": declared.fingerprint,
                "events": declared.events.name,
                "every": duration_text(declared.every),
                "available_after": duration_text(declared.available_after),
                **_said_of(declared.events),
            },
            version,
        ),
    )
    declare(view, declared)
    return view


def _said_of(events: Events) -> dict[str, str]:
    """What the domain says of the events in words, as tags of the view."""
    said = {"events_description": events.description, "known": events.known}
    return {tag: text for tag, text in said.items() if text}


def declare(view: FeatureView, declared: Declaration) -> None:
    """Keep the declaration with the view; Feast's copies and its registry do not have it."""
    view.__dict__["declaration"] = declared


def declaration_of(view: FeatureView) -> Declaration | None:
    """How the view's rows are computed, if the platform computes them."""
    return view.__dict__.get("declaration")


def grid_of(view: FeatureView) -> tuple[timedelta, timedelta] | None:
    """The view's `every` and `available_after`; None where the platform does not compute its rows.

    Feast's registry and a model card have them too, unlike the declaration.
    """
    if not {"every", "available_after"} <= view.tags.keys():
        return None
    return duration(view.tags["every"]), duration(view.tags["available_after"])
