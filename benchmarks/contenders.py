"""The point-in-time join as ours and as others do it: files in, Arrow out, every entity row with all features.

Each function takes a folder of `data.py` and gives the `Work`. Those that end in `_two_time` see a row from the later
of its two times on, as ours does by default; the others, `ours_event_time` among them, go by event time alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data import ROW, DataSet, View, files, read
from benchmarks.harness import MB, Outcome, Work
from stores.table import CREATED, EVENT, literal, quoted

if TYPE_CHECKING:
    import polars as pl
    from feast import FeatureStore

OURS = {"type": "stores.offline.AsofOfflineStore"}
STOCK = {"type": "duckdb"}


def ours(folder: str) -> Work:
    """Our offline store as it is by default, through Feast."""
    return _ours(Path(folder), {})


def ours_event_time(folder: str) -> Work:
    """Our offline store with Feast's meaning of the join."""
    return _ours(Path(folder), {"point_in_time": "event_time"})


def ours_4gb(folder: str) -> Work:
    """Our offline store with a memory limit, and how much it spilled at most at a time."""
    spill = Path(folder) / "spilled"
    limited = _ours(Path(folder), {"memory_limit": "4GB", "spill_folder": str(spill)})
    seen = _Spilled(spill)

    def outcome(result: pa.Table) -> Outcome:
        checked = limited.outcome(result)
        return Outcome(checked.rows, checked.hash, {"spilled MB": seen.most / MB})

    return Work(lambda: seen.while_doing(limited.run), outcome)


def _ours(folder: Path, settings: dict[str, str]) -> Work:
    data = read(folder)
    store = _feature_store(folder, data, {**OURS, **settings})
    rows = folder / "entities.parquet"
    return Work(
        lambda: store.get_historical_features(pq.read_table(rows), _references(data), full_feature_names=True).to_arrow(), _outcome(data)
    )


def feast_duckdb(folder: str) -> Work:
    """Feast's own DuckDB offline store, on the same Parquet files."""
    import pandas as pd

    data = read(Path(folder))
    store = _feature_store(Path(folder), data, STOCK)
    rows = Path(folder) / "entities.parquet"
    return Work(
        lambda: store.get_historical_features(pd.read_parquet(rows), _references(data), full_feature_names=True).to_arrow(), _outcome(data)
    )


def _references(data: DataSet) -> list[str]:
    return [f"{view.name}:{feature}" for view in data.views for feature, _ in view.features]


def _feature_store(folder: Path, data: DataSet, offline: dict[str, str]) -> FeatureStore:
    """Feast with one view a history; ours is given the tables' folders, the stock store their files."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.repo_config import RepoConfig
    from feast.types import Float32, Int32, Int64, String

    types = {"float": Float32, "int32": Int32, "int64": Int64}
    kind = "_".join(offline.values()).replace("/", "_")
    registry = folder / f"registry_{hashlib.sha256(kind.encode()).hexdigest()[:8]}.db"
    registry.unlink(missing_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{registry}", "cache_ttl_seconds": 3600},
            offline_store=offline,
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    keys = {view.key: ValueType.STRING if view.text_keys else ValueType.INT64 for view in data.views}
    entities = {key: Entity(name=key, join_keys=[key], value_type=type_) for key, type_ in keys.items()}
    views = []
    for view in data.views:
        path = folder / "tables" / view.name
        source = FileSource(
            name=f"{view.name}_rows",
            path=str(path / "v1" / "*" / "*.parquet" if offline is STOCK else path),
            file_format=ParquetFormat(),
            timestamp_field=EVENT,
            created_timestamp_column=CREATED,
        )
        schema = [Field(name=view.key, dtype=String if view.text_keys else Int64)]
        schema += [Field(name=name, dtype=types[type_]) for name, type_ in view.features]
        views.append(FeatureView(name=view.name, entities=[entities[view.key]], schema=schema, source=source, ttl=None))
    store.apply([*entities.values(), *views])
    return store


class _Spilled:
    """Looks now and then how large a folder is; `most` in bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most = 0

    def while_doing(self, act: Callable[[], Any]) -> Any:
        """What `act` returns."""
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watch.start()
        try:
            return act()
        finally:
            done.set()
            watch.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.2):
            sizes = 0
            for path in self.folder.rglob("*"):
                try:
                    sizes += path.stat().st_size
                except FileNotFoundError:
                    continue  # gone since it was listed
            self.most = max(self.most, sizes)


def duckdb_asof(folder: str) -> Work:
    """One hand-written ASOF LEFT JOIN a view, in one query."""
    return _duckdb(Path(folder), two_time=False)


def duckdb_asof_two_time(folder: str) -> Work:
    """The same on the rows that are running maxima in order of effect."""
    return _duckdb(Path(folder), two_time=True)


def _duckdb(folder: Path, *, two_time: bool) -> Work:
    import duckdb

    data = read(folder)
    # Naive times on both sides: a comparison with a zoned one would go through the calendar, row by row.
    moment = f"make_timestamp(epoch_us({EVENT})) AS __moment"
    rows = f"SELECT *, {moment} FROM read_parquet({literal(str(folder / 'entities.parquet'))})"
    query = f"SELECT e.* EXCLUDE (__moment), {', '.join(_names(data))} FROM ({rows}) AS e"
    for number, view in enumerate(data.views):
        history = _history_sql(folder, view, two_time=two_time)
        key = quoted(view.key)
        query += f" ASOF LEFT JOIN ({history}) AS h{number} ON e.{key} = h{number}.{key} AND e.__moment >= h{number}.__known"

    def run() -> pa.Table:
        with duckdb.connect() as connection:
            # Else a frame that is taken for a small one is joined in nested loops.
            connection.execute("SET asof_loop_join_threshold = 0")
            return connection.execute(query).to_arrow_table()

    return Work(run, _outcome(data))


