"""The as-of join of one feature view in SQL: which rows are shown from when on, and one `ASOF` join on that moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, FileSource
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID
from feast.type_map import feast_value_type_to_pa

from feature_repo.errors import BrokenTable, InvalidRequest, NaiveTimestamp, NotBuilt, StoreOutdated
from feature_repo.times import micros
from stores.table import CREATED, EVENT, Table, literal, quoted

if TYPE_CHECKING:
    from stores.offline import AsofOfflineStoreConfig

ROW = "__row"
MOMENT = "__moment"


def moments_of(entities: pa.Table) -> pa.ChunkedArray:
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


def published(source: DataSource | None) -> Table | None:
    """The table behind a source, where its path is a folder of our own publisher's."""
    if not isinstance(source, FileSource):
        raise InvalidRequest(f"the as-of store reads file sources; got {type(source).__name__}.")
    path = Path(source.path)
    return Table.current(path.parent, path.name)


def joined(
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
    table = published(source)
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
        scan, in_order = plain_scan(path), False
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


def plain_scan(path: Path) -> str:
    """A SELECT over Parquet files that are not a table of ours."""
    return f"SELECT * FROM read_parquet({literal(str(path / '**/*.parquet' if path.is_dir() else path))})"


def _no_history(connection: duckdb.DuckDBPyConnection, view: FeatureView) -> str:
    """No rows, with the columns and types that the view declares."""
    name = f"__empty_{view.name}"
    connection.register(name, declared_schema(view).empty_table())
    return f"SELECT * FROM {quoted(name)}"


def declared_schema(view: FeatureView) -> pa.Schema:
    """The columns of the view's table with the types that the view declares, and both times."""
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
