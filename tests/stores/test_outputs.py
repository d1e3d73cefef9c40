"""A result in every form is whole or absent, from any number of threads and processes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from punctual.errors import BrokenTable, DataFolderError
from tests.stores.by_hand import at, utc


@pytest.fixture
def job(views):
    views.add(rows=[(7, 2**53 + 1, utc(11), utc(12))])
    return views.job(at(utc(11), utc(12), utc(13)), "driver_trips:trips")


def test_every_form_has_the_same_rows(job, tmp_path):
    expected = [None, 2**53 + 1, 2**53 + 1]
    table = job.to_arrow()
    assert table["driver_trips__trips"].to_pylist() == expected
    with job.to_reader(rows=2) as reader:
        batches = list(reader)
    assert [batch.num_rows for batch in batches] == [2, 1]
    assert pa.Table.from_batches(batches).equals(table)
    assert pq.read_table(job.to_parquet(tmp_path / "out.parquet")).to_pylist() == table.to_pylist()
    assert job.to_polars().to_dicts() == table.to_pylist()
    assert (
        pa.Table.from_pandas(job.to_df(), preserve_index=False)["driver_trips__trips"].to_pylist()
        == expected
    )


def test_an_existing_file_is_replaced_only_if_requested(job, tmp_path):
    path = tmp_path / "out.parquet"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="out.parquet exists; overwrite=True replaces it"):
        job.to_parquet(path)
    assert path.read_text() == "old"
    assert job.to_parquet(str(path), overwrite=True) == path
    assert pq.read_table(path).num_rows == 3


@pytest.mark.parametrize(
    "error",
    [BrokenTable("the second piece"), OSError(28, "No space left on device"), KeyboardInterrupt()],
)
def test_a_failed_write_leaves_no_file_or_the_old_one(job, tmp_path, monkeypatch, error):
    usual = type(job._join).batches

    def broken(join, rows):
        for number, piece in enumerate(usual(join, 1)):
            if number == 1:
                raise error
            yield piece

    monkeypatch.setattr(type(job._join), "batches", broken)
    expected = DataFolderError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        job.to_parquet(tmp_path / "new.parquet")
    (tmp_path / "old.parquet").write_text("old")
    with pytest.raises(expected):
        job.to_parquet(tmp_path / "old.parquet", overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*.parquet*")) == ["old.parquet"]
    assert not list(tmp_path.glob(".*aside*"))
    assert (tmp_path / "old.parquet").read_text() == "old"


def test_an_unwritable_path_is_named(job, tmp_path):
    with pytest.raises(DataFolderError, match="cannot write .*nowhere/out.parquet: "):
        job.to_parquet(tmp_path / "nowhere" / "out.parquet")


def test_an_abandoned_stream_removes_its_spill_files(views, tmp_path):
    views.add(rows=[(7, 3, utc(11), utc(12))])
    store = views.opened(spill_folder=str(tmp_path / "spilled"), memory_limit="20MB", threads=1)
    reader = views.job(at(*[utc(13)] * 200_000), "driver_trips:trips", store=store).to_reader(
        rows=1_000
    )
    assert reader.read_next_batch().num_rows == 1_000
    del reader
    assert not list((tmp_path / "spilled").rglob("duckdb_temp*"))


def test_joins_in_all_forms_from_many_threads_are_the_same(views, tmp_path):
    views.add(rows=[(driver, driver, utc(11), utc(12)) for driver in range(50)])
    frame = pa.table(
        {
            "driver": range(50),
            "event_timestamp": pa.array([utc(12)] * 50, pa.timestamp("us", "UTC")),
        }
    )
    job = views.job(frame, "driver_trips:trips")
    reads = [
        job.to_arrow,
        lambda: job.to_reader(rows=7).read_all(),
        lambda: pq.read_table(job.to_parquet(tmp_path / f"{os.urandom(4).hex()}.parquet")),
        lambda: job.to_polars().to_arrow(),
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(
                lambda number: reads[number % 4]()["driver_trips__trips"].to_pylist(), range(12)
            )
        )
    assert results == [list(range(50))] * 12


JOIN = """
import json, sys
from feast import FeatureStore
from feast.repo_config import RepoConfig
from stores.offline import point_in_time_join
store = FeatureStore(config=RepoConfig(**json.loads(sys.argv[1])))
sys.stdin.readline()
job = point_in_time_join(store, sys.argv[2], ["driver_trips:trips"])
job.to_parquet(sys.argv[3], overwrite=True)
"""


def test_joins_from_several_processes_into_one_file_leave_a_whole_one(views, tmp_path):
    views.add(rows=[(driver, driver, utc(11), utc(12)) for driver in range(50)])
    frame = pa.table(
        {
            "driver": range(50),
            "event_timestamp": pa.array([utc(12)] * 50, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(frame, tmp_path / "entities.parquet")
    store = views.opened(spill_folder=str(tmp_path / "spilled"))
    config = store.config.model_dump_json(by_alias=True, exclude_none=True)
    command = [
        sys.executable,
        "-c",
        JOIN,
        config,
        str(tmp_path / "entities.parquet"),
        str(tmp_path / "out.parquet"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    answers = [process.communicate("\n")[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert pq.read_table(tmp_path / "out.parquet")["driver_trips__trips"].to_pylist() == list(
        range(50)
    )
    assert not list(tmp_path.glob(".*aside*"))
