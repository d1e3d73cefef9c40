"""The point-in-time join as a competent user writes it in DuckDB, polars and pandas, from files to
Arrow.

Each function takes a folder of `data.py` and returns a `Work`. In those that end in `_two_time`, a
row takes effect at the later of its two times; the others use event time alone. All read only the
columns they need, on all cores; the time includes sorting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from benchmarks.data import DataSet, View, files, read
from benchmarks.harness import Work
from benchmarks.results import outcome_of
from stores.tables import CREATED, EVENT, literal, quoted

if TYPE_CHECKING:
    import polars as pl


def duckdb_asof(folder: str) -> Work:
    """One query with an `ASOF LEFT JOIN` per view."""
    return _duckdb(Path(folder), two_time=False)


def duckdb_asof_two_time(folder: str) -> Work:
    """The same, restricted to rows that are running maxima of event time in order of effect."""
    return _duckdb(Path(folder), two_time=True)


def _duckdb(folder: Path, *, two_time: bool) -> Work:
    import duckdb

    data = read(folder)
    # Naive times on both sides: DuckDB compares zoned ones through the calendar, row by row.
    query = f"""
        SELECT entity.* EXCLUDE (__prediction_time), {", ".join(_feature_columns(data))}
        FROM (
            SELECT *, make_timestamp(epoch_us({EVENT})) AS __prediction_time
            FROM read_parquet({literal(str(folder / "entities.parquet"))})
        ) AS entity
    """
    for number, view in enumerate(data.views):
        history = _history_sql(folder, view, two_time=two_time)
        key = quoted(view.key)
        query += f"""
            ASOF LEFT JOIN ({history}) AS history{number}
            ON entity.{key} = history{number}.{key}
            AND entity.__prediction_time >= history{number}.__known
        """

    def run() -> pa.Table:
        with duckdb.connect() as connection:
            # Otherwise DuckDB joins frames that it assumes to be small with nested loops.
            connection.execute("SET asof_loop_join_threshold = 0")
            return connection.sql(query).to_arrow_table()

    return Work(run, outcome_of(data))


def _feature_columns(data: DataSet) -> list[str]:
    pairs = [
        (number, view.name, name)
        for number, view in enumerate(data.views)
        for name, _ in view.features
    ]
    return [
        f"history{number}.{quoted(name)} AS {quoted(f'{view}__{name}')}"
        for number, view, name in pairs
    ]


def _history_sql(folder: Path, view: View, *, two_time: bool) -> str:
    known = f"greatest({EVENT}, {CREATED})" if two_time else EVENT
    columns = ", ".join(quoted(name) for name in (view.key, *(name for name, _ in view.features)))
    paths = ", ".join(map(literal, files(folder, view)))
    history = f"""
        SELECT {columns}, {EVENT}, {known} AS __known
        FROM read_parquet([{paths}], hive_partitioning = false)
    """
    if two_time:
        history += f"""
            QUALIFY {EVENT} >= max({EVENT}) OVER (
                PARTITION BY {quoted(view.key)}
                ORDER BY __known, {EVENT}
                ROWS UNBOUNDED PRECEDING
            )
        """
    return history


def polars(folder: str) -> Work:
    """`scan_parquet`, a sort and `join_asof` per view, all lazy."""
    return _polars(Path(folder), two_time=False)


def polars_presorted(folder: str) -> Work:
    """The same without the sort: the user asserts that the files, by name, are in order of time.

    This is true if no row is late; polars does not check it.
    """
    return _polars(Path(folder), two_time=False, presorted=True)


def polars_two_time(folder: str) -> Work:
    """The same, restricted to rows that are running maxima of event time in order of effect."""
    return _polars(Path(folder), two_time=True)


def _polars(folder: Path, *, two_time: bool, presorted: bool = False) -> Work:
    import polars as pl

    data = read(folder)
    paths = {view.name: files(folder, view) for view in data.views}

    def run() -> pa.Table:
        joined = pl.scan_parquet(folder / "entities.parquet").sort(EVENT)
        for view in data.views:
            history = _history_polars(
                paths[view.name], view, two_time=two_time, presorted=presorted
            )
            # Sorted by time alone, each key's rows are in order too, which polars cannot infer.
            joined = joined.join_asof(
                history, left_on=EVENT, right_on="__known", by=view.key, check_sortedness=False
            ).drop("__known")
        return joined.collect().to_arrow()

    return Work(run, outcome_of(data))


def _history_polars(
    paths: list[str], view: View, *, two_time: bool, presorted: bool
) -> pl.LazyFrame:
    import polars as pl

    features = [pl.col(name).alias(f"{view.name}__{name}") for name, _ in view.features]
    known = pl.max_horizontal(EVENT, CREATED) if two_time else pl.col(EVENT)
    history = pl.scan_parquet(paths).select(
        view.key, *features, EVENT, known.dt.replace_time_zone("UTC").alias("__known")
    )
    if two_time:
        history = history.sort("__known", EVENT).filter(
            pl.col(EVENT) >= pl.col(EVENT).cum_max().over(view.key)
        )
        return history.drop(EVENT)
    history = history.drop(EVENT)
    return history.set_sorted("__known") if presorted else history.sort("__known")


def pandas(folder: str) -> Work:
    """`read_parquet`, a sort and `merge_asof` per view."""
    return _pandas(Path(folder), two_time=False)


def pandas_two_time(folder: str) -> Work:
    """The same, restricted to rows that are running maxima of event time in order of effect."""
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
            history = pd.read_parquet(
                cast("Any", paths[view.name]), columns=[view.key, *names, *times]
            ).rename(columns=names)
            history["__known"] = (
                history[times].max(axis=1).dt.tz_localize("UTC")
                if two_time
                else history[EVENT].dt.tz_localize("UTC")
            )
            if two_time:
                history = history.sort_values(["__known", EVENT])
                history = history[history[EVENT] >= history.groupby(view.key)[EVENT].cummax()]
            else:
                history = history.sort_values("__known")
            joined = pd.merge_asof(
                joined, history.drop(columns=times), left_on=EVENT, right_on="__known", by=view.key
            )
            joined = joined.drop(columns="__known")
        return pa.Table.from_pandas(joined, preserve_index=False)

    return Work(run, outcome_of(data))
