"""Events are read in the newest version that was known at a time."""

from datetime import UTC, datetime, timedelta

import pytest

from punctual.errors import NotBuilt
from stores.tables import built_until, connect, event_table, known_events

NOW = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def moved(domain, use_case):
    """The newest booking, moved back two days by a correction known an hour later.

    Returns its number and its first timestamp.
    """
    last = known_events(domain, use_case.requests, as_of=NOW).to_pylist()[-1]
    columns = "parcel, courier, depot, route, weight_grams, promised"
    table = event_table(domain, use_case.requests)
    with connect() as connection:
        moved = (
            "event_timestamp - INTERVAL 2 DAY AS event_timestamp, TIMESTAMP '2024-02-20"
            " 12:30:00' AS created_timestamp"
        )
        table.publish(
            connection,
            f"SELECT {columns}, {moved}, false AS is_withdrawn FROM ({table.scan()})"
            f" WHERE parcel = {last['parcel']}",
            LATER,
        )
    return last["parcel"], last["event_timestamp"]


@pytest.fixture
def withdrawn(domain, use_case):
    """The newest booking, withdrawn after one hour and back after two; its number and timestamp."""
    last = known_events(domain, use_case.requests, as_of=NOW).to_pylist()[-1]
    table = event_table(domain, use_case.requests)
    with connect() as connection:
        for hours, is_withdrawn in ((1, "true"), (2, "false")):
            known = f"TIMESTAMP '2024-02-20 12:00:00' + INTERVAL {hours} HOUR"
            table.publish(
                connection,
                f"SELECT * REPLACE ({known} AS created_timestamp, {is_withdrawn} AS is_withdrawn)"
                f" FROM ({table.scan(table.files(1))}) WHERE parcel = {last['parcel']}",
                NOW + timedelta(hours=hours),
            )
    return last["parcel"], last["event_timestamp"]


def parcels(domain, use_case, **bounds):
    return known_events(domain, use_case.requests, **bounds)["parcel"].to_pylist()


def test_a_correction_is_seen_from_the_time_it_was_known(domain, use_case, moved):
    parcel, at = moved
    period = {"since": at - timedelta(minutes=1), "until": at}

    assert parcels(domain, use_case, as_of=NOW, **period) == [parcel]
    assert parcels(domain, use_case, as_of=LATER, **period) == []


def test_an_event_is_in_the_period_of_its_newest_version(domain, use_case, moved):
    parcel, at = moved
    period = {"since": at - timedelta(days=2, minutes=1), "until": at - timedelta(days=2)}

    assert parcel not in parcels(domain, use_case, as_of=NOW, **period)
    assert parcel in parcels(domain, use_case, as_of=LATER, **period)


def test_a_withdrawn_event_is_not_shown_from_its_withdrawal_until_its_return(
    domain, use_case, withdrawn
):
    parcel, at = withdrawn
    period = {"since": at - timedelta(minutes=1), "until": at}
    before = LATER - timedelta(microseconds=1)

    assert parcels(domain, use_case, as_of=before, **period) == [parcel]
    assert parcels(domain, use_case, as_of=LATER, **period) == []
    assert parcels(domain, use_case, as_of=LATER + timedelta(hours=1), **period) == [parcel]
    everything = known_events(domain, use_case.requests, as_of=LATER)
    assert parcel not in everything["parcel"].to_pylist()
    assert everything.column_names[-2:] == ["event_timestamp", "created_timestamp"]


def test_a_period_reads_the_same_events_as_the_whole_history(domain, use_case):
    since, until = NOW - timedelta(days=3, hours=5), NOW - timedelta(days=2)

    whole = known_events(domain, use_case.requests, as_of=NOW).to_pylist()

    assert known_events(
        domain, use_case.requests, as_of=NOW, since=since, until=until
    ).to_pylist() == [row for row in whole if since < row["event_timestamp"] <= until]


def test_what_became_known_later_is_not_known(domain, use_case):
    labels = known_events(domain, use_case.label.of, as_of=NOW - timedelta(days=2))

    assert max(labels["created_timestamp"].to_pylist()) <= NOW - timedelta(days=2)
    assert (
        known_events(domain, use_case.requests, as_of=datetime(2023, 1, 1, tzinfo=UTC)).num_rows
        == 0
    )


def test_events_that_were_never_built_are_named(home, domain, use_case):
    (home / "tables" / "manifest.db").unlink()

    with pytest.raises(
        NotBuilt,
        match="the events 'bookings' are not built as they are defined now; run: punctual features"
        " build parcels",
    ):
        built_until(domain, use_case.requests)
