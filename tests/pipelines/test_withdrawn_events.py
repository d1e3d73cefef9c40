"""Rows that disappear from a source: their events are withdrawn or kept."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.build import view_table
from pipelines.materialize import apply_definitions, materialize, online_database
from pipelines.windows.feature_rows import feature_rows
from punctual.errors import InvalidDeclaration
from punctual.home import Home
from punctual.repository import feature_store, load_domain
from punctual.times import micros
from stores.offline import historical_features
from stores.online import OnlineView
from stores.tables import canonical_hash, connect, event_table, known_events
from tests.pipelines.taxis import QUIET, a_trip, at, utc

FIRST, SECOND = a_trip(1, at(1, 10), cents=1000), a_trip(2, at(1, 11), cents=500)


def counts(ingested):
    return (ingested.new, ingested.late, ingested.corrected, ingested.withdrawn, ingested.kept)


def fares_known(taxis, as_of):
    """Trip and cents of each fare known at a time."""
    domain = taxis.domain
    rows = known_events(domain, domain.declarations[0].events, as_of=as_of)
    return dict(zip(rows["trip"].to_pylist(), rows["cents"].to_pylist(), strict=True))


@pytest.fixture
def keeping(taxis):
    """The taxis with `vanished="keep"`."""
    return taxis.redefined('key=("trip",),', 'key=("trip",), vanished="keep",')


def test_an_event_whose_row_disappears_is_withdrawn_at_the_next_build(taxis):
    taxis.write([FIRST, SECOND])
    taxis.build(at(1, 12))
    taxis.write([FIRST])
    fares, calls, tips = taxis.build(at(1, 13)).events
    # The tip of the second trip is known at 12:30 and was never ingested.
    assert [counts(each) for each in (fares, calls, tips)] == [(0, 0, 0, 1, 0)] * 2 + [(0,) * 5]
    assert taxis.events("fares", "trip", "cents", "created_timestamp", "is_withdrawn") == [
        (1, 1000, utc(1, 10, 30), False),
        (2, 500, utc(1, 11, 30), False),
        (2, 500, utc(1, 13), True),
    ]
    assert fares_known(taxis, at(1, 13)) == {1: 1000}
    assert fares_known(taxis, at(1, 13) - timedelta(microseconds=1)) == {1: 1000, 2: 500}
    assert [counts(each) for each in taxis.build(at(1, 14)).events] == [(0,) * 5] * 3


def test_an_event_that_returns_is_a_newer_version(taxis):
    for hour, trips in ((12, [FIRST, SECOND]), (13, [FIRST]), (14, [FIRST, SECOND]), (15, [FIRST])):
        taxis.write(trips)
        fares = taxis.build(at(1, hour)).events[0]
        expected = {12: (2, 0, 0, 0, 0), 13: (0, 0, 0, 1, 0), 14: (0, 0, 1, 0, 0)}
        assert counts(fares) == expected.get(hour, expected[13])
    assert [fares_known(taxis, at(1, hour)) for hour in (12, 13, 14, 15)] == [
        {1: 1000, 2: 500},
        {1: 1000},
        {1: 1000, 2: 500},
        {1: 1000},
    ]


def test_with_vanished_keep_events_stay_and_are_counted_in_each_build(keeping):
    keeping.write([FIRST, SECOND])
    keeping.build(at(1, 12))
    keeping.write([FIRST])
    for hour in (13, 14):
        assert counts(keeping.build(at(1, hour)).events[0]) == (0, 0, 0, 0, 1)
    assert fares_known(keeping, at(1, 14)) == {1: 1000, 2: 500}
    keeping.write([FIRST, SECOND])
    assert counts(keeping.build(at(1, 15)).events[0]) == (0,) * 5


def test_a_source_that_stops_keeping_withdraws_in_the_same_table(keeping):
    keeping.write([FIRST, SECOND])
    keeping.build(at(1, 12))
    keeping.write([FIRST])
    keeping.build(at(1, 13))
    withdrawing = keeping.redefined(' vanished="keep",', "")
    assert counts(withdrawing.build(at(1, 14)).events[0]) == (0, 0, 0, 1, 0)
    assert fares_known(withdrawing, at(1, 13)) == {1: 1000, 2: 500}
    assert fares_known(withdrawing, at(1, 14)) == {1: 1000}
    assert event_table(withdrawing.domain, withdrawing.domain.events[0]).version.version == 1


def test_an_event_whose_row_is_now_quarantined_is_withdrawn(taxis):
    third = a_trip(3, at(1, 11), cents=700)
    taxis.write([FIRST, SECOND, third])
    taxis.build(at(1, 12))
    taxis.write([FIRST, SECOND, (*third[:4], "much", *third[5:])])
    built = taxis.build(at(1, 13))
    assert (built.sources[0].quarantined, built.events[0].withdrawn) == (1, 1)


def test_a_correction_of_an_events_time_withdraws_the_earlier_one_and_counts_once(taxis):
    taxis.write([FIRST, SECOND])
    taxis.build(at(1, 12))
    taxis.write([FIRST, a_trip(2, at(1, 10, 45), cents=500)])
    assert counts(taxis.build(at(1, 13)).events[0]) == (0, 0, 1, 0, 0)
    assert taxis.events(
        "fares", "trip", "event_timestamp", "created_timestamp", "is_withdrawn"
    ) == [
        (1, utc(1, 10, 30), utc(1, 10, 30), False),
        (2, utc(1, 11, 15), utc(1, 13), False),
        (2, utc(1, 11, 30), utc(1, 11, 30), False),
        (2, utc(1, 11, 30), utc(1, 13), True),
    ]
    assert fares_known(taxis, at(1, 13)) == {1: 1000, 2: 500}


def test_a_correction_known_later_replaces_the_event_at_its_own_time(taxis):
    taxis.write([FIRST, SECOND])
    taxis.build(at(1, 12))
    taxis.write([FIRST, a_trip(2, at(1, 11), minutes=150, cents=600)])
    assert counts(taxis.build(at(1, 13)).events[0]) == (0,) * 5
    assert fares_known(taxis, at(1, 13)) == {1: 1000, 2: 500}
    # The file did not change since the last build.
    assert counts(taxis.build(at(1, 14)).events[0]) == (0, 0, 1, 0, 0)
    assert fares_known(taxis, at(1, 13, 29)) == {1: 1000, 2: 500}
    assert fares_known(taxis, at(1, 13, 30)) == {1: 1000, 2: 600}
    assert counts(taxis.build(at(1, 15)).events[0]) == (0,) * 5


def test_a_withdrawal_reaches_features_from_its_grid_time_on_in_both_stores(taxis):
    store = feature_store(taxis.domain.home)
    apply_definitions(store, [taxis.domain])
    names = ["driver_fares:cents_sum_3h", "driver_fares:fares_count_3h", "driver_last_fare:cents"]
    trips, shown = [FIRST, SECOND], []
    moments = (at(1, 12, 30), at(1, 13, 4), at(1, 13, 5), at(1, 14, 5), at(1, 15, 5))
    database = online_database(store)
    for moment in moments:
        if moment == at(1, 13, 4):
            trips = [FIRST]
        if moment == at(1, 14, 5):
            trips = [a_trip(9, at(1, 13), driver=2)]
        taxis.write(trips)
        taxis.build(moment)
        materialize(store, taxis.domain, moment, QUIET)
        shown.append(
            tuple(
                database.read(view, [view.key(1)], micros(moment))[0].values[number]
                for view in (
                    OnlineView.of(store.project, each) for each in taxis.domain.views.values()
                )
                for number, name in enumerate(view.features)
                if f"{view.name}:{name}" in names
            )
        )
    database.close()
    frame = pa.table(
        {"driver": [1] * 5, "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"))}
    )
    result = historical_features(store, frame, names)
    joined = zip(*(result[name.replace(":", "__")].to_pylist() for name in names), strict=True)
    # A withdrawal found at 13:04 is known at the grid time 14:00, one found at 14:05 at 15:00.
    assert (
        shown
        == list(joined)
        == [
            (1500, 2, 500),
            (1500, 2, 500),
            (1500, 2, 500),
            (None, 0, 1000),
            (None, 0, None),
        ]
    )


@pytest.fixture
def patient(taxis):
    """The taxis with a longer label horizon."""
    return taxis.redefined("timedelta(hours=6)", "timedelta(hours=30)", "use_case.py")


trips = st.builds(
    a_trip,
    st.integers(1, 4),
    st.integers(0, 17).map(lambda number: at(1, 1) + timedelta(minutes=20 * number)),
    minutes=st.sampled_from([10, 40, 130]),
    driver=st.integers(1, 2),
    cents=st.integers(300, 303),
)
files = st.lists(trips, max_size=4, unique_by=lambda trip: trip[0])
histories = st.dictionaries(st.integers(2, 24), files, min_size=2, max_size=5)


@settings(max_examples=max(4, settings.get_profile("punctual").max_examples // 6))
@given(histories)
def test_changing_files_and_a_backfill_give_the_same_rows(patient, elsewhere, history):
    """`history` maps the half hours of the day with a build to what the file holds then."""

    def check():
        expected, known = {}, {}
        for half_hours, rows in sorted(history.items()):
            moment = at(1) + timedelta(minutes=30 * half_hours)
            # A file without any rows is refused.
            patient.write([a_trip(0, at(1), driver=3), *rows])
            patient.build(moment)
            in_file = {trip[0]: trip for trip in (a_trip(0, at(1), driver=3), *rows)}
            known = {
                number: trip if trip[3] <= moment.replace(tzinfo=None) else known[number]
                for number, trip in in_file.items()
                if trip[3] <= moment.replace(tzinfo=None) or number in known
            }
            expected[moment] = {number: trip[4] for number, trip in known.items()}
        assert {moment: fares_known(patient, moment) for moment in expected} == expected
        domain = patient.domain
        for declared in domain.declarations:
            events, built = event_table(domain, declared.events), view_table(domain.home, declared)
            with connect() as connection:
                select = feature_rows(connection, declared, events, None, max(expected))
                at_once = connection.sql(select).to_arrow_table()
            assert at_once.num_rows == built.rows()
            if at_once.num_rows:
                assert canonical_hash(at_once) == canonical_hash(built.read())

    elsewhere(check)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'key=("trip",),',
            'key=("trip",), vanished="delete",',
            "source 'trips': vanished='delete'; expected 'withdraw' or 'keep'",
        ),
        (
            '"tip": "BOOLEAN"},',
            '"tip": "BOOLEAN", "is_withdrawn": "BOOLEAN"},',
            "events 'tips': column 'is_withdrawn' is reserved by the platform",
        ),
    ],
)
def test_invalid_declarations_of_withdrawals_are_refused(taxis, old, new, problem):
    other = taxis.redefined(old, new)
    with pytest.raises(InvalidDeclaration, match=problem):
        load_domain(Home.at(repository=other.repository), "taxis")
