"""Tables: published rows and commits never change, and a process may die anywhere."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from punctual.errors import BrokenTable, DataFolderError, StoreOutdated
from stores.tables import MANIFEST_FILE, Manifest, Table, canonical_hash, connect, timestamp
from stores.tables.compaction import MAX_FILE_ROWS
from stores.tables.manifest import TableVersion

TRIPS = {"driver": pa.int64(), "trips": pa.int64()}
FIRST_MANIFEST = """
CREATE TABLE tables (name TEXT, version INTEGER, fingerprint TEXT, keys TEXT);
CREATE TABLE commits (
    name TEXT, version INTEGER, number INTEGER, built_until INTEGER, rows INTEGER
);
CREATE TABLE watermarks (name TEXT, version INTEGER, kind TEXT, moment INTEGER);
INSERT INTO tables VALUES ('trips', 1, 'first', 'driver')
"""


@pytest.fixture
def trips(tmp_path):
    return Table.for_definition(tmp_path, "trips", "first", ("driver",))


def day(number, hour=0, microsecond=0):
    """A moment of June 2013 as naive UTC, as in the files."""
    return datetime(2013, 6, number, hour, 0, 0, microsecond)


def aware(number, hour=0):
    return datetime(2013, 6, number, hour, tzinfo=UTC)


def contents(table, commit=None):
    rows = table.read(commit)
    return (
        sorted(
            zip(*(rows[name].to_pylist() for name in ("driver", "trips")), strict=True), key=repr
        )
        if rows.num_columns
        else []
    )


def test_rows_of_a_commit_are_in_one_file_named_by_its_range(trips, publish):
    rows = [(1, 10, day(1), day(1, 23)), (1, 11, day(1), day(2)), (2, 12, day(1), day(2, 5))]
    assert publish(trips, TRIPS, rows) == 3
    (file,) = trips.files()
    assert re.fullmatch(
        r"trips/v1/20130601T230000_20130602T050000-0000-[0-9a-f]{8}\.parquet", file.path
    )
    assert (file.rows, file.in_order) == (3, True)
    assert not list(trips.folder.glob(".aside*"))


def test_an_empty_table_reads_as_no_rows(trips, publish):
    assert publish(trips, TRIPS, [], built_until=aware(1)) == 0
    assert (trips.rows(), trips.built_until, trips.read().num_rows) == (0, aware(1), 0)
    with pytest.raises(BrokenTable, match="table 'trips' has no files yet"):
        trips.scan()


def test_each_commit_shows_its_own_rows(trips, publish):
    publish(trips, TRIPS, [(1, 10, day(1), day(1))])
    publish(trips, TRIPS, [(1, 11, day(1), day(2))])
    assert contents(trips, 1) == [(1, 10)]
    assert contents(trips, 2) == contents(trips) == [(1, 10), (1, 11)]


def test_two_equal_rows_in_one_batch_are_refused(trips, publish):
    with pytest.raises(
        BrokenTable,
        match="received two rows for driver=1, event_timestamp=2013-06-01 00:00:00, created",
    ):
        publish(
            trips, TRIPS, [(1, 10, day(1), day(2)), (2, 5, day(1), day(2)), (1, 11, day(1), day(2))]
        )
    assert trips.rows() == 0


def test_a_published_row_is_refused_a_second_time(trips, publish):
    publish(trips, TRIPS, [(1, 10, day(1), day(2)), (2, 10, day(1), day(2))])
    publish(trips, TRIPS, [(3, 10, day(1), day(2))])
    with pytest.raises(BrokenTable, match="received two rows for driver=2"):
        publish(trips, TRIPS, [(4, 1, day(1), day(2)), (2, 11, day(1), day(2))])
    assert contents(trips) == [(1, 10), (2, 10), (3, 10)]


def test_two_equal_rows_at_the_edge_of_two_files_are_refused(trips):
    last = MAX_FILE_ROWS - 1
    many = (
        f"SELECT range AS driver, 0 AS trips, {timestamp(aware(1))} AS event_timestamp,"
        f" {timestamp(aware(1))} AS created_timestamp FROM range({{}})"
    )
    again = f"SELECT * REPLACE ({last} AS driver) FROM ({many.format(1)})"
    with connect() as connection, pytest.raises(BrokenTable, match=f"driver={last},"):
        trips.publish(connection, f"{many.format(300_000)} UNION ALL {again}")
    with connect() as connection:
        assert trips.publish(connection, many.format(300_000)) == 300_000
    assert [file.rows for file in trips.files()] == [MAX_FILE_ROWS, 300_000 - MAX_FILE_ROWS]


def test_a_null_key_is_a_key_of_its_own(trips, publish):
    publish(trips, TRIPS, [(None, 1, day(1), day(1)), (7, 2, day(1), day(1))])
    with pytest.raises(BrokenTable, match="driver=None"):
        publish(trips, TRIPS, [(None, 3, day(1), day(1))])
    with pytest.raises(BrokenTable, match="driver=None"):
        publish(trips, TRIPS, [(None, 3, day(2), day(2)), (None, 4, day(2), day(2))])


def test_rows_without_a_time_or_with_another_kind_of_time_are_refused(trips, publish):
    with pytest.raises(BrokenTable, match="without a value of created_timestamp"):
        publish(trips, TRIPS, [(1, 10, day(1), None)])
    with pytest.raises(BrokenTable, match="without a value of event_timestamp"):
        publish(trips, TRIPS, [(1, 10, None, day(1))])
    rows = (
        "SELECT 1 AS driver, 2 AS trips, {} AS event_timestamp, TIMESTAMP '2013-06-01' AS"
        " created_timestamp"
    )
    for wrong in (
        "TIMESTAMPTZ '2013-06-01'",
        "TIMESTAMP_NS '2013-06-01'",
        "TIMESTAMP_S '2013-06-01'",
        "DATE '2013-06-01'",
    ):
        with (
            connect() as connection,
            pytest.raises(BrokenTable, match="expected TIMESTAMP, naive UTC in microseconds"),
        ):
            trips.publish(connection, rows.format(wrong))
    with (
        connect() as connection,
        pytest.raises(BrokenTable, match="received rows without driver; they have trips"),
    ):
        trips.publish(
            connection, f"SELECT * EXCLUDE (driver) FROM ({rows.format('make_timestamp(0)')})"
        )
    assert trips.rows() == 0


def test_rows_with_other_columns_than_the_table_are_refused(trips, publish):
    publish(trips, TRIPS, [(1, 10, day(1), day(1))])
    with pytest.raises(BrokenTable, match=r"added: trips DOUBLE; missing: trips BIGINT"):
        publish(trips, {"driver": pa.int64(), "trips": pa.float64()}, [(1, 10.5, day(2), day(2))])
    with pytest.raises(BrokenTable, match=r"added: none; missing: trips BIGINT"):
        publish(trips, {"driver": pa.int64()}, [(1, day(2), day(2))])
    assert publish(trips, dict(reversed(TRIPS.items())), [(11, 1, day(2), day(2))]) == 1
    assert contents(trips) == [(1, 10), (1, 11)]


def test_a_row_known_at_a_closed_time_is_refused(trips, publish):
    publish(trips, TRIPS, [(1, 10, day(1), day(1))], built_until=aware(2))
    with pytest.raises(BrokenTable, match="a late row needs a created_timestamp after that"):
        publish(trips, TRIPS, [(1, 11, day(1), day(2))])
    assert (
        publish(trips, TRIPS, [(1, 11, day(1), day(2, microsecond=1)), (1, 12, day(3), day(1))])
        == 2
    )


def test_files_are_in_order_only_if_both_times_increase(trips, publish):
    publish(trips, TRIPS, [(1, 1, day(3), day(5))])
    publish(trips, TRIPS, [(1, 2, day(3), day(5, 1))])
    assert [file.in_order for file in trips.files()] == [True, True]
    publish(trips, TRIPS, [(1, 3, day(4), day(4))])
    publish(trips, TRIPS, [(1, 4, day(2), day(6))])
    assert [file.in_order for file in trips.files()] == [False, True, True, False]


def test_the_built_watermark_never_goes_back(trips, publish):
    publish(trips, TRIPS, [], built_until=aware(5))
    publish(trips, TRIPS, [], built_until=aware(3))
    assert trips.built_until == aware(5)
    publish(trips, TRIPS, [(1, 10, day(6), day(6))])
    assert trips.built_until == aware(5)


def test_a_table_may_be_built_until_a_time_before_1970(trips, publish):
    until = datetime(1920, 9, 26, tzinfo=UTC)
    publish(trips, TRIPS, [], built_until=until)
    assert trips.built_until == until
    publish(trips, TRIPS, [], built_until=aware(1))
    assert trips.built_until == aware(1)


def test_a_manifest_of_another_version_of_the_code_is_named(tmp_path, trips, publish):
    with closing(sqlite3.connect(tmp_path / MANIFEST_FILE, isolation_level=None)) as earlier:
        for statement in FIRST_MANIFEST.split(";"):
            earlier.execute(statement)
    for use in (
        lambda: trips.files(),
        lambda: trips.built_until,
        lambda: Table.current(tmp_path, "trips"),
        lambda: publish(trips, TRIPS, [(1, 10, day(1), day(1))]),
    ):
        with pytest.raises(
            StoreOutdated, match="are of format 0, .*; this version reads and writes 2"
        ):
            use()


def test_another_definition_is_another_version_with_its_own_rows_and_watermarks(
    tmp_path, trips, publish
):
    publish(trips, TRIPS, [(1, 10, day(1), day(1))], built_until=aware(2))
    assert Table.for_definition(tmp_path, "trips", "first", ("driver",)).version == trips.version
    second = Table.for_definition(tmp_path, "trips", "second", ("driver",))
    assert (second.version.version, second.rows(), second.built_until) == (2, 0, None)
    assert Table.current(tmp_path, "trips").version == trips.version
    publish(second, TRIPS, [(1, 20, day(1), day(1))])
    assert contents(Table.current(tmp_path, "trips")) == [(1, 20)]
    assert contents(trips) == [(1, 10)]
    # A reverted change continues with its earlier table.
    assert Table.for_definition(tmp_path, "trips", "first", ("driver",)).version == trips.version
    assert contents(Table.of_definition(tmp_path, "trips", "second")) == [(1, 20)]
    assert Table.of_definition(tmp_path, "trips", "third") is None


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path, publish):
    (tmp_path / "home").write_text("a file")
    table = Table.for_definition(tmp_path / "home" / "tables", "trips", "first", ("driver",))
    with pytest.raises(DataFolderError, match="home"):
        publish(table, TRIPS, [(1, 10, day(1), day(1))])
    with pytest.raises(DataFolderError, match="home"):
        table.manifest.commit(table.version, [], aware(1))


PUBLISH = """
import sys
from pathlib import Path
from stores.tables import Table
from stores.tables import connect
root, name, driver, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
table = Table.for_definition(root, name, "first", ("driver",))
with connect() as connection:
    for number in range(count):
        at = f"TIMESTAMP '2013-06-01' + to_hours({number})"
        times = f"{at} AS event_timestamp, {at} AS created_timestamp"
        values = f"{driver}::BIGINT AS driver, {number}::BIGINT AS trips"
        table.publish(connection, f"SELECT {values}, {times}")
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.005)


