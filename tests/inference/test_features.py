"""Online features equal the point-in-time join at the same time."""

import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from inference.features import OnlineFeatures, PastNotKept
from punctual.errors import BrokenTable, InvalidRequest, NaiveTimestamp, NotBuilt
from punctual.home import Home
from punctual.repository import feature_store
from punctual.times import micros
from stores.offline import historical_features
from stores.tables import known_events

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def online(domain, use_case):
    return OnlineFeatures(domain, use_case)


def one(**changes):
    return {
        "courier": "A",
        "depot": "D1",
        "route": 2,
        "weight_grams": 2_500,
        "promised": datetime(2024, 2, 21, 8, 0, tzinfo=UTC),
        **changes,
    }


def column_differences(left, right):
    return [
        name
        for name in left.column_names
        if not left[name].combine_chunks().equals(right[name].combine_chunks())
    ]


@pytest.mark.parametrize(
    "at",
    [
        NOW,
        datetime(2024, 2, 20, 12, 4, 59, 999_999, tzinfo=UTC),
        datetime(2024, 2, 20, 12, 5, tzinfo=UTC),
        datetime(2024, 2, 20, 12, 59, 59, 7, tzinfo=UTC),
    ],
)
def test_online_features_equal_the_point_in_time_join_bit_for_bit(domain, use_case, online, at):
    random = np.random.default_rng(3)
    requests = known_events(domain, use_case.requests, as_of=NOW).drop_columns(
        ["event_timestamp", "created_timestamp"]
    )
    requests = requests.take(pa.array(random.integers(0, requests.num_rows, 500)))
    # Some couriers are unknown, and some depots are null.
    courier = [
        f"{each}?" if number % 11 == 0 else each
        for number, each in enumerate(requests["courier"].to_pylist())
    ]
    requests = requests.set_column(
        requests.column_names.index("courier"), "courier", pa.array(courier)
    )
    moments = pa.array([at] * requests.num_rows, pa.timestamp("us", "UTC"))
    store = feature_store(Home.at())
    offline = historical_features(
        store,
        requests.append_column("event_timestamp", moments).append_column("at", moments),
        store.get_feature_service("parcels_v1"),
    )

    shown = online.read(requests, at)

    assert shown.num_rows == 500
    assert [(field.name, field.type) for field in shown.schema] == [
        (name, offline.schema.field(name).type) for name in online.names
    ]
    assert column_differences(shown, offline) == []
    assert any(column.null_count for column in shown.columns)


def test_a_row_may_have_its_own_timestamp(online):
    early, late = NOW, datetime(2024, 2, 20, 12, 30, tzinfo=UTC)

    together = online.read([one(), one(), one()], [early, late, early])

    assert together.slice(0, 1).equals(online.read([one()], early))
    assert together.slice(1, 1).equals(online.read([one()], late))
    assert together["parcel_request_features__hours_to_promise"].to_pylist() == [20.0, 19.5, 20.0]


def test_a_row_published_ahead_is_shown_from_its_effective_time(online):
    shown_from = NOW + timedelta(minutes=5)
    couriers = [one(courier=courier) for courier in "ABCDEF"]

    before, after = (
        online.look_up(couriers, micros(at)).views["courier_deliveries"]
        for at in (shown_from - timedelta(microseconds=1), shown_from)
    )

    assert max(before.events) == micros(NOW - timedelta(hours=1))
    assert max(after.events) == micros(NOW)


def test_an_omitted_or_null_key_is_not_found_and_gives_nulls(online):
    without = {name: value for name, value in one().items() if name != "depot"}

    for row in (one(depot=None), without):
        shown = online.look_up([row], micros(NOW))
        assert shown.views["depot_deliveries"].statuses[0] == "NOT_FOUND"
        assert shown.columns["depot_deliveries__deliveries_count_24h"] == [None]
        assert shown.columns["courier_deliveries__deliveries_count_24h"] != [None]


def test_values_past_their_ttl_are_outside_max_age(online):
    shown = online.look_up([one()], micros(NOW + timedelta(hours=31)))

    assert shown.views["last_delivery"].statuses[0] == "OUTSIDE_MAX_AGE"
    assert shown.columns["last_delivery__delay_minutes"] == [None]
    assert shown.columns["parcel_request_features__idle_hours"] == [None]


