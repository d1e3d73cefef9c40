"""Fixtures for tests of the stores: Hypothesis profiles and tables of literal rows.

`PUNCTUAL_EXAMPLES=100000 pytest --timeout=0 tests/stores` is the long form.
"""

import json
import os
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureView, Field
from feast.repo_config import RepoConfig
from feast.types import Int64
from hypothesis import HealthCheck, settings

from benchmarks.redis_server import RedisServer
from stores.offline import point_in_time_join
from stores.offline.view_columns import declared_schema
from stores.online import packed_database
from stores.tables import CREATED, EVENT, Table, connect
from tests.stores.by_hand import open_store, table_source

settings.register_profile(
    "punctual",
    max_examples=int(os.environ.get("PUNCTUAL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("punctual")

TIMES = [(EVENT, pa.timestamp("us")), (CREATED, pa.timestamp("us"))]


@pytest.fixture(scope="session")
def publish():
    """Appends literal rows to a table; times are naive UTC datetimes, or microseconds."""
    with connect() as connection:

        def publish(table: Table, columns: dict[str, pa.DataType], rows, built_until=None):
            schema = pa.schema([*columns.items(), *TIMES])
            values = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
            arrays = [
                pa.array(column, field.type) for column, field in zip(values, schema, strict=True)
            ]
            connection.register("__rows", pa.table(arrays, schema=schema))
            return table.publish(connection, "FROM __rows", built_until)

        yield publish


class Views:
    """Feature views and their published tables in the test's own folder."""

    def __init__(self, folder, publish):
        self.folder = folder
        self.tables = folder / "tables"
        self._publish = publish
        self._types = {}
        self._views = {}
        self.store = self.opened()

    def opened(self, *, coerce_tz_aware=True, **offline):
        """A feature store over the same registry with other settings of the offline store."""
        return open_store(self.folder, registry="file", coerce_tz_aware=coerce_tz_aware, **offline)

    def add(
        self,
        name="driver_trips",
        keys=None,
        features=None,
        rows=(),
        *,
        ttl=timedelta(0),
        columns=None,
        **source,
    ):
        """Declares a view and publishes its rows: keys, values, event, created; returns its table.

        Columns have the types that the view declares or those in `columns`, which may add others.
        """
        keys, features = {"driver": Int64} if keys is None else keys, features or {"trips": Int64}
        entities = [
            Entity(name=key, join_keys=[key], value_type=type_.to_value_type())
            for key, type_ in keys.items()
        ]
        schema = [Field(name=column, dtype=type_) for column, type_ in {**keys, **features}.items()]
        table = table_source(self.tables / name, **source)
        view = FeatureView(name=name, entities=entities, schema=schema, source=table, ttl=ttl)
        self.store.apply([*entities, view])
        declared = declared_schema(view)
        self._types[name] = {
            column: declared.field(column).type for column in [*keys, *features]
        } | (columns or {})
        return self.publish(name, rows, tuple(keys)) if rows else None

    def publish(self, name, rows, keys=("driver",)):
        """Publishes one more commit."""
        table = Table.for_definition(self.tables, name, "first", keys)
        self._publish(table, self._types[name], rows)
        return table

    def write(self, name, table, file="rows.parquet"):
        """Writes a Parquet file of another program as the view's source."""
        (self.tables / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.tables / name / file)

    def job(self, frame, *features, store=None, **pins):
        return point_in_time_join(store or self.store, frame, list(features), **pins)

    def shown(self, frame, feature="driver_trips:trips", store=None, **pins):
        """The values of one feature."""
        return (
            self.job(frame, feature, store=store, **pins)
            .to_arrow()[feature.replace(":", "__")]
            .to_pylist()
        )


@pytest.fixture
def views(tmp_path, publish):
    return Views(tmp_path, publish)


@pytest.fixture(scope="session")
def redis_cluster_of_session(tmp_path_factory, redis_server_of_session):
    """A cluster of one node for all tests of a worker; clients use the full cluster protocol."""
    with RedisServer(tmp_path_factory.mktemp("redis_cluster"), cluster=True) as server:
        yield server


@pytest.fixture
def redis_cluster(redis_cluster_of_session, emptied):
    """A running, empty cluster of one node."""
    return emptied(redis_cluster_of_session)


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def online_store(request, tmp_path):
    """The settings of the online store in `feature_store.yaml`, for each backend."""
    if request.param == "sqlite":
        return {"path": str(tmp_path / "online.db")}
    if request.param == "redis":
        return {"redis": request.getfixturevalue("redis_server").url}
    return {"redis": request.getfixturevalue("redis_cluster").url, "cluster": True}


@pytest.fixture
def online_settings(online_store):
    """The settings of the online store as JSON, for other processes."""
    return json.dumps(online_store)


@pytest.fixture
def open_online(online_store):
    """Opens the online store of a project."""
    opened = []

    def open_for(project):
        online = {"type": "stores.online.PackedOnlineStore", **online_store}
        config = RepoConfig(
            project=project,
            provider="local",
            registry="unused.db",
            online_store=online,
            entity_key_serialization_version=3,
        )
        opened.append(packed_database(config))
        return opened[-1]

    yield open_for
    for database in opened:
        database.close()


@pytest.fixture
def database(open_online):
    """The empty packed online store of project `test`."""
    return open_online("test")


@pytest.fixture
def another(open_online):
    """A second connection to the same store, as another process has it."""
    return open_online("test")


@pytest.fixture
def other_project(open_online):
    """The store of another project on the same backend."""
    return open_online("other")
