"""The Feast online store over packed records, on SQLite or on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from pydantic import model_validator

from punctual.errors import NotBuilt, StoreOutdated
from punctual.times import assume_utc, from_micros, micros
from stores.online.database import open_database
from stores.online.feast_response import results
from stores.online.reader import Reader
from stores.online.record_batch import ViewValues
from stores.online.records import PackedDatabase, Rows
from stores.online.view import OnlineView


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """The options of this store in `feature_store.yaml`: a SQLite file, or a Redis server.

    `path` is the absolute path of a SQLite file. `redis` is an address,
    `redis://:${PASSWORD}@host:6379/0`, or `rediss://…` for TLS, with redis-py's options in the
    query (`?ssl_ca_certs=/…`). With `cluster: true` it is the address of a cluster node. No answer
    within `timeout_seconds` is an error.
    """

    type: Literal["stores.online.PackedOnlineStore"] = "stores.online.PackedOnlineStore"
    path: str | None = None
    redis: str | None = None
    cluster: bool = False
    timeout_seconds: float = 2.0

    @model_validator(mode="after")
    def _one_of_them(self) -> PackedOnlineStoreConfig:
        if (self.path is None) == (self.redis is None):
            raise ValueError(
                "online_store needs either path (a SQLite file) or redis (an address), not both"
            )
        return self


def packed_database(config: RepoConfig) -> PackedDatabase:
    """The packed records of a configuration's online store."""
    online = config.online_store
    return open_database(
        config.project,
        path=online.path,
        redis=online.redis,
        cluster=online.cluster,
        timeout_seconds=online.timeout_seconds,
    )


@dataclass(frozen=True, eq=False)
class _RequestedView:
    """A view, and the request columns that hold its join keys."""

    view: OnlineView
    columns: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """The identifier that views with equal keys share; they are read together."""
        return self.view.keyed_by(self.columns)

    def keys(self, given: dict[str, list[Value]], rows: int) -> list[bytes | None]:
        """The view's record key for each row of a request."""
        values = [
            [_plain(value) for value in given[name]] if name in given else [None] * rows
            for name in self.columns
        ]
        return self.view.all_keys(*values)


