"""Feast offline store: the point-in-time join in event time and knowledge time, as one DuckDB `ASOF` join a view.

At entity row (keys, t) a view shows, among its rows with the same keys, `event_timestamp <= t` and
`created_timestamp <= t`, the one with the greatest `event_timestamp`, ties to the greatest `created_timestamp`;
nulls if `event_timestamp + ttl < t`. Output rows are the entity rows, all of them, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView, FileSource, OnDemandFeatureView
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_service import FeatureService
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.errors import InvalidRequest, NotBuilt
from feature_repo.times import aware, micros
from stores import on_demand
from stores.asof import declared_schema, joined, moments_of, plain_scan, published
from stores.table import connect, quoted, timestamp


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """What `feature_store.yaml` may say about this store.

    `point_in_time`: `two_time` (the default) or `event_time`, Feast's own join. `as_of` (microseconds since 1970
    in UTC) and `commits` (table name to version and commit) are for `historical_features`; they pin what is shown.
    """

    type: Literal["stores.offline.AsofOfflineStore"] = "stores.offline.AsofOfflineStore"
    point_in_time: Literal["two_time", "event_time"] = "two_time"
    memory_limit: str | None = None
    threads: int | None = None
    spill_folder: str | None = None
    as_of: int | None = None
    commits: dict[str, tuple[int, int]] | None = None


class AsofRetrievalJob(RetrievalJob):
    """A join that runs when its result is asked for, on a connection of its own."""

    def __init__(
        self,
        read: Callable[[], pa.Table],
        *,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        asked: dict[str, list[str]] | None = None,
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._read = read
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._asked = asked or {}
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that are computed on top."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What Feast asks about a retrieval."""
        return self._metadata

    def to_arrow(self, validation_reference: Any = None, timeout: int | None = None) -> pa.Table:
        """All columns, on-demand features included.

        Feast's own way hands every column to every on-demand function as Python lists and guesses the types of
        what comes back; here a function gets its inputs, and its outputs have their declared types.
        """
        table = self._read()
        table = on_demand.append(table, self._on_demand_feature_views, self._asked, full_names=self._full_feature_names)
        if validation_reference is not None:
            raise NotImplementedError("dataset validation is not part of this offline store")
        return table

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._read()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._read().to_pandas()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result to one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ValueError(f"expected a SavedDatasetFileStorage, got {type(storage).__name__}")
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise FileExistsError(f"{path} exists; allow_overwrite=True replaces it")
        aside = path.with_suffix(".aside")
        pq.write_table(self.to_arrow(), aside)
        aside.replace(path)


class AsofOfflineStore(OfflineStore):
    """See the module; behind Feast's interface. Calls from several threads or processes are safe."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> AsofRetrievalJob:
        """A job that joins the asked features to the entity rows; see the module for what it means."""
        if entity_df is None:
            raise InvalidRequest("a point-in-time join needs entity rows (a frame, an Arrow table or SQL); got none.")
        settings: AsofOfflineStoreConfig = config.offline_store
        two_time = settings.point_in_time == "two_time" or filter_by_created_timestamp
        asked = _asked_features(feature_refs)
        on_demand_views = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)

        def read() -> pa.Table:
            with _connection(settings) as connection:
                entities = _entity_rows(entity_df, connection)
                moments = moments_of(entities)
                for view in feature_views:
                    names = asked.get(view.projection.name_to_use(), [])
                    columns = joined(connection, settings, view, names, entities, moments, two_time=two_time)
                    prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
                    for name in names:
                        if prefix + name in entities.column_names:
                            raise InvalidRequest(
                                f"feature '{prefix + name}' of view '{view.name}' would stand beside a column of that name; "
                                "ask with full_feature_names=True or rename the column."
                            )
                        entities = entities.append_column(prefix + name, columns[name])
            return entities

        return AsofRetrievalJob(
            read,
            on_demand_feature_views=on_demand_views,
            asked=asked,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(features=feature_refs, keys=[]),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> AsofRetrievalJob:
        """The newest row per entity with an event time in `[start_date, end_date]`."""
        newest = ", ".join(f"{quoted(column)} DESC" for column in (timestamp_field, created_timestamp_column) if column)
        keys = ", ".join(map(quoted, join_key_columns))
        last = f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest}) = 1"
        columns = [*join_key_columns, *feature_name_columns]
        return _pull(config, data_source, columns, timestamp_field, created_timestamp_column, start_date, end_date, last)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> AsofRetrievalJob:
        """Every row with an event time in `[start_date, end_date]`."""
        columns = [*join_key_columns, *feature_name_columns]
        return _pull(config, data_source, columns, timestamp_field, created_timestamp_column, start_date, end_date, "")

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> None:
        """Append rows to the view's table; rows that are not yet there are published as one commit."""
        target = published(feature_view.batch_source)
        if target is None:
            raise NotBuilt(f"view '{feature_view.name}' has no table yet; build it before pushing rows into it.")
        files = target.files()
        expected = pq.read_schema(target.root / files[0].path).remove_metadata() if files else declared_schema(feature_view)
        missing = [name for name in expected.names if name not in table.column_names]
        if missing:
            raise InvalidRequest(f"rows pushed into view '{feature_view.name}' lack {', '.join(missing)}.")
        try:
            rows = table.select(expected.names).cast(expected)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidRequest(f"rows pushed into view '{feature_view.name}' do not fit its columns: {error}.") from error
        with connect() as connection:
            connection.register("__pushed", rows)
            target.publish(connection, "FROM __pushed")
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Write logged features as one more Parquet file of the destination folder."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ValueError(f"expected a FileLoggingDestination, got {type(destination).__name__}")
        rows = pq.read_table(data) if isinstance(data, Path) else data
        folder = Path(destination.path)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.parquet")

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """A table that is not built yet is as valid as an empty one; other files are checked by Feast."""
        if isinstance(data_source, FileSource) and Path(data_source.path).suffix == "":
            return
        super().validate_data_source(config, data_source)


