"""A view that changes between two `feast apply`: old records are never read as new ones.

The old records are removed once the new ones are complete.
"""

from datetime import UTC, timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Array, Float64, Int64, String

from stores.online import packed_database
from stores.tables import Table
from tests.stores.by_hand import open_store, table_source, utc

DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
STEPS = [
    ({"trips": Int64}, {"trips": pa.int64()}, (5,)),
    ({"trips": Int64, "note": String}, {"trips": pa.int64(), "note": pa.string()}, (6, "added")),
    ({"note": String}, {"note": pa.string()}, ("removed",)),
    ({"note": Float64}, {"note": pa.float64()}, (0.5,)),
    ({"note": Array(Int64)}, {"note": pa.list_(pa.int64())}, ([7],)),
    ({"trips": Int64}, {"trips": pa.int64()}, (8,)),
]


@pytest.fixture
def store(tmp_path, online_store):
    # Not the SQL registry: Feast caches its contents by `id`, which a later object may reuse.
    return open_store(
        tmp_path,
        registry="file",
        online={"type": "stores.online.PackedOnlineStore", **online_store},
    )


def test_a_changed_schema_is_read_from_its_materialization_on(store, tmp_path, publish):
    database = packed_database(store.config)
    for number, (features, columns, values) in enumerate(STEPS):
        table = table_source(tmp_path / "tables" / "trips")
        schema = [
            Field(name="driver", dtype=Int64),
            *(Field(name=name, dtype=type_) for name, type_ in features.items()),
        ]
        view = FeatureView(
            name="trips", entities=[DRIVER], schema=schema, source=table, ttl=timedelta(0)
        )
        view.tags["fingerprint"] = f"definition {number}"
        store.apply([DRIVER, view])
        asked = {"features": [f"trips:{name}" for name in features], "entity_rows": [{"driver": 7}]}
        nothing = {name: [None] for name in features}
        assert store.get_online_features(**asked).to_dict() == {"driver": [7], **nothing}
        definition = Table.for_definition(
            tmp_path / "tables", "trips", f"definition {number}", ("driver",)
        )
        publish(
            definition,
            {"driver": pa.int64(), **columns},
            [(7, *values, utc(10), utc(10))],
            utc(11).replace(tzinfo=UTC),
        )
        store.materialize(utc(0).replace(tzinfo=UTC), utc(11).replace(tzinfo=UTC))
        found = store.get_online_features(**asked).to_dict()
        assert found == {
            "driver": [7],
            **{name: [value] for name, value in zip(features, values, strict=True)},
        }
        assert [len(schemas) for schemas in database.records.views("test").values()] == [1]
    database.close()