class PackedOnlineStore(OnlineStore):
    """Feast's online store interface. Feast passes no time to a read, so the wall clock is used."""

    def __init__(self) -> None:
        self._database: PackedDatabase | None = None
        self._requested_views: dict[int, tuple[FeatureView, _RequestedView]] = {}
        self._readers: dict[tuple[_RequestedView, ...], Reader] = {}

    def database(self, config: RepoConfig) -> PackedDatabase:
        """The packed records of the configuration."""
        if self._database is None:
            self._database = packed_database(config)
        return self._database

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge Feast's rows; naive times are UTC, a missing created time is the event time."""
        view = OnlineView.of(config.project, table)
        keyed = [
            (view.entity_keys.encode(_key_values(entity, view)), entity, *rest)
            for entity, *rest in data
        ]
        with_key = [row for row in keyed if row[0] is not None]
        if with_key:
            keys, _, values, events, created = zip(*with_key, strict=True)
            columns = [
                [
                    feast_value_type_to_python_type(row[name]) if name in row else None
                    for row in values
                ]
                for name in view.features
            ]
            event_us = [micros(assume_utc(event)) for event in events]
            created_us = [
                micros(assume_utc(created_time or event))
                for created_time, event in zip(created, events, strict=True)
            ]
            rows = Rows(keys, event_us, created_us, view.layout.rows(columns, event_us, created_us))
            self.database(config).write(view, rows, micros(datetime.now(UTC)))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The effective row per entity key: event time and values.

        (None, None) without a row, and an empty dict if the row is older than the ttl. A view that
        was never written has no rows: between `feast apply` and the first materialization Feast
        expects nulls, not an error. The platform's own reader raises `NotBuilt`.
        """
        view = OnlineView.of(config.project, table)
        keys = [view.entity_keys.encode(_key_values(entity, view)) for entity in entity_keys]
        try:
            found = self.database(config).read(view, keys, micros(datetime.now(UTC)))
        except NotBuilt:
            return [(None, None)] * len(keys)
        types = {column.name: column.dtype.to_value_type() for column in table.features}
        wanted = requested_features or list(view.features)
        answer: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for row in found:
            if row.event is None:
                answer.append((None, None))
                continue
            if row.status != "PRESENT":
                answer.append((from_micros(row.event), {}))
                continue
            values = dict(zip(view.features, row.values, strict=True))
            protos = {
                name: python_values_to_proto_values([values[name]], types[name])[0]
                for name in wanted
            }
            answer.append((from_micros(row.event), protos))
        return answer

    async def online_read_async(
        self, *arguments: Any, **named: Any
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Run `online_read` in a thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    async def online_write_batch_async(self, *arguments: Any, **named: Any) -> None:
        """Run `online_write_batch` in a thread."""
        await asyncio.to_thread(self.online_write_batch, *arguments, **named)

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        views: list,
        keys: dict,
        names: dict,
        response: GetOnlineFeaturesResponse,
        *options: bool,
    ) -> None:
        """Read all views at once, column by column; a null or missing key is `NOT_FOUND`."""
        requested = [self._requested(config, table) for table, _ in views]
        if not any(column in keys for each in requested for column in each.columns):
            # Feast raises the error that names the expected keys.
            return super()._read_features_per_fv(config, views, keys, names, response, *options)
        rows = len(next(iter(keys.values())))
        given = {
            key: each.keys(keys, rows)
            for key, each in {each.key: each for each in requested}.items()
        }
        read = self._read(config, requested, given)
        full_names, with_versions = options
        found = []
        for (table, features), each, values in zip(views, requested, read, strict=True):
            called = table.projection.name_to_use()
            response.metadata.feature_names.val.extend(
                f"{called}__{name}" if full_names else name for name in features
            )
            if with_versions:
                _add_version(response, table)
            found.append(results(each.view, features, values))
        response.MergeFromString(b"".join(found))
        return None

    def _read(
        self,
        config: RepoConfig,
        requested: Sequence[_RequestedView],
        keys: Mapping[str, Sequence[bytes | None]],
    ) -> list[ViewValues]:
        """The present values of the views; a view that was never written has none."""
        now = micros(datetime.now(UTC))
        reader = self._reader(config, requested)
        try:
            return reader.read(keys, now)
        except NotBuilt:
            if len(requested) == 1:
                return reader.not_found(len(keys[requested[0].key]))
            return [self._read(config, [each], keys)[0] for each in requested]

    def _reader(self, config: RepoConfig, requested: Sequence[_RequestedView]) -> Reader:
        """The reader of some views, cached."""
        reader = self._readers.get(tuple(requested))
        if reader is None:
            if len(self._readers) > 1000:
                self._readers.clear()
            reader = self._readers[tuple(requested)] = Reader(
                self.database(config), [(each.view, each.key) for each in requested]
            )
        return reader

    async def _read_features_per_fv_async(self, *arguments: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *arguments)

    def _requested(self, config: RepoConfig, table: FeatureView) -> _RequestedView:
        """The view of a Feast view, cached while Feast's registry cache returns the same object."""
        cached = self._requested_views.get(id(table))
        if cached is None or cached[0] is not table:
            if len(self._requested_views) > 10_000:
                self._requested_views.clear()
            view = OnlineView.of(config.project, table)
            renamed = table.projection.join_key_map
            cached = (
                table,
                _RequestedView(view, tuple(renamed.get(key, key) for key in view.join_keys)),
            )
            self._requested_views[id(table)] = cached
        return cached[1]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Remove the records of deleted views; a view's storage is created by its first write."""
        records = self.database(config).records
        try:
            schemas = records.views(config.project)
        except StoreOutdated:
            # The next materialization moves the whole file aside.
            return
        for name in {view.name for view in tables_to_delete}:
            for schema in schemas.get(name, []):
                records.drop(schema)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove everything of the project."""
        self.database(config).records.teardown(config.project)


def _key_values(entity: EntityKey, view: OnlineView) -> list[Any]:
    values = dict(zip(entity.join_keys, entity.entity_values, strict=True))
    return [_plain(values[key]) if key in values else None for key in view.join_keys]


def _add_version(response: GetOnlineFeaturesResponse, table: FeatureView) -> None:
    """Add the view's version to the metadata of Feast's response."""
    name = table.projection.name_alias or table.projection.name
    if name not in [known.name for known in response.metadata.feature_view_metadata]:
        response.metadata.feature_view_metadata.add(
            name=name, version=getattr(table, "current_version_number", 0) or 0
        )


def _plain(value: Value) -> Any:
    """The Python value of a key; None if it is null."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    return (
        feast_value_type_to_python_type(value)
        if kind == "unix_timestamp_val"
        else getattr(value, kind)
    )
