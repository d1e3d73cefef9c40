"""Feast offline store: the point-in-time join in event time and knowledge time.

At entity row (keys, t) a view shows, among its rows with the same keys, `event_timestamp <= t` and
`created_timestamp <= t`, the one with the greatest `event_timestamp`, ties to the greatest
`created_timestamp`; nulls if `event_timestamp + ttl < t`. The result has all entity rows, in their
order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
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
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import compute_non_entity_date_range

from punctual.errors import InvalidRequest, NotBuilt
from punctual.times import assume_utc, aware, micros
from stores.offline.entity_rows import EntityFrame
from stores.offline.join import Join, JoinedView
from stores.offline.pushed_rows import append_to_file, append_to_table
from stores.offline.retrieval_job import AsofRetrievalJob, as_pandas
from stores.offline.view_columns import refuse_reserved_feature
from stores.offline.view_files import history_of, plain_scan, published, source_path
from stores.tables import EVENT, WITHDRAWN, connect, quoted, timestamp


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """The settings under `offline_store` in `feature_store.yaml`.

    `point_in_time`: `two_time` (the default) or `event_time`, Feast's own join. `naive_timestamps`:
    `refuse` entity times without a zone (the default) or read them as `utc`. `memory_limit` (such
    as `4GB`), `threads` and `spill_folder` hold for each call. `home` is the data folder, to which
    relative paths of sources are relative, and which has the default spill folder. `as_of`
    (microseconds since 1970 in UTC) and `commits` (table name to version and commit) select the
    visible rows; `point_in_time_join` sets them.
    """

    type: Literal["stores.offline.AsofOfflineStore"] = "stores.offline.AsofOfflineStore"
    point_in_time: Literal["two_time", "event_time"] = "two_time"
    naive_timestamps: Literal["refuse", "utc"] = "refuse"
    memory_limit: str | None = None
    threads: int | None = None
    spill_folder: str | None = None
    home: str | None = None
    as_of: int | None = None
    commits: dict[str, tuple[int, int]] | None = None

    @property
    def data_folder(self) -> Path | None:
        """The data folder, if the configuration names one."""
        return Path(self.home) if self.home else None

    @property
    def spill(self) -> Path | None:
        """The folder to which joins spill; None for the system's temporary folder."""
        if self.spill_folder:
            return Path(self.spill_folder)
        return Path(self.home, "spill") if self.home else None


class AsofOfflineStore(OfflineStore):
    """The offline store behind Feast's interface; safe for several threads and processes."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: EntityFrame | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> AsofRetrievalJob:
        """A job that joins the requested features to the entity rows, as the module describes."""
        settings: AsofOfflineStoreConfig = config.offline_store
        if entity_df is None:
            entity_df = _rows_between(
                settings.data_folder,
                feature_views,
                kwargs.get("start_date"),
                kwargs.get("end_date"),
            )
        requested = _requested_features(feature_refs)
        views = []
        for view in feature_views:
            name = view.projection.name_to_use()
            history = partial(
                history_of,
                view,
                requested.get(name, []),
                as_of=settings.as_of,
                commits=settings.commits,
                home=settings.data_folder,
            )
            views.append(
                JoinedView(
                    history,
                    f"{name}__" if full_feature_names else "",
                    micros(view.ttl) if view.ttl else 0,
                )
            )
        join = Join(
            entity_df,
            views,
            partial(_connection, settings),
            two_time=settings.point_in_time == "two_time" or filter_by_created_timestamp,
            naive=settings.naive_timestamps,
            threads=settings.threads,
        )
        return AsofRetrievalJob(
            join,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            requested_features=requested,
            full_feature_names=full_feature_names,
            features=feature_refs,
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
    ) -> RetrievalJob:
        """The newest row per entity with an event time in `[start_date, end_date]`; no row for an
        entity whose newest row is a withdrawal.
        """
        newest = ", ".join(
            f"{quoted(column)} DESC"
            for column in (timestamp_field, created_timestamp_column)
            if column
        )
        keys = ", ".join(map(quoted, join_key_columns))
        newest_only = f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest}) = 1"
        columns = [*join_key_columns, *feature_name_columns]
        if (
            table := published(data_source, config.offline_store.data_folder)
        ) and table.has_withdrawals:
            newest_only += f" AND NOT coalesce({WITHDRAWN}, false)"
        return _pull(
            config,
            data_source,
            columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            newest_only,
        )

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
    ) -> RetrievalJob:
        """Every row with an event time in `[start_date, end_date]`.

        A saved dataset is returned with all its columns: Feast requests only its keys and features,
        which would drop the labels.
        """
        is_saved_dataset = not data_source.timestamp_field
        columns = [] if is_saved_dataset else [*join_key_columns, *feature_name_columns]
        return _pull(
            config,
            data_source,
            columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            "",
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append the rows that the view's table does not have yet, in one commit."""
        refuse_reserved_feature(feature_view)
        home = config.offline_store.data_folder
        target = published(feature_view.batch_source, home)
        if target is None:
            append_to_file(feature_view, table, home)
        else:
            append_to_table(feature_view, target, table)
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
        """Write logged features to a new Parquet file in the destination folder."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ValueError(f"expected a FileLoggingDestination, got {type(destination).__name__}")
        rows = pq.read_table(data) if isinstance(data, Path) else data
        folder = Path(destination.path)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.parquet")

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept tables, which may not be built yet; let Feast check single files."""
        if isinstance(data_source, FileSource) and Path(data_source.path).suffix == "":
            return
        super().validate_data_source(config, data_source)