def _names(data: DataSet) -> list[str]:
    pairs = [(number, view.name, name) for number, view in enumerate(data.views) for name, _ in view.features]
    return [f"h{number}.{quoted(name)} AS {quoted(f'{view}__{name}')}" for number, view, name in pairs]


def _history_sql(folder: Path, view: View, *, two_time: bool) -> str:
    known = f"greatest({EVENT}, {CREATED})" if two_time else EVENT
    columns = ", ".join(quoted(name) for name in (view.key, *(name for name, _ in view.features)))
    paths = ", ".join(map(literal, files(folder, view)))
    history = f"SELECT {columns}, {EVENT}, {known} AS __known FROM read_parquet([{paths}], hive_partitioning = false)"
    if two_time:
        newest = f"max({EVENT}) OVER (PARTITION BY {quoted(view.key)} ORDER BY __known, {EVENT} ROWS UNBOUNDED PRECEDING)"
        history += f" QUALIFY {EVENT} >= {newest}"
    return history


def polars(folder: str) -> Work:
    """`scan_parquet`, a sort and `join_asof` a view, all lazy."""
    return _polars(Path(folder), two_time=False)


def polars_presorted(folder: str) -> Work:
    """The same without the sort: by the user's word that the files, in order of name, are in order of time.

    True where no row is late; polars does not check it.
    """
    return _polars(Path(folder), two_time=False, presorted=True)


def polars_two_time(folder: str) -> Work:
    """The same on the rows that are running maxima in order of effect."""
    return _polars(Path(folder), two_time=True)


def _polars(folder: Path, *, two_time: bool, presorted: bool = False) -> Work:
    import polars as pl

    data = read(folder)
    paths = {view.name: files(folder, view) for view in data.views}

    def run() -> pa.Table:
        joined = pl.scan_parquet(folder / "entities.parquet").sort(EVENT)
        for view in data.views:
            history = _history_polars(paths[view.name], view, two_time=two_time, presorted=presorted)
            # The sort is by time alone: within a key it is then in order too, which polars cannot see for itself.
            joined = joined.join_asof(history, left_on=EVENT, right_on="__known", by=view.key, check_sortedness=False).drop("__known")
        return joined.collect().to_arrow()

    return Work(run, _outcome(data))


def _history_polars(paths: list[str], view: View, *, two_time: bool, presorted: bool) -> pl.LazyFrame:
    import polars as pl

    features = [pl.col(name).alias(f"{view.name}__{name}") for name, _ in view.features]
    known = pl.max_horizontal(EVENT, CREATED) if two_time else pl.col(EVENT)
    history = pl.scan_parquet(paths).select(view.key, *features, EVENT, known.dt.replace_time_zone("UTC").alias("__known"))
    if two_time:
        history = history.sort("__known", EVENT).filter(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(view.key))
        return history.drop(EVENT)
    history = history.drop(EVENT)
    return history.set_sorted("__known") if presorted else history.sort("__known")


def pandas(folder: str) -> Work:
    """`read_parquet`, a sort and `merge_asof` a view."""
    return _pandas(Path(folder), two_time=False)


def pandas_two_time(folder: str) -> Work:
    """The same on the rows that are running maxima in order of effect."""
    return _pandas(Path(folder), two_time=True)


def _pandas(folder: Path, *, two_time: bool) -> Work:
    import pandas as pd

    data = read(folder)
    paths = {view.name: files(folder, view) for view in data.views}

    def run() -> pa.Table:
        joined = pd.read_parquet(folder / "entities.parquet").sort_values(EVENT)
        for view in data.views:
            names = {name: f"{view.name}__{name}" for name, _ in view.features}
            times = [EVENT, CREATED] if two_time else [EVENT]
            history = pd.read_parquet(cast("Any", paths[view.name]), columns=[view.key, *names, *times]).rename(columns=names)
            history["__known"] = history[times].max(axis=1).dt.tz_localize("UTC") if two_time else history[EVENT].dt.tz_localize("UTC")
            if two_time:
                history = history.sort_values(["__known", EVENT])
                history = history[history[EVENT] >= history.groupby(view.key)[EVENT].cummax()]
            else:
                history = history.sort_values("__known")
            joined = pd.merge_asof(joined, history.drop(columns=times), left_on=EVENT, right_on="__known", by=view.key)
            joined = joined.drop(columns="__known")
        return pa.Table.from_pandas(joined, preserve_index=False)

    return Work(run, _outcome(data))


def _outcome(data: DataSet) -> Callable[[pa.Table], Outcome]:
    types = {f"{view.name}__{name}": pa.type_for_alias(kind) for view in data.views for name, kind in view.features}

    def outcome(result: pa.Table) -> Outcome:
        return Outcome(result.num_rows, rows_hash(result, types))

    return outcome


def rows_hash(result: pa.Table, types: dict[str, pa.DataType]) -> str:
    """SHA-256, shortened, of the features by row number: independent of the rows' order and of whose types they have."""
    result = result.select([ROW, *types])
    numbers = result[ROW].cast(pa.int64()).to_numpy()
    if not bool(np.all(np.diff(numbers) >= 0)):
        result = result.take(pa.array(np.argsort(numbers, kind="stable")))
    total = hashlib.sha256(np.sort(numbers).tobytes())
    for name, type_ in types.items():
        values = result[name].cast(type_).combine_chunks()
        total.update(np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes())
        total.update(pc.fill_null(values, pa.scalar(0, type_)).to_numpy(zero_copy_only=False).tobytes())
    return total.hexdigest()[:16]
