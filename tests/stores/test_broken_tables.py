"""Unreadable data is an error that names view, file and column, and never a wrong row."""

import random
import resource
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Float64, Int64, String, UnixTimestamp

from punctual.errors import BrokenTable, DataFolderError, InvalidRequest, NotBuilt
from stores.tables import MANIFEST_FILE
from tests.stores.by_hand import at, utc

TIMES = ("event_timestamp", "created_timestamp")


@pytest.fixture
def published(views):
    """The single file of our view `driver_trips`."""
    table = views.add(rows=[(7, 3, utc(11), utc(12))])
    return views.tables / table.files()[0].path


def rows_of_others(**columns):
    """A file of another program: two rows, known from 12:00 on."""
    times = dict.fromkeys(TIMES, pa.array([utc(12)] * 2, pa.timestamp("us")))
    return pa.table({"driver": [7, 8], "trips": [3, 4], **times, **columns})


def ways_of_reading(views, tmp_path, rows):
    """Reads in memory, as a stream and into a file, for both kinds of frames."""
    entities = tmp_path / "entities.parquet"
    pq.write_table(rows, entities)
    for frame in (rows, entities):
        yield lambda frame=frame: views.job(frame, "driver_trips:trips").to_arrow()
        yield lambda frame=frame: views.job(frame, "driver_trips:trips").to_reader().read_all()
        yield lambda frame=frame: views.job(frame, "driver_trips:trips").to_parquet(
            tmp_path / "out.parquet"
        )


def refused_in_all_ways(views, tmp_path, error, match, rows=None):
    for is_held in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            # Forces either way: the history is loaded whole, or read selectively.
            patch.setattr(
                "stores.offline.join.worth_loading",
                lambda history, _, is_held=is_held: is_held and bool(history.file_statistics),
            )
            for read in ways_of_reading(views, tmp_path, at(utc(13)) if rows is None else rows):
                with pytest.raises(error, match=match):
                    read()
                assert not (tmp_path / "out.parquet").exists()
                assert not list(tmp_path.glob(".*aside"))


def test_a_truncated_file_is_named(views, published, tmp_path):
    published.write_bytes(published.read_bytes()[:100])
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        f"view 'driver_trips': .*{published.name} has 100 bytes, but [0-9,]+ were published",
    )


def test_garbage_of_the_same_size_is_named(views, published, tmp_path):
    published.write_bytes(random.Random(7).randbytes(published.stat().st_size))
    refused_in_all_ways(
        views, tmp_path, BrokenTable, f"view 'driver_trips': .*{published.name} cannot be read"
    )


def spoil(file, column):
    """Overwrites a column's values with garbage."""
    group = pq.read_metadata(file).row_group(0)
    chunk = next(
        chunk
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema == column
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    whole = bytearray(file.read_bytes())
    whole[start : start + chunk.total_compressed_size] = random.Random(7).randbytes(
        chunk.total_compressed_size
    )
    file.write_bytes(whole)


@pytest.mark.parametrize("column", ["driver", "trips", *TIMES])
def test_garbage_inside_a_column_is_not_read_as_values(views, published, tmp_path, column):
    # If all rows are known equally long after their event, the manifest has that delay and the
    # column is not read.
    views.publish("driver_trips", [(7, 4, utc(10), utc(12))])
    spoil(published, column)
    refused_in_all_ways(
        views, tmp_path, BrokenTable, f"view 'driver_trips': .*{published.name} cannot be read"
    )


@pytest.mark.parametrize("is_held", [False, True])
def test_only_requested_columns_are_read(views, monkeypatch, is_held):
    monkeypatch.setattr("stores.offline.join.worth_loading", lambda *_: is_held)
    table = views.add(features={"trips": Int64, "stops": Int64}, rows=[(7, 3, 4, utc(11), utc(12))])
    spoil(views.tables / table.files()[0].path, "stops")
    assert views.shown(at(utc(13))) == [3]
    with pytest.raises(BrokenTable):
        views.shown(at(utc(13)), "driver_trips:stops")


def test_files_of_later_events_or_later_knowledge_are_not_read(views, published):
    later = (
        views.tables / views.publish("driver_trips", [(7, 4, utc(14), utc(15))]).files()[-1].path
    )
    later.unlink()
    assert views.shown(at(utc(13))) == [3]
    assert views.shown(at(utc(16)), as_of=utc(14).replace(tzinfo=UTC)) == [3]
    with pytest.raises(BrokenTable, match="is in the manifest and cannot be read"):
        views.shown(at(utc(16)))


def test_a_missing_file_is_named(views, published, tmp_path):
    published.unlink()
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        f"view 'driver_trips': .*{published.name} is in the manifest and cannot be read",
    )