def test_a_process_killed_before_its_commit_leaves_the_table_as_it_was(tmp_path, trips, publish):
    publish(trips, TRIPS, [(9, 90, day(9), day(9))])
    before = canonical_hash(trips.read())
    with closing(sqlite3.connect(tmp_path / MANIFEST_FILE, isolation_level=None)) as manifest:
        manifest.execute(
            "BEGIN IMMEDIATE"
        )  # so that the process stands before its commit, its files in place
        process = start(PUBLISH, tmp_path, "trips", 1, 1)
        wait_for(lambda: list(trips.folder.glob("20130601*.parquet")))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        manifest.execute("ROLLBACK")
    assert canonical_hash(trips.read()) == before
    assert start(PUBLISH, tmp_path, "trips", 1, 1).communicate()[1] == ""
    assert contents(trips) == [(1, 0), (9, 90)]


def test_a_process_killed_at_any_moment_leaves_whole_commits(tmp_path, trips):
    for driver in range(4):
        before = trips.manifest.head(trips.version)
        process = start(PUBLISH, tmp_path, "trips", driver, 5000)
        wait_for(lambda before=before: trips.manifest.head(trips.version) > before)
        time.sleep(0.007 * driver)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        commits = trips.manifest.head(trips.version)
        assert trips.rows() == commits == trips.read().num_rows
    assert start(PUBLISH, tmp_path, "trips", 9, 1).communicate()[1] == ""
    assert not list(trips.folder.glob(".aside*"))