def historical_features(
    store: FeatureStore,
    entity_rows: pd.DataFrame | pa.Table,
    features: FeatureService | list[str],
    *,
    as_of: datetime | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
) -> pa.Table:
    """Feast's `get_historical_features` under full feature names, with the cut that its signature has no room for.

    `as_of` (aware UTC) shows only rows created by then; `commits` pins tables (name to version and commit).
    Raises `NaiveTimestamp` for naive entity times.
    """
    pinned = {"as_of": None if as_of is None else micros(aware(as_of)), "commits": commits}
    config = store.config.model_copy()
    settings: AsofOfflineStoreConfig = store.config.offline_store
    config._offline_store = settings.model_copy(update=pinned)
    view_of_then = FeatureStore(config=config)
    # The registry is the same, and opening it again would read it again.
    view_of_then._registry = store.registry
    frame = entity_rows if isinstance(entity_rows, pa.Table) else pa.Table.from_pandas(entity_rows, preserve_index=False)
    moments_of(frame)
    return view_of_then.get_historical_features(frame, features, full_feature_names=True).to_arrow()


def _connection(settings: AsofOfflineStoreConfig) -> duckdb.DuckDBPyConnection:
    spill = Path(settings.spill_folder) if settings.spill_folder else None
    connection = connect(memory_limit=settings.memory_limit, threads=settings.threads, temporary=spill)
    # DuckDB takes a frame of unknown size for a small one and would join it in nested loops, a thousand times slower.
    connection.execute("SET asof_loop_join_threshold = 0")
    return connection


def _asked_features(refs: list[str]) -> dict[str, list[str]]:
    asked: dict[str, list[str]] = {}
    for ref in refs:
        view, feature = ref.split(":", 1)
        asked.setdefault(view, []).append(feature)
    return asked


def _entity_rows(entity_df: pd.DataFrame | pa.Table | str, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    if isinstance(entity_df, str):
        return connection.execute(entity_df).to_arrow_table()
    if isinstance(entity_df, pa.Table):
        return entity_df
    return pa.Table.from_pandas(entity_df, preserve_index=False)


def _pull(
    config: RepoConfig,
    source: DataSource,
    columns: list[str],
    timestamp_field: str,
    created_column: str | None,
    start: datetime | None,
    end: datetime | None,
    last: str,
) -> AsofRetrievalJob:
    def read() -> pa.Table:
        table = published(source)
        with _connection(config.offline_store) as connection:
            scan = table.scan() if table else plain_scan(Path(source.path))  # type: ignore[attr-defined]
            wanted = ", ".join(map(quoted, [*columns, timestamp_field, *([created_column] if created_column else [])]))
            bounds = [
                f"{quoted(timestamp_field)} {sign} {timestamp(_in_utc(moment))}" for sign, moment in ((">=", start), ("<=", end)) if moment
            ]
            where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
            return connection.execute(f"SELECT {wanted} FROM ({scan}){where} {last}").to_arrow_table()

    return AsofRetrievalJob(read)


def _in_utc(moment: datetime) -> datetime:
    """Feast hands on naive moments for UTC ones."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
