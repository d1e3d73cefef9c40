"""What a Redis server is asked to do with what it holds: its files are written anew where records
were erased, and it drops nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError

from stores.online.backend import OnlineStoreUnavailable


def scrub(client: Any, where: str) -> None:
    """Where the server keeps files, have it write them anew, without what was removed from its
    memory.
    """
    there = _when_idle(client)
    if there.get("aof_enabled"):
        client.bgrewriteaof()
        _written(where, _when_idle(client), "aof_last_bgrewrite_status")
    if _keeps_snapshots(client, there):
        client.bgsave()
        _written(where, _when_idle(client), "rdb_last_bgsave_status")


def drops_keys(client: Any) -> str | None:
    """The policy by which a server that is full drops keys that never expire, as ours; None where
    it drops none.
    """
    memory = client.info("memory")
    policy = str(memory.get("maxmemory_policy", ""))
    return policy if memory.get("maxmemory") and policy.startswith("allkeys") else None


def warn_of_eviction(nodes: Iterable[Any], where: str) -> None:
    """Warn where a server drops keys when it is full: its records would then not be found; ours
    never expire.
    """
    for node in nodes:
        if policy := drops_keys(node):
            warnings.warn(
                f"{where} has maxmemory-policy {policy}: when it is full, it drops records of"
                " features, which are then"
                " not found. Use noeviction, or a server of their own.",
                stacklevel=2,
            )


def _written(where: str, persistence: dict[str, Any], status: str) -> None:
    if persistence.get(status) != "ok":
        raise OnlineStoreUnavailable(
            f"{where} could not write its files anew ({status}: {persistence.get(status)}), and"
            " they still hold what was "
            "erased. See the server's log, and erase again."
        )


def _when_idle(client: Any) -> dict[str, Any]:
    """What the server says of its files, once it is not writing them."""
    while True:
        there: dict[str, Any] = client.info("persistence")
        if not any(
            there.get(name)
            for name in (
                "rdb_bgsave_in_progress",
                "aof_rewrite_in_progress",
                "aof_rewrite_scheduled",
            )
        ):
            return there
        time.sleep(0.02)


def _keeps_snapshots(client: Any, persistence: dict[str, Any]) -> bool:
    """Whether there may be a snapshot on disk: one is written from time to time, was written, or
    was loaded.
    """
    try:
        configured = client.config_get("save").get("save") != ""
    except RedisError:  # a server of somebody else's, who does not say
        configured = True
    was = (
        persistence.get("rdb_last_bgsave_time_sec", 0) != -1
        or persistence.get("rdb_saves", 0)
        or persistence.get("rdb_last_load_keys_loaded", 0)
    )
    return bool(configured or was)
