"""The contenders of the online benchmarks; each function takes JSON values and returns a `Work`.

A store is one of `feast_sqlite`, `feast_redis` (Feast's own, with its DuckDB offline store),
`ours_sqlite` and `ours_redis`. All are filled from the same published Parquet files, and keep their
rows for the contenders that read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks import online_ours
from benchmarks.feature_stores import OURS, STOCK, table_source
from benchmarks.harness import MB, Outcome, Work, latencies
from benchmarks.online_data import BUILT, FIRST, KEY, OnlineData, Reads, values_hash

if TYPE_CHECKING:
    import redis
    from feast import FeatureStore

# Rows per batch. A batch in SQLite touches pages all over the table, so that few large batches are
# faster; Redis shows no difference.
BATCH = {"feast_sqlite": 250_000, "feast_redis": 10_000}
WARM_UP = 20
CHECKED = 2_000


def fill(folder: str, data: dict[str, int], store: str, redis_url: str) -> Work:
    """Declare the views, and a service for each number of first views; materialize into an empty
    store.
    """
    made, root = OnlineData(**data), Path(folder)
    _empty(root, store)
    opened = feature_store(root, made, store, redis_url, apply=True)
    return Work(
        lambda: opened.materialize(FIRST, BUILT), lambda _: Outcome(made.views * made.entities, "")
    )


def via_feast(
    folder: str, data: dict[str, int], reads: dict[str, Any], store: str, redis_url: str
) -> Work:
    """Requests through Feast's `get_online_features`, without converting its response to values."""
    made, asked = OnlineData(**data), Reads(**reads)
    opened = feature_store(Path(folder), made, store, redis_url)
    service = opened.get_feature_service(f"first_{asked.views}")
    names = _feature_names(made, asked.views)

    def ask(keys: np.ndarray) -> Any:
        return opened.get_online_features(service, {KEY: keys.tolist()})

    def matrix(answer: Any) -> np.ndarray:
        values = answer.to_dict()
        return np.array([values[name] for name in names], np.float64).T

    return _reading(asked.keys(made.entities), ask, matrix)


def direct(
    folder: str, data: dict[str, int], reads: dict[str, Any], store: str, redis_url: str
) -> Work:
    """Requests through our own reader, from keys to a matrix."""
    made, asked = OnlineData(**data), Reads(**reads)
    read = online_ours.reader(
        feature_store(Path(folder), made, store, redis_url), made, asked.views
    )
    return _reading(asked.keys(made.entities), read, lambda answer: answer)


def _feature_names(data: OnlineData, views: int) -> list[str]:
    return [name for view in range(views) for name in data.feature_names(view)]


def _reading(
    requests: np.ndarray, ask: Callable[[np.ndarray], Any], matrix: Callable[[Any], np.ndarray]
) -> Work:
    def warm_up() -> None:
        for keys in requests[:WARM_UP]:
            ask(keys)

    def run() -> list[float]:
        seconds = []
        for keys in requests:
            start = perf_counter()
            ask(keys)
            seconds.append(perf_counter() - start)
        return seconds

    @functools.cache
    def answered() -> str:
        return values_hash(matrix(ask(keys)) for keys in requests)

    return Work(
        run, lambda seconds: Outcome(requests.size, answered(), latencies(seconds)), warm_up
    )


