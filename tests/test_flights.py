"""The flights domain: row counts, times, and a description for everything that people read."""

import zipfile
from pathlib import Path

import pytest

from pipelines.clean.cleaning import clean_source, quarantined_rows, register_clean
from punctual.home import Home
from punctual.repository import load_domain
from stores.tables import connect

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """The real files, cleaned once; yields the domain, reports by source and a connection."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PUNCTUAL_HOME", str(tmp_path_factory.mktemp("flights")))
    domain = load_domain(Home.at(), "flights")
    reports = {}
    for source in domain.sources:
        reports[source.name] = clean_source(Home.at(), "flights", source, reports)
    with connect() as connection:
        register_clean(connection, domain.home, "flights", domain.sources)
        yield domain, reports, connection
    patch.undo()


def one(connection, select):
    return connection.execute(select).fetchone()


def test_no_row_is_dropped_silently(flights):
    _, reports, _ = flights
    assert {name: report.rows_in for name, report in reports.items()} == {
        "airlines": 16, "airports": 1462, "flights": 336_776, "planes": 3322, "weather": 26_115,
    }  # fmt: skip
    for report in reports.values():
        assert report.rows_in == report.rows_clean + report.quarantined + report.duplicates, (
            report.source
        )


def test_an_impossible_wind_speed_is_quarantined_with_its_reason(flights):
    _, reports, _ = flights
    assert reports["weather"].rules["wind_possible"] == 1
    assert reports["weather"].quarantined == 1
    (row,) = quarantined_rows(Home.at(), "flights", "weather", 10)
    assert row["rule"] == "wind_possible"
    assert '"wind_speed":"1048.36058"' in row["raw"]
    assert Home.at().path("quarantine", "flights", "weather.parquet").exists()


def test_odd_but_valid_rows_stay(flights):
    _, reports, connection = flights
    assert reports["airports"].supplemented == 4
    assert one(
        connection, "SELECT count(*) FROM flights WHERE dest IN ('SJU', 'BQN', 'PSE', 'STT')"
    ) == (7602,)
    assert one(connection, "SELECT count(*) FROM flights WHERE tailnum IS NULL") == (2512,)
    known = "SELECT tailnum FROM planes"
    assert one(
        connection,
        f"SELECT count(*) FROM flights WHERE tailnum IS NOT NULL AND tailnum NOT IN ({known})",
    ) == (50_094,)


def test_local_times_become_utc_across_both_daylight_saving_changes(flights):
    _, _, connection = flights
    # The distribution's own `time_hour` is the scheduled departure in UTC, cut to the hour.
    assert one(
        connection,
        f"""
        SELECT count(*)
        FROM flights AS f
        JOIN read_csv({str(_raw(flights))!r}, nullstr = 'NA') AS r
            ON r.carrier = f.carrier
            AND r.flight = f.flight
            AND r.origin = f.origin
            AND r.dest = f.dest
            AND timezone(
                'America/New_York',
                make_timestamp(r.year, r.month, r.day, r.hour, r.minute, 0)
            )::TIMESTAMP = f.scheduled_departure
        WHERE date_trunc('hour', f.scheduled_departure) = r.time_hour::TIMESTAMP
        """,
    ) == (336_776,)
    # 7:00 in New York.
    for month, hour in ((7, 11), (12, 12)):
        found = connection.execute(
            f"""
            SELECT DISTINCT hour(f.scheduled_departure)
            FROM flights AS f
            JOIN read_csv({str(_raw(flights))!r}, nullstr = 'NA') AS r
                ON r.carrier = f.carrier
                AND r.flight = f.flight
                AND r.origin = f.origin
                AND r.dest = f.dest
                AND r.time_hour::TIMESTAMP = f.scheduled_departure
            WHERE r.month = {month} AND r.sched_dep_time = 700
            """
        ).fetchall()
        assert found == [(hour,)]


def test_arrivals_are_in_the_destinations_time_zone_and_may_be_on_the_next_day(flights):
    _, _, connection = flights
    # The local arrival time from schedule plus delay, against the file's own; one flight differs.
    assert one(
        connection,
        f"""
        SELECT count(*)
        FROM flights AS f
        JOIN read_csv({str(_raw(flights))!r}, nullstr = 'NA') AS r
            ON r.carrier = f.carrier
            AND r.flight = f.flight
            AND r.origin = f.origin
            AND r.dest = f.dest
            AND timezone(
                'America/New_York',
                make_timestamp(r.year, r.month, r.day, r.hour, r.minute, 0)
            )::TIMESTAMP = f.scheduled_departure
        WHERE f.arrival IS NOT NULL
            AND timezone(f.tzone, timezone('UTC', f.arrival))::TIME
                <> make_time((r.arr_time // 100) % 24, r.arr_time % 100, 0)
        """,
    ) == (1,)
    shortest, longest = one(
        connection, "SELECT min(arrival - departure), max(arrival - departure) FROM flights"
    )
    assert (shortest.total_seconds() / 60, longest.total_seconds() / 3600) == (
        pytest.approx(31, abs=10),
        pytest.approx(12.5, abs=1.5),
    )


def test_the_horizon_covers_the_slowest_label_and_six_hours_would_not(flights):
    domain, _, connection = flights
    labels = domain.use_cases["arrival_delay"].label.of.sql
    slowest, within_six = one(
        connection,
        f"""
        SELECT
            max(created_timestamp - event_timestamp),
            avg((created_timestamp - event_timestamp <= INTERVAL 6 HOUR)::INT)
        FROM ({labels})
        WHERE is_late IS NOT NULL
        """,
    )
    assert slowest.total_seconds() / 3600 == pytest.approx(34.7, abs=0.05)
    assert within_six == pytest.approx(0.745, abs=0.01)
    reasons = dict(
        connection.execute(
            f"SELECT no_label_because, count(*) FROM ({labels}) WHERE is_late IS NULL GROUP BY 1"
        ).fetchall()
    )
    assert reasons == {"cancelled": 8255, "no arrival recorded": 1175}


def test_no_event_is_known_before_its_declared_time(flights):
    domain, _, connection = flights
    for events in domain.events:
        early = one(
            connection,
            f"SELECT count(*) FROM ({events.sql}) WHERE created_timestamp < event_timestamp",
        )
        assert early == (0,), events.name
        assert events.known, events.name


def test_the_catalogue_describes_events_and_when_they_are_known(flights):
    domain, _, _ = flights
    assert {
        name: domain.views["origin_weather"].tags[name] for name in ("events_description", "known")
    } == {
        "events_description": "The weather at an airport on the hour",
        "known": "ten minutes after its hour",
    }


def test_at_least_forty_features_in_six_views_each_described(flights):
    domain, _, _ = flights
    service = domain.services["arrival_delay_v1"]
    assert sum(len(projection.features) for projection in service.feature_view_projections) >= 40
    assert len(domain.views) >= 6
    for view in (*domain.views.values(), *domain.on_demand_views.values()):
        assert view.description
        assert all(feature.description for feature in view.features), view.name


def test_the_definitions_are_the_reviewed_ones(flights):
    domain, _, _ = flights
    lines = []
    for view in (*domain.views.values(), *domain.on_demand_views.values()):
        lines.append(f"{view.name}: {view.description}")
        lines += [
            f"  {feature.name} {feature.dtype}: {feature.description}" for feature in view.features
        ]
    assert "\n".join(lines) + "\n" == (GOLDEN / "flights_definitions.txt").read_text()


def _raw(flights):
    """The path of the raw flights, unpacked, for comparison with the clean ones."""
    domain, _, _ = flights
    source = next(source for source in domain.sources if source.name == "flights")
    folder = Home.at().path("raw")
    if not (folder / "flights.csv").exists():
        with zipfile.ZipFile(source.path(domain.home)) as archive:
            archive.extract("flights.csv", folder)
    return folder / "flights.csv"
