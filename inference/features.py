"""Online features: what the stored views show for rows at a moment, and the request-time features
on top.

The same names, values and types as the point-in-time join gives at that moment. What the online
store no longer holds, because the moment lies behind it, is refused and not taken for unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore, OnDemandFeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.types import FeastType

from inference.typed_rows import typed_rows
from punctual.column_types import ColumnType, type_of_feast
from punctual.errors import (
    BrokenTable,
    InvalidRequest,
    NotBuilt,
    PunctualError,
    StoreOutdated,
    unknown_name,
)
from punctual.loaded_domain import AT, LoadedDomain
from punctual.repository import feature_store
from punctual.times import aware, from_micros, iso, micros
from punctual.use_case import UseCase
from stores import request_features as on_demand
from stores.online import (
    OnlineView,
    Reader,
    Unpacked,
    ViewValues,
    online_watermark,
    packed_database,
)

Row = Mapping[str, Any]
_END_OF_TIME = 2**62


class PastNotKept(PunctualError):
    """Online values were asked for a moment before the one to which the online store is
    materialized.
    """


@dataclass(frozen=True)
class OnlineValues:
    """Features by full name, a value per row, and what each view showed for the rows.

    `stored` is what the online store showed; `places` says in which columns of its matrix stored
    features are.
    """

    columns: dict[str, list[Any]]
    views: dict[str, ViewValues]
    stored: Unpacked
    places: dict[str, int]

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """Some features as float64, rows x names, NaN where null; what `model_input` makes of the
        same columns.

        Stored ones come from the records as they are; only what is computed for the request goes
        through objects.
        """
        matrix = np.empty((len(next(iter(self.columns.values()), [])), len(names)))
        from_store = [
            (number, self.places[name]) for number, name in enumerate(names) if name in self.places
        ]
        if from_store:
            to, place = map(list, zip(*from_store, strict=True))
            matrix[:, to] = self.stored.matrix[:, place]
        for number, name in enumerate(names):
            if name not in self.places:
                matrix[:, number] = np.array(self.columns[name], np.float64)
        return matrix


@dataclass(frozen=True)
class ReadView:
    """A stored view as a service reads it: under which name, by which columns of a row, and which
    values of the record.

    `columns` holds each feature's full name with its place in the record.
    """

    name: str
    online: OnlineView
    keys: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]

    @cached_property
    def key(self) -> str:
        """What views that are read by the same key have in common."""
        return self.online.keyed_by(self.keys)


@dataclass(frozen=True)
class _OnDemand:
    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]


class OnlineFeatures:
    """A feature service's online side; what it reads is worked out once.

    `service` is the use case's own unless another is named, as a champion of an earlier service
    does.
    """

    def __init__(
        self,
        domain: LoadedDomain,
        use_case: UseCase,
        service: str | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        store = store or feature_store(domain.home)
        self.domain = domain
        self.use_case = use_case
        self.service = service or use_case.feature_service
        if self.service not in domain.services:
            raise StoreOutdated(
                unknown_name("feature service", self.service, domain.services, domain.name)
            )
        self.database = packed_database(store.config)
        self.types: dict[str, FeastType] = {}
        self.keys: dict[str, str] = {}
        self.request_columns = domain.request_columns(self.service)
        self._on_demand: list[_OnDemand] = []
        self.views = self._work_out(store.project)
        self._reader = Reader(self.database, [(view.online, view.key) for view in self.views])
        self._places = {
            name: self._reader.column(number, place)
            for number, view in enumerate(self.views)
            for name, place in view.columns
        }
        self._keys = {view.key: view for view in self.views}
        #: From which version of its table each view was online when `check_store` last looked.
        self._versions: dict[str, int] = {}

    def _work_out(self, project: str) -> list[ReadView]:
        wanted: dict[str, Any] = {}
        for projection in self.domain.services[self.service].feature_view_projections:
            called = projection.name_to_use()
            features = tuple(
                (feature.name, f"{called}__{feature.name}") for feature in projection.features
            )
            self.types.update(
                {f"{called}__{feature.name}": feature.dtype for feature in projection.features}
            )
            view = self.domain.on_demand_views.get(projection.name)
            if view is None:
                wanted.setdefault(called, projection)
                continue
            self._on_demand.append(
                _OnDemand(view, tuple(on_demand.inputs_of(view).items()), features)
            )
            for source in view.source_feature_view_projections.values():
                wanted.setdefault(source.name_to_use(), source)
        return [
            self._read_view(called, projection, project) for called, projection in wanted.items()
        ]

    def _read_view(self, called: str, projection: Any, project: str) -> ReadView:
        view = self.domain.views[projection.name]
        online = OnlineView.of(project, view)
        renamed = projection.join_key_map
        types = {column.name: str(column.dtype) for column in view.entity_columns}
        keys = tuple(renamed.get(key, key) for key in online.join_keys)
        self.keys.update(
            {
                renamed.get(key, key): types[key]
                for key in online.join_keys
                if key != DUMMY_ENTITY_ID
            }
        )
        columns = tuple((f"{called}__{name}", place) for place, name in enumerate(online.features))
        return ReadView(called, online, keys, columns)

    @property
    def names(self) -> list[str]:
        """The service's features by full name, in its order."""
        return list(self.types)

    def check_store(self) -> None:
        """Raise `NotBuilt` unless every view is online, to some moment, as it is defined now."""
        watermarks = {
            view.online.name: online_watermark(self.domain.home, self.database, view.online)
            for view in self.views
        }
        self._versions = {
            name: watermark.version for name, watermark in watermarks.items() if watermark
        }
        if missing := [name for name, watermark in watermarks.items() if watermark is None]:
            raise self._not_online(missing)

    def _not_online(self, missing: Sequence[str]) -> NotBuilt:
        return NotBuilt(
            f"{len(missing)} of {len(self.views)} views are not in the online store in the version"
            " that is read, or not yet whole: "
            f"{', '.join(missing)}; run: punctual features build {self.domain.name} and punctual"
            f" features materialize {self.domain.name}."
        )

    def read(self, rows: Any, at: datetime | Sequence[datetime]) -> pa.Table:
        """The service's features of each row, typed as declared; `at` is one aware moment, or one
        per row.

        `rows` is a pandas, polars or Arrow frame, or mappings, with the join keys and the service's
        request columns. Only an optional key may be left out as a column; an entity whose key is
        null is not found. A named index of pandas counts as columns, and other columns are ignored
        unless they look like a missing one. Raises `InvalidRequest` with every problem, by row and
        column.
        """
        listed = self.typed(rows)
        moments = [at] * len(listed) if isinstance(at, datetime) else list(at)
        if len(moments) != len(listed):
            raise InvalidRequest(
                f"{len(listed)} rows came with {len(moments)} moments; expected one for all or one"
                " per row."
            )
        places: dict[int, list[int]] = {}
        for place, moment in enumerate(moments):
            places.setdefault(micros(aware(moment)), []).append(place)
        columns: dict[str, list[Any]] = {name: [None] * len(listed) for name in self.types}
        for at_once, here in places.items():
            shown = self.look_up([listed[place] for place in here], at_once)
            for name, column in columns.items():
                for place, value in zip(here, shown.columns[name], strict=True):
                    column[place] = value
        return pa.table(
            {
                name: pa.array(columns[name], on_demand.arrow_type(kind))
                for name, kind in self.types.items()
            }
        )

    def typed(
        self, rows: Any, more: Mapping[str, ColumnType] | None = None
    ) -> list[dict[str, Any]]:
        """Rows with the declared types of keys, request columns and those of `more` that they have.

        Raises what `read` does.
        """
        asked = {**self.keys, **self.request_columns}
        types = {name: type_of_feast(kind) for name, kind in asked.items()}
        optional = [name for name in asked if name in self.use_case.optional_keys]
        needed = [name for name in asked if name not in optional]
        return typed_rows(rows, {**(more or {}), **types}, needed=needed, optional=optional)

    def look_up(self, rows: Sequence[Row], at: int) -> OnlineValues:
        """What `read` gives, as lists, with what the views showed; `at` in microseconds.

        `rows` have the declared types. Raises `NotBuilt` where a view is not online, `PastNotKept`
        where it was and has gone on, `BrokenTable` where a record cannot be read, and
        `InvalidRequest` where a request-time feature cannot be computed from a row.
        """
        keys = {key: _record_keys(view, rows) for key, view in self._keys.items()}
        columns: dict[str, list[Any]] = {}
        views: dict[str, ViewValues] = {}
        stored = self._reader.unpacked(keys, at)
        for view, shown in zip(self.views, self._reader.by_view(stored), strict=True):
            self._check(view, shown, keys[view.key], at)
            views[view.name] = shown
            for name, place in view.columns:
                columns[name] = shown.values(place)
        for each in self._on_demand:
            columns.update(self._computed(each, columns, rows, at))
        return OnlineValues(
            {name: columns[name] for name in self.types}, views, stored, self._places
        )

    def _check(
        self, view: ReadView, shown: ViewValues, keys: Sequence[bytes | None], at: int
    ) -> None:
        """Raise where what a view shows cannot be taken for what was known."""
        statuses = set(shown.statuses)
        if "INVALID" in statuses:
            raise BrokenTable(
                f"a record of view '{view.name}' in {self.database.records.where} is damaged; "
                f"run: punctual features materialize {self.domain.name} --rebuild."
            )
        if "NOT_FOUND" in statuses:
            missing = [
                key
                for key, status in zip(keys, shown.statuses, strict=True)
                if key is not None and status == "NOT_FOUND"
            ]
            self._refuse_false_absence(view, at, list(dict.fromkeys(missing)))

    def _refuse_false_absence(self, view: ReadView, at: int, missing: list[bytes]) -> None:
        """Raise where records are missing or have later rows only for another reason than that
        nothing was known.

        A first or repeated materialization is under way, or the store has gone on since and dropped
        the earlier rows.
        """
        if not missing:
            return
        watermark = self.database.records.watermark(view.online)
        if watermark is None or watermark.version != self._versions.get(view.online.name):
            watermark = online_watermark(
                self.domain.home, self.database, view.online
            )  # asks the tables too, which takes long
        if watermark is None:
            raise self._not_online([view.online.name])
        if at < watermark.until and any(
            row.event is not None for row in self.database.read(view.online, missing, _END_OF_TIME)
        ):
            then, until = iso(from_micros(at)), iso(from_micros(watermark.until))
            raise PastNotKept(
                f"the online store is materialized to {until} and no longer holds what view"
                f" '{view.name}' showed at {then}; "
                f"ask for {until} or later, or for the past: punctual batch {self.use_case.name}"
                f" --as-of {then}."
            )

    def _computed(
        self, each: _OnDemand, columns: dict[str, list[Any]], rows: Sequence[Row], at: int
    ) -> dict[str, list[Any]]:
        try:
            return self._run(each, columns, rows, at)
        except PunctualError:
            raise
        except Exception as error:  # whatever the domain's function raises
            for place, row in enumerate(rows):
                here = {name: [values[place]] for name, values in columns.items()}
                try:
                    self._run(each, here, [row], at)
                except Exception as cause:  # the row that it raised for
                    raise InvalidRequest(
                        f"rows[{place}]: the features of '{each.view.name}' cannot be computed"
                        f" from it: {type(cause).__name__}: {cause}."
                    ) from cause
            raise InvalidRequest(
                f"the features of '{each.view.name}' cannot be computed: {type(error).__name__}:"
                f" {error}."
            ) from error

    def _run(
        self, each: _OnDemand, columns: dict[str, list[Any]], rows: Sequence[Row], at: int
    ) -> dict[str, list[Any]]:
        inputs: dict[str, list[Any]] = {}
        for name, full_name in each.inputs:
            if full_name in columns:
                inputs[name] = columns[full_name]
            else:
                inputs[name] = (
                    [from_micros(at)] * len(rows) if name == AT else [row[name] for row in rows]
                )
        arrays = on_demand.run(each.view, inputs, len(rows))
        return {full_name: arrays[name].to_pylist() for name, full_name in each.features}


def _record_keys(view: ReadView, rows: Sequence[Row]) -> list[bytes | None]:
    # A view without entities has one record, under the key that Feast gives it.
    dummy = [DUMMY_ENTITY_VAL] * len(rows)
    return view.online.all_keys(
        *(dummy if key == DUMMY_ENTITY_ID else [row.get(key) for row in rows] for key in view.keys)
    )
