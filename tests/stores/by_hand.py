"""Literal data for tests of the stores, and the loop that every join must equal."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from feast import FeatureStore, FileSource
from feast.data_format import ParquetFormat
from feast.repo_config import RepoConfig

from stores.tables import CREATED, EVENT


def utc(hour, minute=0, microsecond=0):
    """A moment of 1 June 2013 as tables store it: naive UTC."""
    return datetime(2013, 6, 1, hour, minute, 0, microsecond)


def at(*moments, driver=7):
    """Entity rows of one driver."""
    return pa.table(
        {
            "driver": [driver] * len(moments),
            "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )


def open_store(folder, *, registry="sql", online=None, coerce_tz_aware=True, **offline):
    """A Feast store of project `test` on our stores.

    Registry and online store are in the folder unless `online` says otherwise.
    """
    places = {
        "sql": {
            "registry_type": "sql",
            "path": f"sqlite:///{folder}/registry.db",
            "serve_features_while_materializing": True,
        },
        "file": {"path": str(folder / "registry.pb")},
    }
    return FeatureStore(
        config=RepoConfig(
            project="test",
            provider="local",
            registry={**places[registry], "cache_ttl_seconds": 3600},
            offline_store={"type": "stores.offline.AsofOfflineStore", **offline},
            online_store={
                "type": "stores.online.PackedOnlineStore",
                "path": str(folder / "online.db"),
            }
            if online is None
            else online,
            batch_engine={"type": "stores.online.AsofEngine"},
            entity_key_serialization_version=3,
            coerce_tz_aware=coerce_tz_aware,
        )
    )


def table_source(path, **more):
    """The table at a path as the source of a view; `more` adds or replaces arguments."""
    names = {"timestamp_field": EVENT, "created_timestamp_column": CREATED}
    return FileSource(
        name=f"{path.name}_table", path=str(path), file_format=ParquetFormat(), **{**names, **more}
    )


@dataclass(frozen=True)
class Row:
    """A row of a view's history: times in microseconds, `commit` in order of publication."""

    keys: tuple
    event: int
    created: int
    values: tuple
    is_withdrawn: bool | None = False
    commit: int = 1


def shown(history, keys, at, ttl, *, two_time=True):
    """The values that the definition in `stores/offline/store.py` gives, by scanning every row.

    None if no row qualifies.
    """
    newest = None
    for row in history:
        if row.keys != keys or None in keys or row.event > at or (two_time and row.created > at):
            continue
        if newest is None or (row.event, row.created) > (newest.event, newest.created):
            newest = row
    if newest is None or newest.is_withdrawn or (ttl and newest.event + ttl < at):
        return None
    return newest.values