def test_processes_publish_different_tables_at_once(tmp_path):
    running = [start(PUBLISH, tmp_path, f"trips_of_{driver}", driver, 5) for driver in range(3)]
    assert [process.communicate()[1] for process in running] == [""] * 3
    assert [Table.current(tmp_path, name).rows() for name in Manifest(tmp_path).names()] == [
        5,
        5,
        5,
    ]


def test_processes_publish_the_same_table_one_after_the_other(tmp_path, trips):
    running = [start(PUBLISH, tmp_path, "trips", driver, 4) for driver in (1, 1, 2)]
    errors = [process.communicate()[1] for process in running]
    assert sorted("received two rows for driver=1" in error for error in errors) == [
        False,
        False,
        True,
    ]
    assert contents(trips) == [(driver, number) for driver in (1, 2) for number in range(4)]


def test_concurrently_created_manifests_are_whole(tmp_path):
    version = TableVersion("trips", 1, "first", ("driver",))
    program = (
        "import sys; from pathlib import Path; from stores.tables import Manifest, TableVersion\n"
        "manifest = Manifest(Path(sys.argv[1])); version = TableVersion('trips', 1, 'first',"
        " ('driver',))\n"
        "for _ in range(20): manifest.current('trips'); manifest.commit(version, [], None)"
    )
    running = [start(program, tmp_path / "new") for _ in range(4)]
    assert [process.communicate()[1] for process in running] == [""] * 4
    assert Manifest(tmp_path / "new").head(version) == 80


