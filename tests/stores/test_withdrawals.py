"""A withdrawal is a row: from its effective time its keys show nothing until a newer row."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast.types import Int64

from punctual.errors import BrokenTable, InvalidRequest
from stores.offline.store import AsofOfflineStore
from tests.stores import by_hand
from tests.stores.by_hand import utc

MARK = {"is_withdrawn": pa.bool_()}


def at(*hours, driver=7):
    return by_hand.at(*map(utc, hours), driver=driver)


@pytest.fixture
def withdrawn(views):
    """Three trips of 9:00 known at 10:00, withdrawn at 12:00, corrected to four at 14:00."""
    views.add(rows=[(7, 3, False, utc(9), utc(10))], columns=MARK)
    views.publish("driver_trips", [(7, 99, True, utc(9), utc(12)), (8, 5, None, utc(9), utc(12))])
    views.publish("driver_trips", [(7, 4, False, utc(9), utc(14))])
    return views


@pytest.mark.parametrize("nearby", [False, True])
def test_a_withdrawn_row_is_shown_before_and_a_corrected_one_after(withdrawn, monkeypatch, nearby):
    monkeypatch.setattr("stores.offline.asof.worth_narrowing", lambda *_: nearby)
    frame = at(9, 10, 11, 12, 13, 14)
    assert withdrawn.shown(frame) == [None, 3, 3, None, None, 4]
    stream = withdrawn.job(frame, "driver_trips:trips").to_reader(rows=2).read_all()
    assert stream["driver_trips__trips"].to_pylist() == [None, 3, 3, None, None, 4]
    assert withdrawn.shown(at(13, driver=8)) == [5]


def test_a_withdrawal_hides_all_older_rows_of_its_keys(views):
    views.add(
        rows=[
            (7, 3, False, utc(8), utc(8)),
            (7, 4, False, utc(9), utc(9)),
            (7, None, True, utc(9), utc(10)),
        ],
        columns=MARK,
    )
    assert views.shown(at(8, 9, 10, 23)) == [3, 4, None, None]


def test_a_late_withdrawal_of_an_older_event_changes_nothing(views):
    views.add(
        rows=[
            (7, 3, False, utc(8), utc(8)),
            (7, 4, False, utc(9), utc(9)),
            (7, None, True, utc(8), utc(10)),
        ],
        columns=MARK,
    )
    assert views.shown(at(8, 9, 10)) == [3, 4, 4]


def test_as_of_takes_back_a_withdrawal_that_came_later(withdrawn):
    assert withdrawn.shown(at(23), as_of=datetime(2013, 6, 1, 11, tzinfo=UTC)) == [3]
    assert withdrawn.shown(at(23), as_of=datetime(2013, 6, 1, 13, tzinfo=UTC)) == [None]
    assert withdrawn.shown(at(23), as_of=datetime(2013, 6, 1, 14, tzinfo=UTC)) == [4]


def test_a_commit_before_the_withdrawal_shows_the_row(withdrawn):
    assert [
        withdrawn.shown(at(23), commits={"driver_trips": (1, commit)}) for commit in (1, 2, 3)
    ] == [[3], [None], [4]]


def test_compaction_keeps_withdrawals(withdrawn):
    for driver in range(100, 104):
        withdrawn.publish("driver_trips", [(driver, 1, False, utc(19), utc(19))])
    table = withdrawn.publish("driver_trips", [(7, None, True, utc(20), utc(20))])
    assert [file.rows for file in table.files()] == [9]
    assert withdrawn.shown(at(9, 11, 13, 15, 21)) == [None, 3, None, 4, None]


def test_a_withdrawal_counts_in_event_time_too(withdrawn):
    by_event = withdrawn.opened(point_in_time="event_time")
    withdrawn.publish("driver_trips", [(7, None, True, utc(16), utc(20))])
    assert withdrawn.shown(at(10, 17), store=by_event) == [4, None]


def test_a_table_without_the_column_gets_it_in_a_new_version_only(views):
    views.add(rows=[(7, 3, utc(9), utc(10))])
    views._types["driver_trips"] |= MARK
    with pytest.raises(
        BrokenTable, match=r"other columns .*\(added: is_withdrawn BOOLEAN; missing: none\)"
    ):
        views.publish("driver_trips", [(7, None, True, utc(9), utc(12))])


def test_a_withdrawal_column_that_is_not_boolean_is_refused(views):
    with pytest.raises(
        BrokenTable,
        match="received is_withdrawn, which marks withdrawals, as BIGINT; expected BOOLEAN",
    ):
        views.add(rows=[(7, 3, 0, utc(9), utc(10))], columns={"is_withdrawn": pa.int64()})


def test_pushed_rows_may_withdraw_and_may_omit_the_column(withdrawn):
    view = withdrawn.store.get_feature_view("driver_trips")
    times = {
        name: pa.array([utc(15)], pa.timestamp("us"))
        for name in ("event_timestamp", "created_timestamp")
    }
    rows = pa.table({"driver": [8], "trips": [6], **times})
    AsofOfflineStore.offline_write_batch(withdrawn.store.config, view, rows, None)
    assert withdrawn.shown(at(14, 15, driver=8)) == [5, 6]
    later = rows.set_column(
        3, "created_timestamp", pa.array([utc(16)], pa.timestamp("us"))
    ).append_column("is_withdrawn", [[True]])
    AsofOfflineStore.offline_write_batch(withdrawn.store.config, view, later, None)
    assert withdrawn.shown(at(15, 16, driver=8)) == [6, None]


def test_a_withdrawal_pushed_into_a_table_without_the_column_is_refused(views):
    views.add(rows=[(7, 3, utc(9), utc(10))])
    times = {
        name: pa.array([utc(15)], pa.timestamp("us"))
        for name in ("event_timestamp", "created_timestamp")
    }
    rows = pa.table(
        {"driver": [7], "trips": pa.array([None], pa.int64()), **times, "is_withdrawn": [True]}
    )
    with pytest.raises(InvalidRequest, match="table 'driver_trips' has no column is_withdrawn"):
        AsofOfflineStore.offline_write_batch(
            views.store.config, views.store.get_feature_view("driver_trips"), rows, None
        )


def test_feasts_pull_of_the_newest_row_gives_none_after_a_withdrawal(withdrawn):
    withdrawn.publish("driver_trips", [(7, None, True, utc(16), utc(16))])
    source = withdrawn.store.get_feature_view("driver_trips").batch_source
    ends = [datetime(2013, 6, 1, tzinfo=UTC), datetime(2013, 6, 2, tzinfo=UTC)]
    asked = (
        withdrawn.store.config,
        source,
        ["driver"],
        ["trips"],
        "event_timestamp",
        "created_timestamp",
        *ends,
    )
    assert AsofOfflineStore.pull_latest_from_table_or_query(*asked).to_arrow()[
        "driver"
    ].to_pylist() == [8]


def test_a_withdrawal_has_the_same_effect_online_and_offline(withdrawn):
    table = withdrawn.publish("driver_trips", [(7, 99, True, utc(16), utc(16))])
    table.manifest.commit(table.version, [], datetime(2013, 6, 1, 20, tzinfo=UTC))
    withdrawn.store.materialize_incremental(datetime(2013, 6, 1, 20, tzinfo=UTC))
    online = withdrawn.store.get_online_features(
        ["driver_trips:trips"], [{"driver": 7}, {"driver": 8}]
    ).to_dict()["trips"]
    assert online == withdrawn.shown(at(20)) + withdrawn.shown(at(20, driver=8)) == [None, 5]


def test_withdrawals_make_no_entity_rows(withdrawn):
    withdrawn.publish("driver_trips", [(7, None, True, utc(16), utc(16))])
    start = datetime(2013, 6, 1, tzinfo=UTC)
    by_event = withdrawn.opened(point_in_time="event_time")
    job = by_event.get_historical_features(
        features=["driver_trips:trips"], start_date=start, end_date=start + timedelta(days=1)
    )
    assert sorted(
        zip(*job.to_arrow().select(["driver", "event_timestamp"]).to_pydict().values(), strict=True)
    ) == [
        (7, start + timedelta(hours=9)),
        (8, start + timedelta(hours=9)),
    ]


def test_a_view_with_a_ttl_shows_neither_withdrawn_nor_hidden_rows(views):
    rows = [(7, 3, False, utc(8), utc(8)), (7, None, True, utc(9), utc(9))]
    views.add(features={"trips": Int64}, rows=rows, columns=MARK, ttl=timedelta(hours=2))
    assert views.shown(at(8, 9, 10)) == [3, None, None]
