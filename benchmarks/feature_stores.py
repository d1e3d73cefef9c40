"""The point-in-time join through Feast, with our offline store and with Feast's own, from files to
Arrow.

Each function takes a folder of `data.py` and returns a `Work`. In `ours`, a row takes effect at the
later of its two times; `ours_event_time` and the stock store use event time alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.data import DataSet, read
from benchmarks.harness import MB, Outcome, Work
from benchmarks.results import outcome_of
from stores.tables import CREATED, EVENT

if TYPE_CHECKING:
    from feast import FeatureStore, FileSource

OURS = {"type": "stores.offline.AsofOfflineStore"}
STOCK = {"type": "duckdb"}


def ours(folder: str) -> Work:
    """Our offline store with its default settings."""
    return _ours(Path(folder), {})


def ours_event_time(folder: str) -> Work:
    """Our offline store with Feast's meaning of the join."""
    return _ours(Path(folder), {"point_in_time": "event_time"})


def ours_4gb(folder: str) -> Work:
    """Our offline store with a memory limit; also measures the peak size of spilled files."""
    spill = Path(folder) / "spilled"
    limited = _ours(Path(folder), {"memory_limit": "4GB", "spill_folder": str(spill)})
    spilled = _FolderSize(spill)

    def outcome(result: pa.Table) -> Outcome:
        checked = limited.outcome(result)
        return Outcome(checked.rows, checked.hash, {"spilled MB": spilled.largest / MB})

    return Work(lambda: spilled.during(limited.run), outcome)


def _ours(folder: Path, settings: dict[str, str]) -> Work:
    data = read(folder)
    store = _feature_store(folder, data, {**OURS, **settings})

    def run() -> pa.Table:
        return store.get_historical_features(
            folder / "entities.parquet", _references(data), full_feature_names=True
        ).to_arrow()  # type: ignore[arg-type]

    return Work(run, outcome_of(data))


def feast_duckdb(folder: str) -> Work:
    """Feast's own DuckDB offline store, on the same Parquet files."""
    import pandas as pd

    data = read(Path(folder))
    store = _feature_store(Path(folder), data, STOCK)

    def run() -> pa.Table:
        rows = pd.read_parquet(Path(folder) / "entities.parquet")  # it accepts only pandas
        return store.get_historical_features(
            rows, _references(data), full_feature_names=True
        ).to_arrow()

    return Work(run, outcome_of(data))


def _references(data: DataSet) -> list[str]:
    return [f"{view.name}:{feature}" for view in data.views for feature, _ in view.features]


def _feature_store(folder: Path, data: DataSet, offline: dict[str, str]) -> FeatureStore:
    """Feast with one view per history."""
    from feast import Entity, FeatureStore, FeatureView, Field, ValueType
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
            registry={
                "registry_type": "sql",
                "path": f"sqlite:///{registry}",
                "cache_ttl_seconds": 3600,
            },
            offline_store=offline,
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    keys = {
        view.key: ValueType.STRING if view.text_keys else ValueType.INT64 for view in data.views
    }
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=type_) for key, type_ in keys.items()
    }
    views = []
    for view in data.views:
        source = table_source(folder / "tables", view.name, stock=offline is STOCK)
        schema = [Field(name=view.key, dtype=String if view.text_keys else Int64)]
        schema += [Field(name=name, dtype=types[type_]) for name, type_ in view.features]
        views.append(
            FeatureView(
                name=view.name,
                entities=[entities[view.key]],
                schema=schema,
                source=source,
                ttl=None,
            )
        )
    store.apply([*entities.values(), *views])
    return store


def table_source(tables: Path, name: str, *, stock: bool) -> FileSource:
    """A table as a Feast source: its folder for our store, its files for the stock store."""
    from feast import FileSource
    from feast.data_format import ParquetFormat

    path = tables / name
    return FileSource(
        name=f"{name}_rows",
        path=str(path / "v1" / "*.parquet" if stock else path),
        file_format=ParquetFormat(),
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
    )


class _FolderSize:
    """Samples the size of a folder; `largest` is in bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.largest = 0

    def during(self, act: Callable[[], Any]) -> Any:
        """Call `act`, sampling meanwhile, and return its result."""
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
                    continue  # removed since it was listed
            self.largest = max(self.largest, sizes)