def point_in_time_join(
    store: FeatureStore,
    entity_rows: EntityFrame,
    features: FeatureService | list[str],
    *,
    as_of: datetime | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
) -> AsofRetrievalJob:
    """`get_historical_features` of Feast with full feature names, `as_of` and `commits`.

    `entity_rows`: a pandas, Arrow or polars frame, a Parquet path, SQL text or a DuckDB relation,
    with the join keys and `event_timestamp` (the prediction time, with a zone). `as_of` (aware UTC)
    hides rows created later; `commits` pins tables (name to version and commit). The join runs when
    the job's result is read.
    """
    pinned = {"as_of": None if as_of is None else micros(aware(as_of)), "commits": commits}
    config = store.config.model_copy()
    settings: AsofOfflineStoreConfig = store.config.offline_store
    config._offline_store = settings.model_copy(update=pinned)
    # Feast would otherwise read naive pandas times as UTC before the store can refuse them.
    config.coerce_tz_aware = False
    pinned_store = FeatureStore(config=config)
    # Shares the loaded registry, which a new one would read again.
    pinned_store._registry = store.registry
    job = pinned_store.get_historical_features(entity_rows, features, full_feature_names=True)  # type: ignore[arg-type]
    assert isinstance(job, AsofRetrievalJob)
    return job


def historical_features(
    store: FeatureStore,
    entity_rows: EntityFrame,
    features: FeatureService | list[str],
    *,
    as_of: datetime | None = None,
    commits: dict[str, tuple[int, int]] | None = None,
) -> pa.Table:
    """The result of `point_in_time_join` as Arrow."""
    return point_in_time_join(store, entity_rows, features, as_of=as_of, commits=commits).to_arrow()


def _connection(settings: AsofOfflineStoreConfig) -> duckdb.DuckDBPyConnection:
    return connect(
        memory_limit=settings.memory_limit, threads=settings.threads, temporary=settings.spill
    )


def _rows_between(
    home: Path | None, views: list[FeatureView], start: datetime | None, end: datetime | None
) -> str:
    """The entity rows of a request without any, as SQL: the keys and event times of the views' rows
    in `[start, end]` (Feast's defaults).
    """
    begin, until = compute_non_entity_date_range(views, start_date=start, end_date=end)
    histories = [history_of(view, [], home=home) for view in views]
    bounds = (
        f"NOT __withdrawn AND __event BETWEEN {micros(assume_utc(begin))} AND"
        f" {micros(assume_utc(until))}"
    )
    selects = []
    for view, history in zip(views, histories, strict=True):
        if [*history.keys] != [*histories[0].keys]:
            raise InvalidRequest(
                f"views '{views[0].name}' and '{view.name}' have different keys, so their rows"
                " have no entity rows in common; pass entity rows, or request one view at a time."
            )
        if history.paths:
            names = [f"__key{number} AS {quoted(name)}" for number, name in enumerate(history.keys)]
            event = f"make_timestamp(__event)::TIMESTAMPTZ AS {EVENT}"
            selects.append(
                f"""
                SELECT DISTINCT {", ".join([*names, event])}
                FROM ({history.scan()})
                WHERE {bounds}
                """
            )
    if not selects:
        raise NotBuilt(
            f"views {', '.join(view.name for view in views)} have no rows yet; build them, or pass"
            " entity rows."
        )
    return " UNION ".join(selects) + " ORDER BY ALL"


def _requested_features(refs: list[str]) -> dict[str, list[str]]:
    requested: dict[str, list[str]] = {}
    for ref in refs:
        view, feature = ref.split(":", 1)
        requested.setdefault(view, []).append(feature)
    return requested


def _pull(
    config: RepoConfig,
    source: DataSource,
    columns: list[str],
    timestamp_field: str,
    created_column: str | None,
    start: datetime | None,
    end: datetime | None,
    qualify: str,
) -> RetrievalJob:
    def read() -> pa.Table:
        home = config.offline_store.data_folder
        table = published(source, home)
        with _connection(config.offline_store) as connection:
            scan = table.scan() if table else plain_scan(source_path(source, home))  # type: ignore[arg-type]
            selected = (
                ", ".join(
                    map(
                        quoted,
                        [*columns, timestamp_field, *([created_column] if created_column else [])],
                    )
                )
                if columns
                else "*"
            )
            bounds = [
                f"{quoted(timestamp_field)} {sign} {timestamp(assume_utc(moment))}"
                for sign, moment in ((">=", start), ("<=", end))
                if moment
            ]
            where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
            return connection.sql(
                f"SELECT {selected} FROM ({scan}){where} {qualify}"
            ).to_arrow_table()

    return _PulledRows(read)


class _PulledRows(RetrievalJob):
    """The rows of one table, read when a result is requested."""

    def __init__(self, read: Callable[[], pa.Table]) -> None:
        self._read = read

    @property
    def full_feature_names(self) -> bool:
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._read()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return as_pandas(self._read())
