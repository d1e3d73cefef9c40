"""Our online store for the benchmarks: its settings, its reader and its rebuild."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.online_data import BUILT, KEY, OnlineData
from punctual.times import micros

if TYPE_CHECKING:
    from feast import FeatureStore

ENGINE = {"type": "stores.online.AsofEngine"}
Read = Callable[[np.ndarray], np.ndarray]


def sqlite_settings(path: Path) -> dict[str, Any]:
    """The settings for packed rows in a SQLite file."""
    return {"type": "stores.online.PackedOnlineStore", "path": str(path)}


def redis_settings(url: str) -> dict[str, Any]:
    """The settings for packed rows on a Redis server."""
    return {"type": "stores.online.PackedOnlineStore", "redis": url}


def reader(store: FeatureStore, data: OnlineData, views: int) -> Read:
    """A function from the keys of a request to a matrix of doubles.

    The matrix has a row per key and a column per feature of the first `views` views.
    """
    from stores.online import OnlineView, Reader

    online = [
        OnlineView.of(store.project, store.get_feature_view(name))
        for name in data.view_names[:views]
    ]
    rows, keys_of, at = (
        Reader(_database(store), [(view, KEY) for view in online]),
        online[0].all_keys,
        micros(BUILT),
    )

    def read(keys: np.ndarray) -> np.ndarray:
        return rows.unpacked({KEY: keys_of(keys.tolist())}, at).matrix

    return read


def rebuild(store: FeatureStore, data: OnlineData) -> int:
    """Rebuild every view next to its current records, as `punctual features materialize` does.

    Returns the number of rows written. Lowers the priority of the process, on Linux of the calling
    thread only.
    """
    from stores.online import give_way, materialize_view

    give_way()
    views = [store.get_feature_view(name) for name in data.view_names]
    return sum(
        materialize_view(store.config, _database(store), view, now=BUILT, rebuild=True).rows
        for view in views
    )


def _database(store: FeatureStore) -> Any:
    from stores.online import packed_database

    return packed_database(store.config)
