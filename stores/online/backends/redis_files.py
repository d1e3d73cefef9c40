"""The files and the eviction policy of a Redis server: rewriting after an erasure, and warnings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from stores.online.backend import OnlineStoreUnavailable


def scrub(client: Any, where: str) -> None:
    """Have the server rewrite its files, if it has any, without the removed keys."""
    persistence = _when_idle(client)
    if persistence.get("aof_enabled"):
        client.bgrewriteaof()
        _check_written(where, _when_idle(client), "aof_last_bgrewrite_status")
    if _keeps_snapshots(client, persistence):
        client.bgsave()
        _check_written(where, _when_idle(client), "rdb_last_bgsave_status")


def eviction_policy(client: Any) -> str | None:
    """The eviction policy, if a full server drops keys that never expire; None if it does not."""
    memory = client.info("memory")
    policy = str(memory.get("maxmemory_policy", ""))
    return policy if memory.get("maxmemory") and policy.startswith("allkeys") else None


def warn_of_eviction(nodes: Iterable[Any], where: str) -> None:
    """Warn if a full server would drop keys: dropped records read as `NOT_FOUND`."""
    for node in nodes:
        if policy := eviction_policy(node):
            warnings.warn(
                f"{where} has maxmemory-policy {policy}: when it is full, it drops feature records,"
                " which then read as missing. Use noeviction, or a separate server.",
                stacklevel=2,
            )


def _check_written(where: str, persistence: dict[str, Any], status: str) -> None:
    if persistence.get(status) != "ok":
        raise OnlineStoreUnavailable(
            f"{where} could not rewrite its files ({status}: {persistence.get(status)}); they"
            " still hold erased records. See the server's log, and erase again."
        )


def _when_idle(client: Any) -> dict[str, Any]:
    """The server's persistence status, once it is not writing files."""
    while True:
        persistence: dict[str, Any] = client.info("persistence")
        if not any(
            persistence.get(name)
            for name in (
                "rdb_bgsave_in_progress",
                "aof_rewrite_in_progress",
                "aof_rewrite_scheduled",
            )
        ):
            return persistence
        time.sleep(0.02)


def _keeps_snapshots(client: Any, persistence: dict[str, Any]) -> bool:
    """Whether a snapshot may be on disk: configured, written before, or loaded at start."""
    try:
        configured = client.config_get("save").get("save") != ""
    except RedisError:  # managed servers may refuse CONFIG
        configured = True
    seen = (
        persistence.get("rdb_last_bgsave_time_sec", 0) != -1
        or persistence.get("rdb_saves", 0)
        or persistence.get("rdb_last_load_keys_loaded", 0)
    )
    return bool(configured or seen)