def test_a_table_without_its_manifest_is_not_read_as_foreign_files(views, published, tmp_path):
    views.publish("driver_trips", [(7, 4, utc(11), utc(13))])
    (views.tables / MANIFEST_FILE).unlink()
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        "view 'driver_trips' has files at .*driver_trips, but their manifest"
        f" .*{MANIFEST_FILE} is missing",
    )


def test_a_manifest_that_is_not_a_database_is_named(views, published, tmp_path):
    for file in views.tables.glob(f"{MANIFEST_FILE}*"):
        file.write_bytes(b"no database" * 1000)
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        f"{MANIFEST_FILE}, which lists the files of all tables, cannot be read",
    )


def test_files_of_a_build_that_was_never_committed_are_not_shown(views, published, tmp_path):
    views.add("driver_fares", features={"fare": Int64})
    folder = views.tables / "driver_fares" / "v1"
    folder.mkdir(parents=True)
    (folder.parent / ".lock").touch()
    pq.write_table(rows_of_others(fare=[1, 2]), folder / "000001-abc.parquet")
    with pytest.raises(NotBuilt, match="view 'driver_fares' has no finished build"):
        views.shown(at(utc(13)), "driver_fares:fare")


def test_a_column_that_a_published_table_lacks_is_named(views, published, tmp_path):
    views.add(features={"trips": Int64, "stops": Int64})
    with pytest.raises(
        BrokenTable,
        match=f"view 'driver_trips' declares stops, which .*{published.name} does not have",
    ):
        views.shown(at(utc(13)), "driver_trips:stops")


@pytest.mark.parametrize("declared", [String, Float64])
def test_a_published_column_of_another_type_than_declared_is_named(
    views, published, tmp_path, declared
):
    views.add(features={"trips": declared})
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        f"view 'driver_trips' declares column 'trips' as (string|double); in .*{published.name} it"
        " is int64",
    )


def test_a_published_key_of_another_type_than_declared_is_named(views, published):
    views.add("driver_trips", {"driver": String})
    with pytest.raises(
        BrokenTable,
        match="view 'driver_trips' declares column 'driver' as string; in .* it is int64",
    ):
        views.shown(at(utc(13), driver="7"))


def test_a_file_that_was_replaced_by_one_of_another_type_is_named(views, published, tmp_path):
    views.publish("driver_trips", [(7, 4, utc(12), utc(13))])
    later = (
        views.tables / views.publish("driver_trips", [(7, 5, utc(12), utc(14))]).files()[-1].path
    )
    size = later.stat().st_size
    pq.write_table(
        pq.read_table(later).set_column(1, "trips", pa.array(["5"])),
        later,
        write_statistics=False,
        store_schema=False,
    )
    whole = later.read_bytes()
    # The same size, so that only the type differs; bytes between pages and footer are not read.
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    assert len(whole) <= size
    later.write_bytes(whole[:-footer] + b"\0" * (size - len(whole)) + whole[-footer:])
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        f"view 'driver_trips' declares column 'trips' as int64; in .*{later.name} it is string",
        at(utc(15)),
    )


def test_foreign_files_keep_their_own_types(views):
    views.add()
    views.write("driver_trips", rows_of_others(trips=["three", "four"]))
    assert views.shown(at(utc(13))) == ["three"]


def test_foreign_files_with_different_types_are_refused(views, tmp_path):
    views.add()
    views.write("driver_trips", rows_of_others(), "a.parquet")
    views.write("driver_trips", rows_of_others(driver=[9, 7], trips=["three", "four"]), "b.parquet")
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        "view 'driver_trips' declares column 'trips' as int64; in .*b.parquet it is string",
    )


def test_foreign_files_with_different_key_types_are_refused(views, tmp_path):
    views.add()
    views.write("driver_trips", rows_of_others(), "a.parquet")
    views.write("driver_trips", rows_of_others(driver=["7", "8"]), "b.parquet")
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        "view 'driver_trips' declares column 'driver' as int64; in .*b.parquet it is string",
    )


def test_a_foreign_file_without_a_column_is_named(views, tmp_path):
    views.add()
    views.write("driver_trips", rows_of_others(), "a.parquet")
    views.write("driver_trips", rows_of_others().drop_columns(["trips"]), "b.parquet")
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        "view 'driver_trips' declares trips, which .*b.parquet does not have",
    )