def materialize(
    folder: str, data: dict[str, int], store: str, redis_url: str, *, defaults: bool = False
) -> Work:
    """The first materialization into an empty store; the hash covers the values of some entities,
    read through Feast.
    """
    made, root = OnlineData(**data), Path(folder)
    names = _feature_names(made, made.views)
    asked = np.random.default_rng(17).choice(
        made.entities, min(CHECKED, made.entities), replace=False
    )
    opened: list[FeatureStore] = []
    empty = 0.0

    def before() -> None:
        nonlocal empty
        opened.clear()
        _empty(root, store)
        if "redis" in store:
            with closing(_redis_client(redis_url)) as client:
                client.flushall()
        empty = _used_mb(root, store, redis_url)
        opened.append(feature_store(root, made, store, redis_url, apply=True, defaults=defaults))

    def outcome(_: None) -> Outcome:
        service = opened[0].get_feature_service(f"first_{made.views}")
        values = opened[0].get_online_features(service, {KEY: asked.tolist()}).to_dict()
        found = values_hash(iter([np.array([values[name] for name in names], np.float64)]))
        name = "used_memory_mb" if "redis" in store else "file_mb"
        return Outcome(
            made.views * made.entities, found, {name: _used_mb(root, store, redis_url) - empty}
        )

    return Work(lambda: opened[0].materialize(FIRST, BUILT), outcome, before)


def feature_store(
    folder: Path,
    data: OnlineData,
    store: str,
    redis_url: str,
    *,
    apply: bool = False,
    defaults: bool = False,
) -> FeatureStore:
    """Feast with one of the stores; `apply` creates its registry, which must exist otherwise."""
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    stock = store.startswith("feast")
    registry = folder / f"registry_{store}.db"
    if apply:
        registry.unlink(missing_ok=True)
    opened = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry={
                "registry_type": "sql",
                "path": f"sqlite:///{registry}",
                "cache_ttl_seconds": 3600,
                "serve_features_while_materializing": True,
            },
            offline_store=STOCK if stock else OURS,
            online_store=_online_store(folder, store, redis_url, defaults=defaults),
            batch_engine={"type": "local"} if stock else online_ours.ENGINE,
            materialization={}
            if defaults or not stock
            else {"pull_latest_features": True, "online_write_batch_size": BATCH[store]},
            entity_key_serialization_version=3,
        )
    )
    if apply:
        _declare(opened, folder, data, store)
    return opened


def _online_store(folder: Path, store: str, redis_url: str, *, defaults: bool) -> dict[str, Any]:
    file = folder / f"{store}.db"
    if store == "feast_sqlite":
        return {"type": "sqlite", "path": str(file)}
    if store == "feast_redis":
        return {
            "type": "redis",
            "connection_string": f"{urlsplit(redis_url).netloc},db=0",
            "skip_dedup": not defaults,
        }
    return (
        online_ours.sqlite_settings(file)
        if store == "ours_sqlite"
        else online_ours.redis_settings(redis_url)
    )


def _declare(opened: FeatureStore, folder: Path, data: OnlineData, store: str) -> None:
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.types import Float64, Int64

    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.INT64)
    views = []
    for number, name in enumerate(data.view_names):
        source = table_source(data.tables(folder), name, stock=store.startswith("feast"))
        features = [
            Field(name=name, dtype=Int64 if position % 2 else Float64)
            for position, name in enumerate(data.feature_names(number))
        ]
        views.append(
            FeatureView(
                name=name,
                entities=[entity],
                schema=[Field(name=KEY, dtype=Int64), *features],
                source=source,
                ttl=None,
            )
        )
    services = [
        FeatureService(name=f"first_{count}", features=views[:count])
        for count in range(1, data.views + 1)
    ]
    opened.apply([entity, *views, *services])


def _empty(folder: Path, store: str) -> None:
    """Remove a store's files, which an earlier version may have written in another format."""
    for pattern in (f"{store}.db*", f".{store}.db*"):
        for path in folder.glob(pattern):
            path.unlink()


def _used_mb(folder: Path, store: str, redis_url: str) -> float:
    """The size of a store in MB: its file with the files beside it, or the server's memory."""
    if "redis" not in store:
        return sum(path.stat().st_size for path in folder.glob(f"{store}.db*")) / MB
    with closing(_redis_client(redis_url)) as client:
        used: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    return float(used["used_memory"]) / MB


def _redis_client(url: str) -> redis.Redis:
    import redis

    return redis.Redis.from_url(url)
