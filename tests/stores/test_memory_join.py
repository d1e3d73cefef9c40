"""The join in memory gives the same rows as the join in DuckDB."""

import numpy as np
import pyarrow as pa
import pytest

from stores.offline.join import Join, JoinedView
from stores.offline.view_files import FeatureColumn, History
from stores.tables import Table, connect

ROWS, ENTITY_ROWS = 120_000, 80_000
NAMES = ["driver", "city"]
# More than 65,536 keys, which are sorted in two passes.
MOST_KEYS = (90_000, 5)
MOST_LATE = 200_000


def numbers(type_):
    return lambda values: pa.array(values, type_)


def names(type_):
    return lambda values: pa.array([f"O'Hare {value}" for value in values.tolist()], type_)


def made_history(tmp_path, keys):
    """A published history of random rows, some late and some withdrawn."""
    random = np.random.default_rng(7)
    event = random.integers(0, 1_000_000, ROWS)
    created = event + random.integers(0, MOST_LATE, ROWS)
    columns = {
        name: key(random.integers(0, most, ROWS))
        for name, most, key in zip(NAMES, MOST_KEYS, keys, strict=False)
    }
    rows = pa.table(
        {
            **columns,
            "value": pa.array(np.arange(ROWS)),
            "is_withdrawn": pa.array(random.random(ROWS) < 0.1),
            "event_timestamp": pa.array(event, pa.timestamp("us")),
            "created_timestamp": pa.array(created, pa.timestamp("us")),
        }
    )
    table = Table.for_definition(tmp_path, "taxis", "made", tuple(columns))
    with connect() as connection:
        connection.register("__rows", rows)
        once = ", ".join([*columns, "event_timestamp", "created_timestamp"])
        table.publish(connection, f"SELECT DISTINCT ON ({once}) * FROM __rows")
    files = table.files()
    return History(
        "taxis",
        [str(table.root / file.path) for file in files],
        keys={name: name for name in columns},
        key_types=[column.type for column in columns.values()],
        features=[FeatureColumn("value", "value", pa.int64())],
        event="event_timestamp",
        created="created_timestamp",
        has_withdrawals=True,
        file_statistics=files,
    )


def asked(keys):
    """Entity rows, some with unknown keys and some with null keys."""
    random = np.random.default_rng(8)
    columns = {}
    for name, most, key in zip(NAMES, MOST_KEYS, keys, strict=False):
        column = key(random.permutation(ENTITY_ROWS) % (most * 11 // 10))
        columns[name] = pa.array(
            column.to_pylist(), column.type, mask=random.random(ENTITY_ROWS) < 0.05
        )
    moments = pa.array(random.integers(-10, 1_100_000, ENTITY_ROWS), pa.timestamp("us", "UTC"))
    return pa.table({**columns, "event_timestamp": moments})


def no_connection():
    raise AssertionError("a connection of DuckDB was opened")


@pytest.mark.parametrize("two_time", [True, False])
@pytest.mark.parametrize(
    ("keys", "entity_keys"),
    [
        ([], []),
        ([numbers(pa.int64())], [numbers(pa.int32())]),
        ([numbers(pa.int32())], [numbers(pa.uint32())]),
        ([names(pa.string())], [names(pa.large_string())]),
        ([numbers(pa.int64()), names(pa.string())], [numbers(pa.int64()), names(pa.string())]),
    ],
    ids=["no key", "int64 by int32", "int32 by uint32", "text by large text", "two keys"],
)
def test_a_history_joined_in_memory_gives_the_rows_that_duckdb_finds(
    tmp_path, monkeypatch, keys, entity_keys, two_time
):
    history = made_history(tmp_path, keys)
    view = JoinedView(lambda *_: history, "", 300_000)
    in_memory = Join(asked(entity_keys), [view], no_connection, two_time=two_time).table()
    monkeypatch.setattr("stores.offline.join.worth_loading", lambda *_: False)
    by_duckdb = Join(asked(entity_keys), [view], connect, two_time=two_time).table()
    assert ENTITY_ROWS - by_duckdb["value"].null_count > 1_000
    assert in_memory.equals(by_duckdb)
