"""The requests of the serving benchmark, and the data of Feast's own server; runs in a separate
process, since it imports Feast.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.harness import Outcome, Work
from punctual.home import Home
from punctual.times import iso
from stores.tables import CREATED, EVENT, Table, connect, quoted, timestamp

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

    from punctual.loaded_domain import LoadedDomain

SERVICE = "features_alone"
REQUESTS = 500
YAML = """project: benchmark
provider: local
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: {folder}/online.db
registry:
  registry_type: sql
  path: sqlite:///{folder}/registry.db
  cache_ttl_seconds: 3600
entity_key_serialization_version: 3
"""


def prepare(home: str, folder: str, use_case: str, at: str, rows: list[int]) -> Work:
    """Fill Feast's own SQLite store with the rows of the use case's views at the time `at`, and
    write the requests of each size.

    Feast's service has only the stored views, without the features computed for each request.
    """
    os.environ["PUNCTUAL_HOME"] = home
    root = Path(folder)

    def run() -> int:
        from punctual.repository import find_use_case

        domain, chosen = find_use_case(Home.at(), use_case)
        moment = datetime.fromisoformat(at)
        store = _stock(root, domain, chosen.feature_service)
        views = domain.service_views(chosen.feature_service)
        written = sum(_write(store, Path(home) / "tables", view, moment) for view in views)
        keys = domain.join_keys(chosen.feature_service)
        requests = f"{domain.name}.{chosen.requests.name}"
        asked = _asked(
            Path(home) / "tables",
            requests,
            [*keys, *domain.request_columns(chosen.feature_service)],
            moment,
        )
        for count in rows:
            _write_bodies(root, asked, keys, count)
        return written

    return Work(run, lambda written: Outcome(written, ""))


def bodies(folder: Path, contender: str, rows: int) -> Path:
    """The file of a contender's request bodies, one per line."""
    return folder / f"{'feast' if contender.startswith('feast') else 'rows'}_{rows}.txt"


def _stock(folder: Path, domain: LoadedDomain, service: str) -> FeatureStore:
    from feast import FeatureService, FeatureStore

    for name in ("online.db", "registry.db"):
        (folder / name).unlink(missing_ok=True)
    (folder / "feature_store.yaml").write_text(YAML.format(folder=folder))
    store = FeatureStore(repo_path=str(folder))
    stored = [
        projection
        for projection in domain.services[service].feature_view_projections
        if projection.name in domain.views
    ]
    views = [domain.views[projection.name] for projection in stored]
    chosen: list[Any] = [
        view[[feature.name for feature in each.features]]
        for view, each in zip(views, stored, strict=True)
    ]
    entities = {
        name: domain.entities[name]
        for view in views
        for name in view.entities
        if name in domain.entities
    }
    store.apply([*entities.values(), *views, FeatureService(name=SERVICE, features=chosen)])
    return store


def _write(store: FeatureStore, tables: Path, view: FeatureView, at: datetime) -> int:
    """Write each entity's newest row in effect with Feast's own method; returns the count."""
    table = Table.current(tables, view.name)
    if table is None:
        raise FileNotFoundError(f"no table '{view.name}' in {tables}")
    keys = [column.name for column in view.entity_columns]
    columns = ", ".join(
        map(quoted, [*keys, *(feature.name for feature in view.features), EVENT, CREATED])
    )
    effective = f"greatest({EVENT}, {CREATED}) <= {timestamp(at)}"
    newest = (
        f"row_number() OVER (PARTITION BY {', '.join(map(quoted, keys))} ORDER BY {EVENT}"
        f" DESC, {CREATED} DESC) = 1"
    )
    with connect() as connection:
        rows = connection.sql(
            f"SELECT {columns} FROM ({table.scan()}) WHERE {effective} QUALIFY {newest}"
        ).to_arrow_table()
    store.write_to_online_store(view.name, rows.to_pandas(integer_object_nulls=True))
    return int(rows.num_rows)


def _asked(tables: Path, requests: str, columns: list[str], at: datetime) -> pa.Table:
    """The last requests up to the time `at` in the domain's events, without null keys, which Feast
    refuses.
    """
    table = Table.current(tables, requests)
    if table is None:
        raise FileNotFoundError(f"no table '{requests}' in {tables}")
    with connect() as connection:
        chosen = ", ".join(map(quoted, columns))
        where = " AND ".join(
            [
                f"greatest({EVENT}, {CREATED}) <= {timestamp(at)}",
                *(f"{quoted(name)} IS NOT NULL" for name in columns),
            ]
        )
        return connection.sql(
            f"SELECT {chosen} FROM ({table.scan()}) WHERE {where} ORDER BY {EVENT} DESC,"
            f" {', '.join(map(quoted, columns))} LIMIT {REQUESTS}"
        ).to_arrow_table()


def _write_bodies(folder: Path, asked: pa.Table, keys: list[str], rows: int) -> None:
    listed = [
        {name: iso(value) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in asked.to_pylist()
    ]
    for contender in ("ours", "feast"):
        with bodies(folder, contender, rows).open("w") as file:
            for start in range(len(listed)):
                part = [listed[(start + number) % len(listed)] for number in range(rows)]
                by_key = {key: [row[key] for row in part] for key in keys}
                feast = {"feature_service": SERVICE, "entities": by_key, "full_feature_names": True}
                file.write(json.dumps(feast if contender == "feast" else {"rows": part}) + "\n")
