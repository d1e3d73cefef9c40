"""Feast's own server and UI work on top of the stores."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from feast import FeatureStore

from stores.tables import Table

MOMENT = datetime(2013, 6, 1, 10)
CONFIGURATION = """
project: test
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: stores.offline.AsofOfflineStore}}
online_store: {{type: stores.online.PackedOnlineStore, path: "{folder}/online.db"}}
batch_engine: {{type: stores.online.AsofEngine}}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Int64, String

driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
table = FileSource(
    name="driver_trips_table",
    path="{folder}/tables/driver_trips",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
schema = [
    Field(name="driver", dtype=Int64),
    Field(name="trips", dtype=Int64),
    Field(name="note", dtype=String),
]
pushed = PushSource(name="trips_pushed", batch_source=table)
driver_trips = FeatureView(name="driver_trips", entities=[driver], schema=schema, source=pushed)
service = FeatureService(name="everything", features=[driver_trips])
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory, publish):
    """A Feast repository on our stores, applied by `feast apply` and materialized."""
    folder = tmp_path_factory.mktemp("feast")
    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder))
    (folder / "definitions.py").write_text(DEFINITIONS.format(folder=folder))
    table = Table.for_definition(folder / "tables", "driver_trips", "", ("driver",))
    columns = {"driver": pa.int64(), "trips": pa.int64(), "note": pa.string()}
    publish(
        table,
        columns,
        [(7, 2**53 + 1, "O'Hare ✈", MOMENT, MOMENT), (8, None, None, MOMENT, MOMENT)],
        datetime(2013, 6, 2, tzinfo=UTC),
    )
    subprocess.run(command(folder, "apply"), check=True, capture_output=True, timeout=120)
    FeatureStore(str(folder)).materialize(
        datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 2, tzinfo=UTC)
    )
    return folder


def command(folder, *arguments):
    return [str(Path(sys.executable).with_name("feast")), "-c", str(folder), *arguments]


@contextmanager
def running(folder, *arguments):
    """Runs one of Feast's servers on a free port; yields its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = {**os.environ, "FEAST_USAGE": "False"}
    started = command(folder, *arguments, "--host", "127.0.0.1", "--port", str(port))
    with (
        (folder / f"{arguments[0]}.log").open("w+") as log,
        subprocess.Popen(started, stdout=log, stderr=log, env=environment) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(address, server, log)
            yield address
        finally:
            server.terminate()


def wait_for(address, server, log):
    until = time.monotonic() + 120
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=1):
                return
        except OSError:
            log.seek(0)
            assert server.poll() is None and time.monotonic() < until, log.read()
            time.sleep(0.1)


def post(address, path, body):
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = answer.read()
        return json.loads(said) if said else None


def test_feast_serve_answers_with_materialized_and_pushed_values(repository):
    asked = {"feature_service": "everything", "entities": {"driver": [7, 8, 9]}}
    with running(repository, "serve", "--workers", "1", "--no-access-log") as address:
        answer = post(address, "/get-online-features", asked)
        names = answer["metadata"]["feature_names"]
        found = dict(zip(names, answer["results"], strict=True))
        assert found["trips"]["values"] == [2**53 + 1, None, None]
        assert found["note"]["values"] == ["O'Hare ✈", None, None]
        assert found["trips"]["statuses"] == ["PRESENT", "PRESENT", "NOT_FOUND"]
        moment = ["2013-06-03T00:00:00Z"]
        row = {
            "driver": [9],
            "trips": [3],
            "note": ["pushed"],
            "event_timestamp": moment,
            "created_timestamp": moment,
        }
        post(address, "/push", {"push_source_name": "trips_pushed", "df": row, "to": "online"})
        again = post(address, "/get-online-features", asked)
        assert again["results"][names.index("trips")]["values"] == [2**53 + 1, None, 3]


def test_feast_ui_shows_the_definitions(repository):
    with running(repository, "ui") as address:
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<html" in page.read()
        with urllib.request.urlopen(
            address + "/api/v1/feature_views?project=test", timeout=60
        ) as answer:
            (view,) = json.load(answer)["featureViews"]
    assert view["spec"]["name"] == "driver_trips"
    assert [feature["name"] for feature in view["spec"]["features"]] == ["trips", "note"]