def test_a_past_that_the_online_store_no_longer_holds_is_refused(online):
    with pytest.raises(
        PastNotKept,
        match=r"materialized to 2024-02-20T12:00:00Z .* punctual batch parcel_lateness --as-of"
        r" 2024-02-20T08:00:00Z",
    ):
        online.read([one()], NOW - timedelta(hours=4))


def test_a_past_time_is_answered_if_nothing_has_changed_since(online):
    unknown = one(courier="Z", depot=None)

    shown = online.look_up([unknown], micros(NOW - timedelta(hours=4)))

    assert {status for found in shown.views.values() for status in found.statuses} == {"NOT_FOUND"}


def test_a_frame_with_gaps_in_an_integer_key_is_read_as_integers(online):
    frame = pd.DataFrame([one(depot=None), one(route=3)])
    frame["route"] = frame["route"].astype("float64")

    shown = online.read(frame, NOW)

    assert shown.equals(online.read([one(depot=None), one(route=3)], NOW))
    assert shown["route_deliveries__delay_minutes_mean_7d"].null_count == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"route": "2"}, InvalidRequest, "rows[0].route is '2'; expected a valid integer"),
        ({"route": 2.5}, InvalidRequest, "rows[0].route is 2.5; expected a valid integer"),
        ({"courier": 7}, InvalidRequest, "rows[0].courier is 7; expected a valid string"),
        (
            {"promised": datetime(2024, 2, 21, 8, 0)},
            NaiveTimestamp,
            "column 'promised' has no time zone",
        ),
        (
            {"promised": "2024-02-21"},
            InvalidRequest,
            "rows[0].promised has no time zone",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(online, changes, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        online.read([one(**changes)], NOW)


def test_a_missing_request_column_and_a_naive_moment_are_refused(online):
    with pytest.raises(
        InvalidRequest, match="column 'weight_grams' is missing; the rows have courier"
    ):
        online.read([{name: value for name, value in one().items() if name != "weight_grams"}], NOW)
    with pytest.raises(NaiveTimestamp):
        online.read([one()], NOW.replace(tzinfo=None))
    with pytest.raises(InvalidRequest, match="1 rows came with 2 moments"):
        online.read([one()], [NOW, NOW])


def test_a_row_from_which_a_request_time_feature_cannot_be_computed_is_named(online):
    rows = [one(), one(promised=NOW - timedelta(minutes=30))]

    with pytest.raises(
        InvalidRequest,
        match=r"rows\[1\]: the features of 'parcel_request_features' cannot be computed from it:"
        r" ZeroDivisionError",
    ):
        online.read(rows, NOW)


def test_a_view_that_was_never_materialized_is_named_with_the_remedy(online):
    view = next(view.online for view in online.views if view.name == "depot_deliveries")
    online.database.records.drop(view.schema)

    with pytest.raises(
        NotBuilt,
        match=r"1 of 4 views are not online .*: depot_deliveries; run: punctual"
        r" features",
    ):
        online.check_store()
    with pytest.raises(NotBuilt, match="depot_deliveries"):
        online.read([one()], NOW)


def test_a_running_materialization_makes_no_entity_unknown(online):
    view = next(view.online for view in online.views if view.name == "courier_deliveries")
    records = online.database.records
    records.erase(view, [view.key(courier) for courier in "ABCDEF"])
    # The state during a first run.
    with sqlite3.connect(records.path) as connection:
        connection.execute(
            "UPDATE places SET version = NULL, until = NULL WHERE schema = ?", (view.schema,)
        )

    with pytest.raises(NotBuilt, match="not completely: courier_deliveries"):
        online.read([one()], NOW)
    with pytest.raises(NotBuilt, match="not completely: courier_deliveries"):
        online.check_store()


def test_reading_creates_no_online_store(home, domain, use_case):
    for path in home.glob("online.db*"):
        path.unlink()

    with pytest.raises(NotBuilt, match="4 of 4 views"):
        OnlineFeatures(domain, use_case).check_store()
    assert not (home / "online.db").exists()


def test_a_record_that_cannot_be_read_is_an_error_and_not_a_null(online):
    view = next(view for view in online.views if view.name == "courier_deliveries")
    records = online.database.records
    with sqlite3.connect(records.path) as connection:
        connection.execute(f'UPDATE "{records.generation(view.online)}" SET record = ?', (b"\xc1",))

    with pytest.raises(
        BrokenTable,
        match=r"a record of view 'courier_deliveries' in .* is damaged; run: .*materialize parcels"
        r" --rebuild",
    ):
        online.read([one()], NOW)
