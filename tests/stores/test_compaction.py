"""The number of files of a table follows its volume, and its commits never change."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punctual.errors import BrokenTable
from stores.tables import Manifest, Table, canonical_hash, connect
from stores.tables.compaction import FANOUT, MAX_FILE_ROWS, merges
from stores.tables.manifest import DataFile, RowStatistics

SCORES = {"team": pa.int64(), "score": pa.int64()}
FIRST_GAME = datetime(1920, 9, 26, 14, tzinfo=UTC)
DAYS = 24_839
LEVELS = math.ceil(math.log(MAX_FILE_ROWS, FANOUT))


@pytest.fixture
def scores(tmp_path):
    return Table.for_definition(tmp_path, "scores", "first", ("team",))


def games(first, last):
    """Rows from the first to the last day with games: two teams a day, about 240 days a year."""
    days = np.arange(first, last).repeat(2)
    teams = np.arange(2 * first, 2 * last) * 7 % 32
    start = int(FIRST_GAME.timestamp() * 1e6)
    event = start + (days * 3 // 2).astype(np.int64) * 86_400_000_000
    return pa.table(
        {
            "team": teams,
            "score": days % 40,
            "event_timestamp": pa.array(event, pa.timestamp("us")),
            "created_timestamp": pa.array(event + 10_800_000_000, pa.timestamp("us")),
        }
    )


def publish_games(table, connection, first, last):
    connection.register("__games", games(first, last))
    return table.publish(connection, "FROM __games")


def on_disk(table):
    return list(table.folder.rglob("*.parquet"))


def test_games_since_1920_that_are_published_at_once_are_one_small_file(scores):
    with connect() as connection:
        assert publish_games(scores, connection, 0, DAYS) == 2 * DAYS
    (file,) = scores.files()
    assert on_disk(scores) == [scores.root / file.path]
    assert file.bytes < 500_000
    assert file.path.startswith("scores/v1/19200926T170000_2022")
    assert (file.rows, file.in_order, file.is_regular) == (2 * DAYS, True, True)


def test_publishing_day_by_day_leaves_few_files_and_unchanged_commits(scores):
    days = 150
    hashes = {}
    with connect() as connection:
        for day in range(days):
            publish_games(scores, connection, day, day + 1)
            if day in (0, 6, 7, 8, 62, 63, 100):
                hashes[day + 1] = canonical_hash(scores.read())
    assert {commit: canonical_hash(scores.read(commit)) for commit in hashes} == hashes
    assert canonical_hash(scores.read()) == canonical_hash(games(0, days))
    assert scores.manifest.head(scores.version) == days
    live = scores.files()
    assert len(live) <= 2 * (FANOUT - 1)
    assert all(file.in_order for file in live)
    # Each day's row was in its first file and in at most one merged file per level.
    assert len(on_disk(scores)) <= days


def test_hourly_runs_of_three_years_keep_few_files_and_rewrite_rows_rarely():
    hours, per_run = 3 * 365 * 24, 40
    live, rewritten, most = [], 0, 0
    for hour in range(hours):
        live.append(one_file(hour, rows=per_run))
        for run in merges(live):
            merged = joined(run)
            rewritten += merged.rows
            live = [file for file in live if file not in run] + [merged]
        live.sort(key=lambda file: file.min_created)
        small = [file for file in live if 2 * file.rows < MAX_FILE_ROWS]
        most = max(most, len(small))
    assert sum(file.rows for file in live) == hours * per_run
    assert most <= (FANOUT - 1) * LEVELS
    assert len(live) - len(small) <= 2 * hours * per_run / MAX_FILE_ROWS
    assert rewritten <= LEVELS * hours * per_run


def test_a_full_file_is_never_rewritten():
    full = [one_file(hour, rows=MAX_FILE_ROWS // 2) for hour in range(50)]
    assert merges(full) == []
    small = [one_file(hour, rows=1) for hour in range(100, 100 + FANOUT)]
    assert merges([*full, *small]) == [tuple(small)]


def test_files_too_large_for_one_are_merged_into_several():
    third = [one_file(hour, rows=MAX_FILE_ROWS // 3) for hour in range(FANOUT)]
    assert [len(run) for run in merges(third)] == [3, 3, 2]


def one_file(hour, *, rows):
    moment = hour * 3_600_000_000
    return DataFile(rows, *[moment] * 4, 0, 0, True, f"{hour:09d}", rows * 30)


def joined(run):
    return DataFile(
        **vars(RowStatistics.combined(run)), path=run[0].path, bytes=sum(file.bytes for file in run)
    )


publications = st.lists(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=12, unique=True
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=25)
@given(publications)
def test_every_commit_reads_the_same_after_merges(tmp_path_factory, publish, publications):
    """Files have 16 rows and merge in pairs; rows come in any order of `created_timestamp`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.tables.compaction.FANOUT", 2)
        patch.setattr("stores.tables.compaction.MAX_FILE_ROWS", 16)
        table = Table.for_definition(tmp_path_factory.mktemp("t"), "scores", "first", ("team",))
        there, hashes = set(), {}
        for rows in publications:
            new = [row for row in rows if row not in there]
            there |= set(new)
            if new:
                publish(table, SCORES, [(team, hour, at(hour), at(hour)) for team, hour in new])
                hashes[len(hashes) + 1] = canonical_hash(table.read())
        assert {commit: canonical_hash(table.read(commit)) for commit in hashes} == hashes
    read = table.read()
    assert sorted(zip(read["team"].to_pylist(), read["score"].to_pylist(), strict=True)) == sorted(
        there
    )
    newest = None
    for file in table.files():
        created = Manifest(table.root).root / file.path
        rows = pq.read_table(created, partitioning=None)
        times = rows["created_timestamp"].to_pylist()
        assert (len(times), times) == (file.rows, sorted(times))
        assert (times[0], times[-1]) == (naive(file.min_created), naive(file.max_created))
        if file.in_order and newest is not None and all(f.in_order for f in table.files()):
            assert times[0] >= newest
        newest = times[-1]


def at(hour):
    return datetime(2013, 6, 1) + timedelta(hours=hour)


def naive(microseconds):
    return datetime(1970, 1, 1) + timedelta(microseconds=microseconds)


def test_rows_that_were_merged_are_still_refused_a_second_time(scores, publish):
    for hour in range(FANOUT):
        publish(scores, SCORES, [(1, hour, at(hour), at(hour)), (2, hour, at(hour), at(hour))])
    assert len(scores.files()) == 1
    with pytest.raises(BrokenTable, match="received two rows for team=2"):
        publish(scores, SCORES, [(2, 9, at(3), at(3))])


def test_files_whose_columns_are_in_another_order_are_merged(scores, publish):
    for hour in range(FANOUT - 1):
        publish(scores, SCORES, [(1, hour, at(hour), at(hour))])
    publish(scores, dict(reversed(SCORES.items())), [(77, 1, at(9), at(9))])
    assert len(scores.files()) == 1
    assert scores.read()["score"].to_pylist() == [*range(FANOUT - 1), 77]


def test_an_unreadable_file_is_named_by_the_merge(scores, publish):
    for hour in range(FANOUT - 1):
        publish(scores, SCORES, [(1, hour, at(hour), at(hour))])
    damaged = scores.root / scores.files()[3].path
    damaged.write_bytes(b"cut")
    with pytest.raises(BrokenTable, match=f"{damaged.name} is in the manifest and cannot be read"):
        publish(scores, SCORES, [(1, 9, at(9), at(9))])
    damaged.unlink()
    assert scores.manifest.head(scores.version) == FANOUT - 1