values = st.tuples(
    st.sampled_from([None, 0, 1, 2**53 + 1]),
    st.sampled_from([None, 0.0, -0.0, float("nan"), 1.5]),
    st.sampled_from([None, "", "a", "b"]),
    st.sampled_from(
        [None, datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 1, 0, 0, 0, 1, tzinfo=UTC)]
    ),
    st.sampled_from([None, [], [1], [1, None]]),
)
SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "f": pa.float64(),
        "s": pa.string(),
        "t": pa.timestamp("us", "UTC"),
        "l": pa.list_(pa.int64()),
    }
)


def as_table(rows, schema=SCHEMA):
    columns = list(zip(*rows, strict=True)) if rows else [[]] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


@given(
    st.lists(values, max_size=8),
    st.randoms(use_true_random=False),
    st.sampled_from(["zstd", "none", "snappy"]),
)
def test_the_canonical_hash_depends_on_the_rows_only(tmp_path, rows, chance, compression):
    shuffled = random.Random(chance.random()).sample(rows, len(rows))
    table = as_table(rows)
    cut = chance.randint(0, len(rows))
    in_parts = pa.concat_tables([as_table(shuffled[:cut]), as_table(shuffled[cut:])]).select(
        chance.sample(SCHEMA.names, len(SCHEMA))
    )
    pq.write_table(in_parts, tmp_path / "rows.parquet", compression=compression)
    assert canonical_hash(in_parts) == canonical_hash(table)
    assert canonical_hash(pq.read_table(tmp_path / "rows.parquet")) == canonical_hash(table)


def one(value, type_, name="x"):
    return canonical_hash(pa.table({name: pa.array([value], type_)}))


def test_the_canonical_hash_changes_with_value_type_and_name():
    at = datetime(2013, 6, 1, tzinfo=UTC)
    microsecond = timedelta(microseconds=1)
    hashes = [
        one(0, pa.int64()),
        one(1, pa.int64()),
        one(0, pa.int32()),
        one(0, pa.float64()),
        one(None, pa.int64()),
        one(None, pa.float64()),
        one(float("nan"), pa.float64()),
        one(0, pa.int64(), name="y"),
        one(False, pa.bool_()),
        one(None, pa.bool_()),
        one("", pa.string()),
        one(None, pa.string()),
        one("None", pa.string()),
        one(b"", pa.binary()),
        one(at, pa.timestamp("us", "UTC")),
        one(at + microsecond, pa.timestamp("us", "UTC")),
        one(at, pa.timestamp("us")),
        one(2**53, pa.int64()),
        one(2**53 + 1, pa.int64()),
        one(Decimal("1.0"), pa.decimal128(9, 1)),
        one(Decimal("1.0"), pa.decimal128(9, 2)),
        one([1], pa.list_(pa.int64())),
        one([], pa.list_(pa.int64())),
        canonical_hash(pa.table({"x": pa.array([], pa.int64())})),
        canonical_hash(pa.table({"x": [0, 0]})),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_canonical_hash_is_the_same_for_equal_values_of_other_encodings():
    assert one(0.0, pa.float64()) == one(-0.0, pa.float64())
    assert one(float("nan"), pa.float64()) == one(-float("nan"), pa.float64())
    assert (
        one("a", pa.string())
        == one("a", pa.large_string())
        == one("a", pa.dictionary(pa.int32(), pa.string()))
    )
    assert one(datetime(2013, 6, 1), pa.timestamp("us")) == one(
        datetime(2013, 6, 1), pa.timestamp("ns")
    )
