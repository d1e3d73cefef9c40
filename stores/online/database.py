"""Opens the online store that `feature_store.yaml` configures, without importing Feast."""

from __future__ import annotations

from pathlib import Path

from stores.online.records import PackedDatabase


def open_database(
    project: str,
    *,
    path: str | None = None,
    redis: str | None = None,
    cluster: bool = False,
    timeout_seconds: float = 2.0,
) -> PackedDatabase:
    """The packed records of a project; the options are those of `PackedOnlineStoreConfig`."""
    # Each branch imports the client of its own backend only.
    if redis is None:
        from stores.online.backends.sqlite import SqliteRecords

        return PackedDatabase(SqliteRecords(Path(path or "")))
    from stores.online.backends.redis import RedisRecords

    return PackedDatabase(RedisRecords(redis, project, cluster=cluster, timeout=timeout_seconds))
