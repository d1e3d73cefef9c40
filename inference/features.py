"""Online features of rows at a moment: values of the stored views and request-time features.

Names, values and types are those of the point-in-time join at that moment. A moment whose values
the online store has already replaced raises an error; they are not reported as unknown.
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
    """The online store is materialized past the requested moment, whose values it has replaced."""


@dataclass(frozen=True)
class OnlineValues:
    """Features by full name, one value per row, and what each view showed for the rows.

    `stored` has the values of the online store as a matrix; `matrix_columns` gives the matrix
    column of each stored feature.
    """

    columns: dict[str, list[Any]]
    views: dict[str, ViewValues]
    stored: Unpacked
    matrix_columns: dict[str, int]

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """Features as float64, rows x names, NaN for null; equal to `model_input` of the columns.

        Stored features are copied from the store's matrix; only request-time features are
        converted from Python objects.
        """
        matrix = np.empty((len(next(iter(self.columns.values()), [])), len(names)))
        from_store = [
            (number, self.matrix_columns[name])
            for number, name in enumerate(names)
            if name in self.matrix_columns
        ]
        if from_store:
            targets, sources = map(list, zip(*from_store, strict=True))
            matrix[:, targets] = self.stored.matrix[:, sources]
        for number, name in enumerate(names):
            if name not in self.matrix_columns:
                matrix[:, number] = np.array(self.columns[name], np.float64)
        return matrix


@dataclass(frozen=True)
class ReadView:
    """A stored view as a service reads it.

    `name` is the name in the service, `keys` are the row's columns for the join keys, and `columns`
    has each feature's full name with its index in the record.
    """

    name: str
    online: OnlineView
    keys: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]

    @cached_property
    def key(self) -> str:
        """A text that is equal for views that are read by the same key."""
        return self.online.keyed_by(self.keys)


@dataclass(frozen=True)
class _OnDemand:
    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]


class OnlineFeatures:
    """Reads a feature service from the online store; the views are resolved once.

    The default of `service` is the use case's; a champion may have been trained with another one.
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
        self.views = self._resolved_views(store.project)
        self._reader = Reader(self.database, [(view.online, view.key) for view in self.views])
        self._matrix_columns = {
            name: self._reader.column(number, index)
            for number, view in enumerate(self.views)
            for name, index in view.columns
        }
        self._keys = {view.key: view for view in self.views}
        #: The table version of each online view at the last `check_store`.
        self._versions: dict[str, int] = {}

    def _resolved_views(self, project: str) -> list[ReadView]:
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
        columns = tuple((f"{called}__{name}", index) for index, name in enumerate(online.features))
        return ReadView(called, online, keys, columns)

    @property
    def names(self) -> list[str]:
        """The service's features by full name, in its order."""
        return list(self.types)

    def check_store(self) -> None:
        """Raise `NotBuilt` unless every view is online in the version of its definition."""
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
            f"{len(missing)} of {len(self.views)} views are not online in the required version, or"
            f" not completely: {', '.join(missing)}; run: punctual features build"
            f" {self.domain.name} and punctual features materialize {self.domain.name}."
        )

    def read(self, rows: Any, at: datetime | Sequence[datetime]) -> pa.Table:
        """The service's features of each row, in their declared types.

        `at` is an aware datetime, or one per row. `rows` is a pandas, polars or Arrow frame, or a
        sequence of mappings, with the join keys and the service's request columns. Only the columns
        of optional keys may be omitted; an entity with a null key is not found. The levels of a
        named pandas index are columns. Other columns are ignored unless their name resembles that
        of a missing one. Raises `InvalidRequest` with every problem, by row and column.
        """
        listed = self.typed(rows)
        moments = [at] * len(listed) if isinstance(at, datetime) else list(at)
        if len(moments) != len(listed):
            raise InvalidRequest(
                f"{len(listed)} rows came with {len(moments)} moments; expected one for all rows or"
                " one per row."
            )
        rows_at: dict[int, list[int]] = {}
        for row, moment in enumerate(moments):
            rows_at.setdefault(micros(aware(moment)), []).append(row)
        columns: dict[str, list[Any]] = {name: [None] * len(listed) for name in self.types}
        for moment_us, chosen in rows_at.items():
            values = self.look_up([listed[row] for row in chosen], moment_us)
            for name, column in columns.items():
                for row, value in zip(chosen, values.columns[name], strict=True):
                    column[row] = value
        return pa.table(
            {
                name: pa.array(columns[name], on_demand.arrow_type(kind))
                for name, kind in self.types.items()
            }
        )

    def typed(
        self, rows: Any, more: Mapping[str, ColumnType] | None = None
    ) -> list[dict[str, Any]]:
        """Rows with their keys, request columns and columns of `more`, in the declared types.

        Raises the errors of `read`.
        """
        asked = {**self.keys, **self.request_columns}
        types = {name: type_of_feast(kind) for name, kind in asked.items()}
        optional = [name for name in asked if name in self.use_case.optional_keys]
        needed = [name for name in asked if name not in optional]
        return typed_rows(rows, {**(more or {}), **types}, needed=needed, optional=optional)

    def look_up(self, rows: Sequence[Row], at: int) -> OnlineValues:
        """The values of `read` as lists, with the status of each view; `at` in microseconds.

        `rows` have the declared types. Raises `NotBuilt` if a view is not online, `PastNotKept` if
        the online store has already replaced the values of the moment, `BrokenTable` if a record is
        damaged, and `InvalidRequest` if a request-time feature cannot be computed from a row.
        """
        keys = {key: _record_keys(view, rows) for key, view in self._keys.items()}
        columns: dict[str, list[Any]] = {}
        views: dict[str, ViewValues] = {}
        stored = self._reader.unpacked(keys, at)
        for view, shown in zip(self.views, self._reader.by_view(stored), strict=True):
            self._check(view, shown, keys[view.key], at)
            views[view.name] = shown
            for name, index in view.columns:
                columns[name] = shown.values(index)
        for each in self._on_demand:
            columns.update(self._computed(each, columns, rows, at))
        return OnlineValues(
            {name: columns[name] for name in self.types}, views, stored, self._matrix_columns
        )

    def _check(
        self, view: ReadView, shown: ViewValues, keys: Sequence[bytes | None], at: int
    ) -> None:
        """Raise if a record of the view is damaged, or falsely reported as not found."""
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
        """Raise unless the missing entities really had no row at the moment.

        Records are also missing while a materialization or rebuild runs, and the store may have
        replaced earlier rows with later ones.
        """
        if not missing:
            return
        watermark = self.database.records.watermark(view.online)
        if watermark is None or watermark.version != self._versions.get(view.online.name):
            # Slow: it reads the manifest too.
            watermark = online_watermark(self.domain.home, self.database, view.online)
        if watermark is None:
            raise self._not_online([view.online.name])
        if at < watermark.until and any(
            row.event is not None for row in self.database.read(view.online, missing, _END_OF_TIME)
        ):
            then, until = iso(from_micros(at)), iso(from_micros(watermark.until))
            raise PastNotKept(
                f"the online store is materialized to {until} and no longer has the values of"
                f" view '{view.name}' at {then}; ask for {until} or later, or run: punctual batch"
                f" {self.use_case.name} --as-of {then}."
            )

    def _computed(
        self, each: _OnDemand, columns: dict[str, list[Any]], rows: Sequence[Row], at: int
    ) -> dict[str, list[Any]]:
        try:
            return self._run(each, columns, rows, at)
        except PunctualError:
            raise
        except Exception as error:  # the domain's function may raise any exception
            for number, row in enumerate(rows):
                single = {name: [values[number]] for name, values in columns.items()}
                try:
                    self._run(each, single, [row], at)
                except Exception as cause:  # this row is the cause
                    raise InvalidRequest(
                        f"rows[{number}]: the features of '{each.view.name}' cannot be computed"
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
    # A view without entities has a single record, under Feast's dummy key.
    dummy = [DUMMY_ENTITY_VAL] * len(rows)
    return view.online.all_keys(
        *(dummy if key == DUMMY_ENTITY_ID else [row.get(key) for row in rows] for key in view.keys)
    )
