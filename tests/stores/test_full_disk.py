"""A full disk, simulated in a child process by a limit on the size of files."""

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from stores.tables import Table, canonical_hash

TRIPS = {"driver": pa.int64(), "trips": pa.int64()}
NUMBERS = {"driver": pa.int64(), "number": pa.int64(), "half": pa.float64(), "text": pa.string()}
FIRST = datetime(2013, 6, 1)
LIMITED = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import duckdb
from punctual.errors import DataFolderError
from stores.tables import Table, connect

def limited(megabytes, write):
    size = int(float(megabytes) * 1_000_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write()
        print("written")
    except DataFolderError as error:
        print(error)
"""
PUBLISH = """
root, megabytes, memory = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
table = Table.for_definition(root, "trips", "first", ("driver",))
at = "TIMESTAMP '2013-06-02'"
rows = (
    f"SELECT 7 + range AS driver, (hash(range) >> 1)::BIGINT AS trips, {at} AS event_timestamp,"
    f" {at} AS created_timestamp FROM range(1_000_000) ORDER BY hash(range)"
)
with connect(memory_limit=memory, threads=1, temporary=root.parent / "spilled") as connection:
    limited(megabytes, lambda: table.publish(connection, rows, datetime(2013, 6, 3, tzinfo=UTC)))
"""
MATERIALIZE = """
from stores.online import materialize_view, packed_database
from tests.stores.materializer import config_of, view_of
folder = Path(sys.argv[1])
config, view = config_of({"path": str(folder / "online.db")}), view_of(folder / "tables")
now = datetime(2013, 6, 3, tzinfo=UTC)
database = packed_database(config)
for rebuild in (False, True):
    for megabytes in (0.001, 0.05, 0.4, 1000):
        limited(
            megabytes, lambda: materialize_view(config, database, view, now=now, rebuild=rebuild)
        )
"""


def run(program, *arguments):
    """Runs a program under the limit; returns its output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("megabytes", "memory", "named"),
    [
        (0.001, "1GB", r"the manifest .*manifest\.db: disk I/O error"),
        (1, "1GB", "table 'trips' in .*trips/v1: .*File too large"),
        (1, "30MB", "table 'trips' in .*Could not write file .*spilled.*: File too large"),
    ],
)
def test_a_disk_that_fills_during_a_publication_is_named_and_the_table_stays(
    tmp_path, publish, megabytes, memory, named
):
    table = Table.for_definition(tmp_path / "tables", "trips", "first", ("driver",))
    publish(table, TRIPS, [(7, 1, FIRST, FIRST)])
    before = canonical_hash(table.read())
    said = run(PUBLISH, tmp_path / "tables", megabytes, memory)
    assert re.match(f"DataFolderError: cannot write {named}", said), said
    assert said.endswith("Free space, fix its permissions or choose another --home.")
    assert canonical_hash(table.read()) == before
    assert len(list((tmp_path / "tables").rglob("*.parquet"))) == 1
    assert run(PUBLISH, tmp_path / "tables", 1000, "1GB") == "written"
    assert table.rows() == 1_000_001


def test_a_materialization_on_a_full_disk_is_an_error_and_can_be_repeated(tmp_path, publish):
    table = Table.for_definition(tmp_path / "tables", "driver_trips", "first", ("driver",))
    rows = [(driver, driver, 0.5, f"{driver}" * 5, FIRST, FIRST) for driver in range(20_000)]
    publish(table, NUMBERS, rows, datetime.fromisoformat("2013-06-03T00:00Z"))
    *said, last = run(MATERIALIZE, tmp_path).splitlines()
    assert (said.pop(3), last) == ("written", "written")
    assert len(said) == 6
    for line in said:
        assert re.match(r"DataFolderError: cannot (write|open) the \w+ .*\.db: ", line), line
        assert re.search(r"\. Free (disk )?space", line), line
