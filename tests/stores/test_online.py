"""The online store behind Feast's interface: its answers where no value can be shown."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Int64, String

from punctual.errors import StoreOutdated
from tests.stores.by_hand import open_store, table_source

DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
LONG_AGO = datetime(2013, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """Two views of one push source; one of them has a ttl of an hour."""
    store = open_store(tmp_path)
    table = table_source(tmp_path / "tables" / "trips", created_timestamp_column="")
    source = PushSource(name="trips_pushed", batch_source=table)
    schema = [Field(name="driver", dtype=Int64), Field(name="trips", dtype=Int64)]
    views = [
        FeatureView(name=name, entities=[DRIVER], schema=schema, source=source, ttl=ttl)
        for name, ttl in (("trips", timedelta(0)), ("trips_of_the_hour", timedelta(hours=1)))
    ]
    store.apply([DRIVER, *views])
    return store


def row(driver, trips):
    return pd.DataFrame(
        {"driver": [driver], "trips": [trips], "event_timestamp": [pd.Timestamp(LONG_AGO)]}
    )


FEATURES = ["trips:trips", "trips_of_the_hour:trips"]
ASKED = {
    "features": FEATURES,
    "entity_rows": [{"driver": 7}, {"driver": 8}],
    "full_feature_names": True,
}


def answer_of(response):
    """Per feature: its values, their statuses and the seconds of their moments."""
    values = response.to_dict()
    return {
        name: (
            values[name],
            [FieldStatus.Name(status) for status in vector.statuses],
            [moment.seconds for moment in vector.event_timestamps],
        )
        for name, vector in zip(
            response.proto.metadata.feature_names.val, response.proto.results, strict=True
        )
        if name != "driver"
    }


SECONDS = int(LONG_AGO.timestamp())
OF_ONE_DRIVER = {
    "trips__trips": ([1, None], ["PRESENT", "NOT_FOUND"], [SECONDS, 0]),
    "trips_of_the_hour__trips": ([None, None], ["OUTSIDE_MAX_AGE", "NOT_FOUND"], [SECONDS, 0]),
}


def test_a_row_older_than_the_ttl_gives_its_timestamp_and_no_value(store):
    store.push("trips_pushed", row(7, 1), to=PushMode.ONLINE)
    assert answer_of(store.get_online_features(**ASKED)) == OF_ONE_DRIVER


def test_asynchronous_calls_give_the_same_answers(store):
    async def push_and_read():
        await store.push_async("trips_pushed", row(7, 1), to=PushMode.ONLINE)
        return await store.get_online_features_async(**ASKED)

    assert answer_of(asyncio.run(push_and_read())) == OF_ONE_DRIVER


def test_a_view_that_was_never_written_has_nothing(store):
    nothing = ([None, None], ["NOT_FOUND", "NOT_FOUND"], [0, 0])
    assert answer_of(store.get_online_features(**ASKED)) == {
        "trips__trips": nothing,
        "trips_of_the_hour__trips": nothing,
    }


def test_a_null_or_omitted_key_is_not_found(store):
    depot = Entity(name="depot", join_keys=["depot"], value_type=ValueType.STRING)
    source = store.get_data_source("trips_table")
    fields = [Field(name="depot", dtype=String), Field(name="size", dtype=Int64)]
    # Applied before the first read, since Feast caches what it resolved for a request.
    store.apply(
        [
            depot,
            FeatureView(
                name="depots", entities=[depot], schema=fields, source=source, ttl=timedelta(0)
            ),
        ]
    )
    store.push("trips_pushed", row(7, 1), to=PushMode.ONLINE)
    answer = store.get_online_features(
        ["trips:trips"],
        [{"driver": None}, {"driver": 7}, {"driver": None}],
        full_feature_names=True,
    )
    assert answer_of(answer) == {
        "trips__trips": ([None, 1, None], ["NOT_FOUND", "PRESENT", "NOT_FOUND"], [0, SECONDS, 0])
    }
    both = ["trips:trips", "depots:size"]
    answer = store.get_online_features(
        both, [{"driver": 7}, {"driver": 8}], full_feature_names=True
    )
    assert answer_of(answer) == {
        "trips__trips": ([1, None], ["PRESENT", "NOT_FOUND"], [SECONDS, 0]),
        "depots__size": ([None, None], ["NOT_FOUND", "NOT_FOUND"], [0, 0]),
    }
    with pytest.raises(KeyError, match="Missing join key values for keys"):
        store.get_online_features(both, [{"somebody": 7}])


def test_definitions_can_be_applied_beside_an_online_store_of_an_older_format(store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        connection.execute("CREATE TABLE identity (id TEXT)")
    with pytest.raises(StoreOutdated, match="punctual features materialize"):
        store.push("trips_pushed", row(7, 1), to=PushMode.ONLINE)
    store.apply([], objects_to_delete=[store.get_feature_view("trips")], partial=False)
    assert [view.name for view in store.list_feature_views()] == ["trips_of_the_hour"]
