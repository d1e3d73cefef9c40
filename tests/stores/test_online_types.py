"""Values of every Feast type are read online as from Feast's own SQLite store."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values
from feast.types import Int64

from stores.offline.view_columns import declared_schema
from stores.online import materialize_view, packed_database
from stores.tables import Table
from tests.stores.by_hand import open_store, table_source, utc
from tests.stores.every_type import EVERY_TYPE

DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
# Feast converts deeper nested values of a frame to NumPy arrays and then refuses them.
PUSHABLE = [name for name in EVERY_TYPE if name not in ("maps", "structs", "lists")]
ROWS = [
    (7, *(value for _, value in EVERY_TYPE.values())),
    (8, *[None] * len(EVERY_TYPE)),
]


def store_of(folder, online):
    """A store with a view of every type and a push source."""
    store, table = open_store(folder, online=online), table_source(folder / "tables" / "trips")
    views = []
    for view, names, source in [
        ("trips", EVERY_TYPE, table),
        ("pushable", PUSHABLE, PushSource(name="trips_pushed", batch_source=table)),
    ]:
        schema = [
            Field(name="driver", dtype=Int64),
            *(Field(name=name, dtype=EVERY_TYPE[name][0]) for name in names),
        ]
        views.append(
            FeatureView(
                name=view, entities=[DRIVER], schema=schema, source=source, ttl=timedelta(0)
            )
        )
    store.apply([DRIVER, *views])
    return store


def written(store):
    """Writes the rows as Feast passes them to an online store."""
    columns = list(zip(*ROWS, strict=True))
    protos = {
        name: python_values_to_proto_values(list(column), type_.to_value_type())
        for (name, (type_, _)), column in zip(EVERY_TYPE.items(), columns[1:], strict=True)
    }
    rows = [
        (
            EntityKeyProto(join_keys=["driver"], entity_values=[ValueProto(int64_val=driver)]),
            {name: column[number] for name, column in protos.items()},
            utc(10),
            utc(10),
        )
        for number, driver in enumerate(columns[0])
    ]
    store._get_provider().online_write_batch(
        store.config, store.get_feature_view("trips"), rows, None
    )
    return store


def pushed(store):
    """Pushes the rows in the form that a caller has."""
    frame = pd.DataFrame(
        {name: [row[1 + place] for row in ROWS] for place, name in enumerate(EVERY_TYPE)},
        dtype=object,
    )[PUSHABLE]
    times = [pd.Timestamp(utc(10), tz="UTC")] * len(ROWS)
    frame = frame.assign(
        driver=[row[0] for row in ROWS], event_timestamp=times, created_timestamp=times
    )
    store.push("trips_pushed", frame, to=PushMode.ONLINE)
    return store


def answer_of(store, view="trips", names=tuple(EVERY_TYPE)):
    """Per feature its values, as Feast gives them, and their statuses."""
    response = store.get_online_features(
        [f"{view}:{name}" for name in names], [{"driver": driver} for driver in (7, 8, 9)]
    )
    values = response.to_dict()
    return {
        name: (values[name], [FieldStatus.Name(status) for status in vector.statuses])
        for name, vector in zip(
            response.proto.metadata.feature_names.val, response.proto.results, strict=True
        )
        if name != "driver"
    }


@pytest.fixture(scope="module")
def feasts_own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    return pushed(written(store_of(folder, {"type": "sqlite", "path": str(folder / "online.db")})))


@pytest.fixture
def store(tmp_path, online_store):
    return store_of(tmp_path, {"type": "stores.online.PackedOnlineStore", **online_store})


def test_written_values_are_read_as_from_feasts_own_store(store, feasts_own):
    assert answer_of(written(store)) == answer_of(feasts_own)


def test_pushed_values_are_read_as_from_feasts_own_store(store, feasts_own):
    assert answer_of(pushed(store), "pushable", PUSHABLE) == answer_of(
        feasts_own, "pushable", PUSHABLE
    )


def test_materialized_values_are_read_as_from_feasts_own_store(
    store, feasts_own, tmp_path, publish
):
    view = store.get_feature_view("trips")
    declared = declared_schema(view)
    types = {
        name: pa.int64() if name == "driver" else declared.field(name).type
        for name in ["driver", *EVERY_TYPE]
    }

    def as_arrow(value, type_):
        if value is not None and pa.types.is_map(type_):
            return list(value.items())
        if value is not None and pa.types.is_list(type_):
            return [as_arrow(each, type_.value_type) for each in value]
        return value.replace(tzinfo=None) if isinstance(value, datetime) else value

    rows = [
        (
            *(as_arrow(value, type_) for value, type_ in zip(row, types.values(), strict=True)),
            utc(10),
            utc(10),
        )
        for row in ROWS
    ]
    publish(
        Table.for_definition(tmp_path / "tables", "trips", "first", ("driver",)),
        types,
        rows,
        utc(11).replace(tzinfo=UTC),
    )
    database = packed_database(store.config)
    assert (
        materialize_view(store.config, database, view, now=utc(11).replace(tzinfo=UTC)).records == 2
    )
    database.close()
    assert answer_of(store) == answer_of(feasts_own)
