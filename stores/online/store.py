"""Feast online store over packed rows, on SQLite or on Redis."""

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
    """What `feature_store.yaml` may say about this store: a SQLite file (absolute path), or a Redis
    server.

    `redis` is an address, `redis://:${PASSWORD}@host:6379/0`, or `rediss://…` for TLS, whose
    options redis-py reads from the query (`?ssl_ca_certs=/…`). `cluster: true` says that it is one
    of a Redis cluster. No answer within `timeout_seconds` is an error.
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
                "online_store needs either path (a SQLite file) or redis (an address), and not both"
            )
        return self


def packed_database(config: RepoConfig) -> PackedDatabase:
    """The packed records that a configuration's online store is over."""
    online = config.online_store
    return open_database(
        config.project,
        path=online.path,
        redis=online.redis,
        cluster=online.cluster,
        timeout_seconds=online.timeout_seconds,
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """A view and the columns of a request that its join keys are in; one for as long as Feast's
    object of the view lives.
    """

    view: OnlineView
    columns: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """What views that are looked up together share."""
        return self.view.keyed_by(self.columns)

    def keys(self, given: dict[str, list[Value]], rows: int) -> list[bytes | None]:
        """The key of each row of a request."""
        values = [
            [_plain(value) for value in given[name]] if name in given else [None] * rows
            for name in self.columns
        ]
        return self.view.all_keys(*values)


class PackedOnlineStore(OnlineStore):
    """See the module; behind Feast's interface. Feast gives no moment with a read, so it judges by
    the wall clock.
    """

    def __init__(self) -> None:
        self._database: PackedDatabase | None = None
        self._known: dict[int, tuple[FeatureView, _Asked]] = {}
        self._readers: dict[tuple[_Asked, ...], Reader] = {}

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
        """Merge rows that Feast hands over; naive times are UTC, a missing created time is the
        event's.
        """
        view = OnlineView.of(config.project, table)
        keyed = [
            (view.entity_keys.encode(_key_values(entity, view)), entity, *rest)
            for entity, *rest in data
        ]
        known = [row for row in keyed if row[0] is not None]
        if known:
            keys, _, values, events, created = zip(*known, strict=True)
            columns = [
                [
                    feast_value_type_to_python_type(row[name]) if name in row else None
                    for row in values
                ]
                for name in view.features
            ]
            happened = [micros(assume_utc(event)) for event in events]
            became_known = [
                micros(assume_utc(moment or event))
                for moment, event in zip(created, events, strict=True)
            ]
            rows = Rows(
                keys, happened, became_known, view.layout.rows(columns, happened, became_known)
            )
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
        """What is effective now, per entity key; (None, None) where there is nothing, no values
        where the row is older than the ttl.

        A view that was never written has nothing: between `feast apply` and the first
        materialization Feast wants nulls, not an error. The platform's own reader says that it is
        not built.
        """
        view = OnlineView.of(config.project, table)
        keys = [view.entity_keys.encode(_key_values(entity, view)) for entity in entity_keys]
        try:
            shown = self.database(config).read(view, keys, micros(datetime.now(UTC)))
        except NotBuilt:
            return [(None, None)] * len(keys)
        types = {column.name: column.dtype.to_value_type() for column in table.features}
        wanted = requested_features or list(view.features)
        answer: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for row in shown:
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
        """`online_read` in a thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    async def online_write_batch_async(self, *arguments: Any, **named: Any) -> None:
        """`online_write_batch` in a thread."""
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
        """All views in one look, answered by column; a key that is null or left out is not found."""
        asked = [self._asked(config, table) for table, _ in views]
        if not any(column in keys for each in asked for column in each.columns):
            # Feast says which keys it expected.
            return super()._read_features_per_fv(config, views, keys, names, response, *options)
        rows = len(next(iter(keys.values())))
        given = {
            key: each.keys(keys, rows) for key, each in {each.key: each for each in asked}.items()
        }
        shown = self._shown(config, asked, given)
        full_names, with_versions = options
        found = []
        for (table, features), each, values in zip(views, asked, shown, strict=True):
            called = table.projection.name_to_use()
            response.metadata.feature_names.val.extend(
                f"{called}__{name}" if full_names else name for name in features
            )
            if with_versions:
                _add_version(response, table)
            found.append(results(each.view, features, values))
        response.MergeFromString(b"".join(found))
        return None

    def _shown(
        self,
        config: RepoConfig,
        asked: Sequence[_Asked],
        keys: Mapping[str, Sequence[bytes | None]],
    ) -> list[ViewValues]:
        """What the views show now; one that was never written shows nothing."""
        now = micros(datetime.now(UTC))
        reader = self._reader(config, asked)
        try:
            return reader.read(keys, now)
        except NotBuilt:
            if len(asked) == 1:
                return reader.nothing(len(keys[asked[0].key]))
            return [self._shown(config, [each], keys)[0] for each in asked]

    def _reader(self, config: RepoConfig, asked: Sequence[_Asked]) -> Reader:
        """The reader of some views, which is worked out once."""
        reader = self._readers.get(tuple(asked))
        if reader is None:
            if len(self._readers) > 1000:
                self._readers.clear()
            reader = self._readers[tuple(asked)] = Reader(
                self.database(config), [(each.view, each.key) for each in asked]
            )
        return reader

    async def _read_features_per_fv_async(self, *arguments: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *arguments)

    def _asked(self, config: RepoConfig, table: FeatureView) -> _Asked:
        """How a view is read; Feast hands the same objects over for as long as its registry cache
        lives.
        """
        kept = self._known.get(id(table))
        if kept is None or kept[0] is not table:
            if len(self._known) > 10_000:
                self._known.clear()
            view = OnlineView.of(config.project, table)
            renamed = table.projection.join_key_map
            kept = (table, _Asked(view, tuple(renamed.get(key, key) for key in view.join_keys)))
            self._known[id(table)] = kept
        return kept[1]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Remove the records of views that are gone; a view's own place comes with its first rows."""
        records = self.database(config).records
        try:
            there = records.views(config.project)
        except StoreOutdated:
            # The next materialization moves the whole file aside.
            return
        for name in {view.name for view in tables_to_delete}:
            for schema in there.get(name, []):
                records.drop(schema)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove everything."""
        self.database(config).records.teardown(config.project)


def _key_values(entity: EntityKey, view: OnlineView) -> list[Any]:
    values = dict(zip(entity.join_keys, entity.entity_values, strict=True))
    return [_plain(values[key]) if key in values else None for key in view.join_keys]


def _add_version(response: GetOnlineFeaturesResponse, table: FeatureView) -> None:
    """Which version of the view answers, as Feast says it."""
    name = table.projection.name_alias or table.projection.name
    if name not in [known.name for known in response.metadata.feature_view_metadata]:
        response.metadata.feature_view_metadata.add(
            name=name, version=getattr(table, "current_version_number", 0) or 0
        )


def _plain(value: Value) -> Any:
    """A key's value; None where it has none."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    return (
        feast_value_type_to_python_type(value)
        if kind == "unix_timestamp_val"
        else getattr(value, kind)
    )
