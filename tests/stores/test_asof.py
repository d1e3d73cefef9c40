"""The join below Feast against a loop over the history.

An example takes ten milliseconds, so that 100,000 can be tried.
"""

import uuid
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.offline.join import Join, JoinedView
from stores.offline.view_files import FeatureColumn, History
from stores.tables import RowStatistics, connect
from stores.tables.parquet import write_parquet
from tests.stores.by_hand import Row, shown

pytestmark = pytest.mark.filterwarnings("ignore:all features of view '.*' are null")


cities = st.sampled_from(["Oslo", "O'Hare", None])
drivers = st.sampled_from([1, 2, 2**53 + 1, None])
# Few timestamps, so that they coincide; some are far apart, so that buckets between are empty.
moments = st.one_of(st.integers(0, 12), st.sampled_from([40, 41, 100, 1_000]))
values = st.tuples(st.sampled_from([None, 0, 2**53 + 1, 2**63 - 1]))
rows_of_history = st.builds(
    Row, st.tuples(cities, drivers), moments, moments, values, st.just(False) | st.booleans()
)


@st.composite
def histories(draw):
    """Rows in order of arrival: any lags, lags that keep the order, or one lag for all."""
    rows = draw(st.lists(rows_of_history, max_size=14))
    kind = draw(st.sampled_from(["any", "in order", "regular"]))
    if kind == "in order":
        events, created = sorted(row.event for row in rows), sorted(row.created for row in rows)
        rows = [
            replace(row, event=event, created=known)
            for row, event, known in zip(rows, events, created, strict=True)
        ]
    if kind == "regular":
        lag = draw(st.sampled_from([0, 3]))
        rows = [replace(row, created=row.event + lag) for row in rows]
    unique = {(row.keys, row.event, row.created): row for row in rows}.values()
    return sorted(unique, key=lambda row: (row.created, row.event))


@pytest.fixture(scope="module")
def connection():
    with connect() as connection:
        yield connection


def published(folder, history, cuts):
    """The history in files, as a manifest describes them."""
    edges = sorted({0, len(history), *(min(cut, len(history)) for cut in cuts)})
    parts = [history[start:end] for start, end in pairwise(edges)]
    paths, statistics, newest = [], [], -1
    for part in parts:
        # Names are unique, since published files are never rewritten and DuckDB caches by name.
        path = folder / f"{uuid.uuid4().hex}.parquet"
        columns = {
            "city": pa.array([row.keys[0] for row in part], pa.string()),
            "driver": pa.array([row.keys[1] for row in part], pa.int64()),
            "value": pa.array([row.values[0] for row in part], pa.int64()),
            "is_withdrawn": pa.array([row.is_withdrawn for row in part], pa.bool_()),
            "event_timestamp": pa.array([row.event for row in part], pa.timestamp("us")),
            "created_timestamp": pa.array([row.created for row in part], pa.timestamp("us")),
        }
        write_parquet(pa.table(columns), path)
        events, created = (
            np.array([row.event for row in part]),
            np.array([row.created for row in part]),
        )
        in_order = bool(np.all(np.diff(events) >= 0)) and events[0] >= newest
        newest = max(newest, events.max())
        ends = (
            events.min(),
            events.max(),
            created.min(),
            created.max(),
            (created - events).min(),
            (created - events).max(),
        )
        statistics.append(RowStatistics(len(part), *map(int, ends), in_order))
        paths.append(str(path))
    return History(
        "taxis",
        paths,
        keys={"city": "city", "driver": "driver"},
        key_types=[pa.string(), pa.int64()],
        features=[FeatureColumn("value", "value", pa.int64())],
        event="event_timestamp",
        created="created_timestamp",
        has_withdrawals=True,
        file_statistics=statistics,
    )


@given(
    histories(),
    st.lists(st.integers(0, 14), max_size=3),
    st.lists(st.tuples(cities, drivers, moments), min_size=1, max_size=14),
    st.sampled_from([0, 2, 30]),
    st.booleans(),
    st.none() | moments,
    st.none() | st.sampled_from([0.1, 1.0, 3.0]),
    st.booleans(),
)
def test_the_join_equals_a_scan_of_every_row(
    tmp_path, connection, history, cuts, entities, ttl, two_time, as_of, width, is_held
):
    described = published(tmp_path, history, cuts)
    if as_of is not None:
        described = replace(described, as_of=as_of)
    frame = pa.table(
        {
            "city": pa.array([city for city, _, _ in entities], pa.string()),
            "driver": pa.array([driver for _, driver, _ in entities], pa.int64()),
            "event_timestamp": pa.array([at for _, _, at in entities], pa.timestamp("us", "UTC")),
        }
    )
    join = Join(
        frame, [JoinedView(lambda *_: described, "", ttl)], connection.cursor, two_time=two_time
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "stores.offline.join.worth_loading", lambda held, _: is_held and bool(held.paths)
        )
        if width is not None:
            # A history of few rows would be joined whole.
            patch.setattr("stores.offline.asof.worth_narrowing", lambda *_: True)
            patch.setattr("stores.offline.asof.ROWS_PER_BUCKET", width)
        found = join.table()["value"].to_pylist()
    for path in described.paths:
        Path(path).unlink()
    known = [row for row in history if as_of is None or row.created <= as_of]
    by_hand = [
        shown(known, (city, driver), at, ttl, two_time=two_time) for city, driver, at in entities
    ]
    assert found == [values and values[0] for values in by_hand]
