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
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView, FileSource, OnDemandFeatureView
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.type_map import feast_value_type_to_pa

from feature_repo.errors import BrokenTable, InvalidRequest, NaiveTimestamp, NotBuilt, StoreOutdated
from feature_repo.times import aware, micros
from stores import on_demand
from stores.table import CREATED, EVENT, Table, connect, literal, quoted, timestamp

ROW = "__row"
MOMENT = "__moment"


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
                moments = _moments(entities)
                for view in feature_views:
                    names = asked.get(view.projection.name_to_use(), [])
                    columns = _joined(connection, settings, view, names, entities, moments, two_time=two_time)
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
        target = _published(feature_view.batch_source)
        if target is None:
            raise NotBuilt(f"view '{feature_view.name}' has no table yet; build it before pushing rows into it.")
        files = target.files()
        expected = pq.read_schema(target.root / files[0].path).remove_metadata() if files else _declared_schema(feature_view)
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
    _moments(frame)
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


def _moments(entities: pa.Table) -> pa.ChunkedArray:
    """The prediction moments as microseconds in UTC; finer times are cut, which changes no comparison."""
    if EVENT not in entities.column_names:
        raise InvalidRequest(f"entity rows need a column '{EVENT}'; they have {', '.join(entities.column_names)}.")
    type_ = entities.schema.field(EVENT).type
    if not pa.types.is_timestamp(type_) or type_.tz is None:
        raise NaiveTimestamp(
            f"entity column '{EVENT}' is {type_}; expected timestamps with a time zone, such as pd.to_datetime(…, utc=True)."
        )
    if entities[EVENT].null_count:
        raise InvalidRequest(
            f"{entities[EVENT].null_count} of {entities.num_rows} entity rows have no {EVENT}; every row needs its moment."
        )
    moments = entities[EVENT].cast(pa.timestamp(type_.unit, "UTC"))
    return pc.floor_temporal(moments, unit="microsecond").cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.timestamp("us"))


def _join_frame(view: FeatureView, entities: pa.Table, moments: pa.ChunkedArray) -> pa.Table:
    """The view's keys by number, the moments and the row numbers; whatever else the entity rows hold stays out of SQL."""
    columns = {MOMENT: moments, ROW: pa.array(np.arange(entities.num_rows))}
    for number, key in enumerate(_keys(view)):
        name = view.projection.join_key_map.get(key, key)
        if name not in entities.column_names:
            raise InvalidRequest(f"view '{view.name}' is keyed by '{name}'; the entity rows have no such column.")
        columns[f"__key{number}"] = entities[name]
    return pa.table(columns)


