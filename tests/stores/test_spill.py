"""Each connection has its own spill folder."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stores.tables import connect

MANY = (
    "CREATE TABLE many AS SELECT range * {0} AS number, md5(range::VARCHAR) AS text FROM"
    " range(400_000)"
)
READ = (
    "SELECT count(*), sum(number), count(*) FILTER (text <> md5((number // {0})::VARCHAR)) FROM"
    " many"
)
SPILLING = """
import sys
from pathlib import Path
from stores.tables import connect
connection = connect(memory_limit="12MB", threads=1, temporary=Path(sys.argv[1]))
connection.execute(
    "CREATE TABLE many AS SELECT range, md5(range::VARCHAR) AS text FROM range(400_000)"
)
print(flush=True)
sys.stdin.read()
"""


def spilled(folder):
    return list(folder.rglob("duckdb_temp*"))


def test_connections_that_share_a_spill_folder_do_not_read_each_others_rows(tmp_path):
    # DuckDB 1.5 uses the same file names in each connection and crashes.
    folder = tmp_path / "not" / "there yet"

    def run(factor):
        with connect(memory_limit="12MB", threads=1, temporary=folder) as connection:
            connection.execute(MANY.format(factor))
            assert spilled(folder)
            return [connection.execute(READ.format(factor)).fetchone() for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run, (1, 2))
    assert (one, other) == ([(400_000, 79_999_800_000, 0)] * 2, [(400_000, 159_999_600_000, 0)] * 2)
    assert not spilled(folder)


def test_the_next_process_removes_spill_files_of_killed_processes_only(tmp_path):
    def start():
        command = [sys.executable, "-c", SPILLING, str(tmp_path)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        process.stdout.readline()
        return process

    killed, living = start(), start()
    try:
        killed.kill()
        killed.communicate()
        left = spilled(tmp_path)
        with connect(temporary=tmp_path):
            there = spilled(tmp_path)
        assert 0 < len(there) < len(left)
        assert living.poll() is None
    finally:
        living.communicate()
    assert living.returncode == 0


def test_without_a_spill_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connect(memory_limit="12MB", threads=1) as connection:
        connection.execute(MANY.format(1))
        assert connection.execute(READ.format(1)).fetchone()[2] == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["12MB", None])
def test_a_folder_into_which_nothing_was_spilled_stays_empty_of_rows(tmp_path, limit):
    with connect(memory_limit=limit, temporary=tmp_path) as connection:
        connection.execute("SELECT 1")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
