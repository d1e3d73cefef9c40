"""A process that materializes on request, each run in a child that may be killed.

`python materializer.py FOLDER ONLINE` reads lines of JSON, each a list of runs that start together.
It answers each line with one line of JSON: for every run whether it was killed, how long it took
and its error message. Imports are paid once.
"""

import json
import os
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String

import stores.online.backends.redis_lease
import stores.online.materialization
from stores.online import packed_database

DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
FEATURES = {"number": Int64, "half": Float64, "text": String}


def config_of(online):
    online = {"type": "stores.online.PackedOnlineStore", **online}
    return RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store=online,
        entity_key_serialization_version=3,
    )


def view_of(tables):
    """The view over the tables in a folder; the folder does not change its definition."""
    table = FileSource(
        name="driver_trips_table",
        path=str(tables / "driver_trips"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [
        Field(name="driver", dtype=Int64),
        *(Field(name=name, dtype=type_) for name, type_ in FEATURES.items()),
    ]
    return FeatureView(name="driver_trips", entities=[DRIVER], schema=schema, source=table)


def materialize(online, tables, now, rebuild):
    # Small batches, so that most of a run is between two batches.
    stores.online.materialization.BATCH_ROWS = 80
    # A lock whose owner was killed expires after a second instead of half a minute.
    stores.online.backends.redis_lease.SECONDS = 1.0
    config = config_of(online)
    moment = datetime.fromtimestamp(now, UTC)
    stores.online.materialization.materialize_view(
        config, packed_database(config), view_of(Path(tables)), now=moment, rebuild=rebuild
    )


def run(online, tables, now, rebuild=False, kill_after=None):
    """Starts a run; returns a function that waits for its end."""
    started = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        failure = ""
        try:
            materialize(online, tables, now, rebuild)
        except BaseException:
            failure = traceback.format_exc()
        os.write(writer, failure.encode()[-60_000:])
        os._exit(bool(failure))

    def wait():
        if kill_after is not None:
            time.sleep(max(0.0, started + kill_after - time.monotonic()))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as said:
            return {
                "killed": os.WIFSIGNALED(status),
                "seconds": time.monotonic() - started,
                "failure": said.read(),
            }

    return wait


if __name__ == "__main__":
    for line in sys.stdin:
        print(
            json.dumps([wait() for wait in [run(**each) for each in json.loads(line)]]), flush=True
        )