def _keys(view: FeatureView) -> list[str]:
    """The view's key columns in its table; a view without entities has none."""
    return [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


def _published(source: DataSource | None) -> Table | None:
    """The table behind a source, where its path is a folder of our own publisher's."""
    if not isinstance(source, FileSource):
        raise InvalidRequest(f"the as-of store reads file sources; got {type(source).__name__}.")
    path = Path(source.path)
    return Table.current(path.parent, path.name)


def _joined(
    connection: duckdb.DuckDBPyConnection,
    settings: AsofOfflineStoreConfig,
    view: FeatureView,
    features: list[str],
    entities: pa.Table,
    moments: pa.ChunkedArray,
    *,
    two_time: bool,
) -> dict[str, pa.ChunkedArray]:
    """The view's features at each entity row, in the order of the entity rows."""
    history, in_order = _history(connection, settings, view, features)
    connection.register("__entities", _join_frame(view, entities, moments))
    keys = _keys(view)
    chosen = _effective_rows(history, keys, in_order=in_order, two_time=two_time)
    expired = f" AND h.{EVENT} + to_microseconds({micros(view.ttl)}) >= e.{MOMENT}" if view.ttl else ""
    shown = ", ".join(f"CASE WHEN h.{EVENT} IS NOT NULL{expired} THEN h.{quoted(name)} END AS {quoted(name)}" for name in features)
    same_keys = "".join(f"e.__key{number} = h.{quoted(key)} AND " for number, key in enumerate(keys))
    result = connection.execute(
        f"SELECT {shown} FROM __entities AS e ASOF LEFT JOIN ({chosen}) AS h ON {same_keys}e.{MOMENT} >= h.__effective ORDER BY e.{ROW}"
    ).to_arrow_table()
    return {name: result[name] for name in features}


def _history(
    connection: duckdb.DuckDBPyConnection,
    settings: AsofOfflineStoreConfig,
    view: FeatureView,
    features: list[str],
) -> tuple[str, bool]:
    """A SELECT of keys, features and both times of the view's rows, and whether they arrived in order of event."""
    source = view.batch_source
    assert isinstance(source, FileSource)
    keys = _keys(view)
    table = _published(source)
    if table is not None:
        commit = None
        if settings.commits is not None:
            if table.name not in settings.commits:
                raise NotBuilt(f"the manifest pins no commit of table '{table.name}'.")
            version_number, commit = settings.commits[table.name]
            version = table.manifest.at_version(table.name, version_number)
            if version is None:
                raise NotBuilt(f"table '{table.name}' has no version {version_number} any more.")
            table = Table(table.root, version)
        elif view.tags.get("fingerprint", table.version.fingerprint) != table.version.fingerprint:
            raise StoreOutdated(f"table '{view.name}' was built from another definition than the registry's; run: punctual features build.")
        files = table.files(commit)
        if settings.as_of is not None:
            files = [file for file in files if file.min_created <= settings.as_of]
        if not files:
            return _no_history(connection, view), True
        in_order = all(file.in_order for file in files)
        scan = table.scan(files)
    else:
        path = Path(source.path)
        if settings.commits is not None:
            raise NotBuilt(f"the files of view '{view.name}' at {path} have no commits, so that none can be pinned.")
        if not path.exists():
            raise NotBuilt(f"view '{view.name}' has no table at {path}; build it first: punctual features build.")
        scan, in_order = _plain_scan(path), False
    present = {name for name, *_ in connection.execute(f"DESCRIBE {scan}").fetchall()}
    back = {new: old for old, new in source.field_mapping.items()}
    columns = {name: back.get(name, name) for name in (*keys, *features)}
    times = {EVENT: source.timestamp_field, CREATED: source.created_timestamp_column or source.timestamp_field}
    missing = [name for name in (*columns.values(), *times.values()) if name not in present]
    if missing:
        raise BrokenTable(
            f"view '{view.name}' declares {', '.join(missing)}, which its table does not have. "
            "Build it again after changing its definition: punctual features build."
        )
    selected = [f"{quoted(old)} AS {quoted(new)}" for new, old in columns.items()]
    # Naive times in files are UTC; zoned ones are brought to it by the connection's time zone.
    selected += [f"CAST({quoted(old)} AS TIMESTAMP) AS {new}" for new, old in times.items()]
    # DuckDB's ASOF join takes a null beside another key for equal to a null.
    conditions = [f"{quoted(columns[key])} IS NOT NULL" for key in keys]
    if settings.as_of is not None:
        conditions.append(f"CAST({quoted(times[CREATED])} AS TIMESTAMP) <= make_timestamp({settings.as_of})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {', '.join(selected)} FROM ({scan}){where}", in_order


def _plain_scan(path: Path) -> str:
    """A SELECT over Parquet files that are not a table of ours."""
    return f"SELECT * FROM read_parquet({literal(str(path / '**/*.parquet' if path.is_dir() else path))})"


def _no_history(connection: duckdb.DuckDBPyConnection, view: FeatureView) -> str:
    """No rows, with the columns and types that the view declares."""
    name = f"__empty_{view.name}"
    connection.register(name, _declared_schema(view).empty_table())
    return f"SELECT * FROM {quoted(name)}"


def _declared_schema(view: FeatureView) -> pa.Schema:
    columns = [(field.name, feast_value_type_to_pa(field.dtype.to_value_type())) for field in view.schema if field.name != DUMMY_ENTITY_ID]
    return pa.schema([*columns, (EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))])


def _effective_rows(history: str, keys: list[str], *, in_order: bool, two_time: bool) -> str:
    """The rows that are shown from `__effective` until the next row's, one per keys and moment.

    In both times a row takes effect at the later of them. A row older in event time than one already effective
    is never shown, so what remains are the running maxima in order of effect; where rows arrived in order all
    are. Equal event times need no more care: the later created takes effect later, or ties and sorts behind.
    """
    by_keys = ", ".join(map(quoted, keys)) or "NULL"
    if not two_time:
        return (
            f"SELECT *, {EVENT} AS __effective FROM ({history})"
            f" QUALIFY row_number() OVER (PARTITION BY {by_keys}, {EVENT} ORDER BY {CREATED} DESC) = 1"
        )
    effective = f"SELECT *, greatest({EVENT}, {CREATED}) AS __effective FROM ({history})"
    order = f"PARTITION BY {by_keys} ORDER BY __effective, {EVENT}, {CREATED}"
    if not in_order:
        effective = (
            f"SELECT * FROM ({effective}) QUALIFY {EVENT} >= coalesce(max({EVENT}) OVER"
            f" ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), {EVENT})"
        )
    return f"SELECT * FROM ({effective}) QUALIFY __effective IS DISTINCT FROM lead(__effective) OVER ({order})"


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
        table = _published(source)
        with _connection(config.offline_store) as connection:
            scan = table.scan() if table else _plain_scan(Path(source.path))  # type: ignore[attr-defined]
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
