"""Our stores in the form that Feast's universal tests use; see docs/feast-universal-tests.md.

Feast imports this module by the name in `FULL_REPO_CONFIGS_MODULE`; `tests` here is Feast's test
tree, not ours.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.universal.feature_repos.universal.data_sources.file import FileDataSourceCreator
from tests.universal.feature_repos.universal.online_store_creator import OnlineStoreCreator

from benchmarks.redis_server import RedisServer
from stores.offline.store import AsofOfflineStoreConfig


class AsofDataSourceCreator(FileDataSourceCreator):
    """Parquet files joined by our offline store in event time, with naive times read as UTC."""

    def create_offline_store_config(self):
        return AsofOfflineStoreConfig(point_in_time="event_time", naive_timestamps="utc")

    def create_data_source(self, *arguments, **named):
        source = super().create_data_source(*arguments, **named)
        # The source's name in SQL; without it Feast skips the tests of SQL entity frames.
        source.table_ref = f"'{source.path}'"
        return source


class SqliteCreator(OnlineStoreCreator):
    """Our online store on SQLite, with one file for each of Feast's environments."""

    def __init__(self, project_name, **kwargs):
        super().__init__(project_name)
        self.folder = tempfile.mkdtemp(prefix=project_name)

    def create_online_store(self):
        return {
            "type": "stores.online.PackedOnlineStore",
            "path": str(Path(self.folder) / "online.db"),
        }

    def teardown(self):
        shutil.rmtree(self.folder)


class RedisCreator(OnlineStoreCreator):
    """Our online store on Redis, with one server for each of Feast's environments."""

    def __init__(self, project_name, **kwargs):
        super().__init__(project_name)
        self.folder = tempfile.mkdtemp(prefix=project_name)
        self.server = RedisServer(Path(self.folder))

    def create_online_store(self):
        return {"type": "stores.online.PackedOnlineStore", "redis": self.server.start().url}

    def teardown(self):
        self.server.kill()
        shutil.rmtree(self.folder)


class OnlineStores(dict):
    """Stores by the names that Feast's tests ask for; tests for all stores run once."""

    def values(self):
        return [self["sqlite"]]


CREATORS = {"sqlite": SqliteCreator, "redis": RedisCreator}
PACKED = (
    {"type": "stores.online.PackedOnlineStore"},
    CREATORS[os.environ.get("PUNCTUAL_ONLINE", "sqlite")],
)
AVAILABLE_ONLINE_STORES = OnlineStores(sqlite=PACKED, redis=PACKED)
AVAILABLE_OFFLINE_STORES = [("local", AsofDataSourceCreator)]
# The tests "only for files" are for a store that reads files, as ours does.
sys.modules["tests.universal.feature_repos.repo_configuration"].OFFLINE_STORE_TO_PROVIDER_CONFIG[
    "file"
] = ("local", AsofDataSourceCreator)