def test_a_time_that_is_text_is_named(views, tmp_path):
    views.add()
    views.write("driver_trips", rows_of_others(created_timestamp=["2013-06-01", "2013-06-02"]))
    refused_in_all_ways(
        views,
        tmp_path,
        BrokenTable,
        "file .*rows.parquet: column 'created_timestamp' is string; expected a timestamp",
    )


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("column", TIMES)
def test_a_fraction_of_a_microsecond_is_refused_since_it_would_be_shown_too_early(
    views, tmp_path, column, zone
):
    views.add()
    finer = pa.array(
        [1_370_088_000_000_000_000, 1_370_088_000_000_000_500], pa.timestamp("ns", zone)
    )
    views.write("driver_trips", rows_of_others(**{column: finer}))
    match = (
        f"view 'driver_trips', file .*rows.parquet: column '{column}' has 2013-06-01"
        " 12:00:00.000000500.*, which is not a whole microsecond"
    )
    refused_in_all_ways(views, tmp_path, BrokenTable, match)


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_key_with_a_fraction_of_a_microsecond_is_refused(views, zone):
    views.add(keys={"driver": UnixTimestamp})
    finer = pa.array(
        [1_370_088_000_000_000_000, 1_370_088_000_000_000_500], pa.timestamp("ns", zone)
    )
    views.write("driver_trips", rows_of_others(driver=finer))
    with pytest.raises(BrokenTable, match="column 'driver' has 2013-06-01 12:00:00.000000500"):
        views.shown(at(utc(13), driver=utc(12)))


def test_keys_that_differ_only_in_case_are_refused(views, tmp_path):
    views.add()
    views.write(
        "driver_trips", rows_of_others(Driver=[8, 7]).select(["Driver", "driver", "trips", *TIMES])
    )
    refused_in_all_ways(
        views, tmp_path, BrokenTable, "rows.parquet: columns Driver, driver differ only in case"
    )


def test_a_foreign_folder_without_files_gives_nulls(views):
    views.add()
    (views.tables / "driver_trips").mkdir(parents=True)
    assert views.shown(at(utc(13))) == [None]


@pytest.mark.parametrize("driver", ["7", b"7", 7.5, True, datetime(2013, 6, 1)])
def test_a_key_of_another_type_than_the_views_is_refused(views, published, tmp_path, driver):
    frame = at(utc(13), driver=driver)
    with pytest.raises(
        InvalidRequest,
        match="view 'driver_trips' is keyed by 'driver', which is int64;"
        " the entity rows have it as",
    ):
        views.shown(frame)
    with pytest.raises(InvalidRequest, match="view 'driver_trips' is keyed by 'driver'"):
        views.job(frame, "driver_trips:trips").to_parquet(tmp_path / "out.parquet")


def test_whole_floats_that_pandas_made_of_integer_keys_are_keys(views, published):
    frame = pd.DataFrame(
        {"driver": [7, None], "event_timestamp": pd.to_datetime([utc(13)] * 2, utc=True)}
    )
    assert frame["driver"].dtype == float
    assert views.shown(frame) == [3, None]


def test_a_float_that_may_be_two_integers_is_not_a_key(views, published):
    with pytest.raises(InvalidRequest, match="the entity rows have it as double"):
        views.shown(at(utc(13), driver=2.0**53 + 2))


def many(views):
    """A view of 100,000 drivers, whose join does not fit into a few megabytes."""
    count = 100_000
    views.add(features={"name": String})
    times = dict.fromkeys(TIMES, pa.array([utc(12)] * count, pa.timestamp("us")))
    names = pa.array([f"{number:0200}" for number in range(count)])
    views.write("driver_trips", pa.table({"driver": range(count), "name": names, **times}))
    return pa.table(
        {
            "driver": range(count),
            "event_timestamp": pa.array([utc(13)] * count, pa.timestamp("us", "UTC")),
        }
    )


def test_too_little_memory_names_the_setting(views, tmp_path):
    frame = many(views)
    small = views.opened(memory_limit="2MB", threads=1, spill_folder=str(tmp_path / "spilled"))
    with pytest.raises(
        DataFolderError, match="ran out of memory or disk space: .*memory_limit of offline_store"
    ):
        views.job(frame, "driver_trips:name", store=small).to_parquet(tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_spill_folder_that_is_full_names_the_setting(views, tmp_path):
    frame = many(views)
    small = views.opened(memory_limit="12MB", threads=1, spill_folder=str(tmp_path / "spilled"))
    # A limit on the size of files simulates a full disk; a small disk needs root.
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, usual[1]))
    try:
        with pytest.raises(
            DataFolderError, match="ran out of memory or disk space: .*spill_folder"
        ):
            views.job(frame, "driver_trips:name", store=small).to_parquet(tmp_path / "out.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not (tmp_path / "out.parquet").exists()


def test_a_spill_folder_that_cannot_be_written_is_named(views, published, tmp_path):
    (tmp_path / "a_file").touch()
    store = views.opened(spill_folder=str(tmp_path / "a_file"))
    with pytest.raises(
        DataFolderError,
        match="cannot write spill_folder .*a_file: .* Set another folder in feature_store.yaml",
    ):
        views.shown(at(utc(13)), store=store)
