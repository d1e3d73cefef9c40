"""Feast online store over packed rows on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from feature_repo.errors import NotBuilt
from feature_repo.times import from_micros, micros
from stores.packed import OnlineView, PackedDatabase, Row, encode_key


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say about this store: where its SQLite file is (an absolute path)."""

    type: Literal["stores.online.PackedOnlineStore"] = "stores.online.PackedOnlineStore"
    path: str


class PackedOnlineStore(OnlineStore):
    """See the module; behind Feast's interface. Feast gives no moment with a read, so it judges by the wall clock."""

    def __init__(self) -> None:
        self._database: PackedDatabase | None = None

    def database(self, config: RepoConfig) -> PackedDatabase:
        """The SQLite file of the configuration."""
        if self._database is None:
            self._database = PackedDatabase(Path(config.online_store.path))
        return self._database

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge rows that Feast hands over; naive times are UTC, a missing created time is the event's."""
        view = OnlineView.of(config.project, table)
        database = self.database(config)
        database.create(view)
        rows: list[tuple[bytes, Row]] = []
        for entity, values, event, created in data:
            key = encode_key(_key_values(entity, view))
            if key is not None:
                read = [feast_value_type_to_python_type(values[name]) if name in values else None for name in view.features]
                rows.append((key, [_micros(event), _micros(created or event), *read]))
        database.write(view, rows, micros(datetime.now(UTC)))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """What is effective now, per entity key; (None, None) where there is nothing, no values where the row is older than the ttl.

        A view that was never written has nothing: between `feast apply` and the first materialization Feast wants
        nulls, not an error. The platform's own reader says that it is not built.
        """
        view = OnlineView.of(config.project, table)
        keys = [encode_key(_key_values(entity, view)) for entity in entity_keys]
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
            protos = {name: python_values_to_proto_values([values[name]], types[name])[0] for name in wanted}
            answer.append((from_micros(row.event), protos))
        return answer

    async def online_read_async(self, *arguments: Any, **named: Any) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """`online_read` in a thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    async def online_write_batch_async(self, *arguments: Any, **named: Any) -> None:
        """`online_write_batch` in a thread."""
        await asyncio.to_thread(self.online_write_batch, *arguments, **named)

    def _read_features_per_fv(
        self, config: RepoConfig, views: list, keys: dict, names: dict, response: GetOnlineFeaturesResponse, *options: bool
    ) -> None:
        super()._read_features_per_fv(config, views, keys, names, response, *options)
        _tell_what_is_outside_its_age(response)

    async def _read_features_per_fv_async(
        self, config: RepoConfig, views: list, keys: dict, names: dict, response: GetOnlineFeaturesResponse, *options: bool
    ) -> None:
        await super()._read_features_per_fv_async(config, views, keys, names, response, *options)
        _tell_what_is_outside_its_age(response)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Remove the tables of views that are gone; a view's own table comes with its first rows."""
        database = self.database(config)
        gone = {view.name for view in tables_to_delete}
        for table in database.tables():
            if table.rsplit(".", 1)[0] in gone:
                database.drop(table)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file."""
        database = self.database(config)
        database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database.path}{suffix}").unlink(missing_ok=True)


def _key_values(entity: EntityKey, view: OnlineView) -> list[Any]:
    values = dict(zip(entity.join_keys, entity.entity_values, strict=True))
    return [feast_value_type_to_python_type(values[key]) if key in values else None for key in view.join_keys]


def _tell_what_is_outside_its_age(response: GetOnlineFeaturesResponse) -> None:
    """Feast calls every missing value `NOT_FOUND`; one whose row has a moment is `OUTSIDE_MAX_AGE`."""
    for vector in response.results:
        for number, status in enumerate(vector.statuses):
            if status == FieldStatus.NOT_FOUND and vector.event_timestamps[number].ByteSize():
                vector.statuses[number] = FieldStatus.OUTSIDE_MAX_AGE


def _micros(moment: datetime) -> int:
    return micros(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)
