"""The events in the clean rows: what happened, when, and when it became known.

Each stream says when its events became known. The schedule and the tail number count as known two
hours before departure, at prediction time: airlines assign planes the day before and rarely
swap them.
"""

from __future__ import annotations

from punctual import Events

from .sources import flights, planes, weather

_FLIGHT = {
    "flight_id": "VARCHAR",
    "carrier": "VARCHAR",
    "flight_number": "BIGINT",
    "origin": "VARCHAR",
    "dest": "VARCHAR",
    "tailnum": "VARCHAR",
}
_FLIGHT_SQL = "flight_id, carrier, flight AS flight_number, origin, dest, tailnum"

scheduled_flights = Events(
    name="scheduled_flights",
    sources=(flights,),
    id=("flight_id",),
    columns={
        **_FLIGHT,
        "scheduled_departure": "TIMESTAMPTZ",
        "scheduled_arrival": "TIMESTAMPTZ",
        "distance_miles": "BIGINT",
    },
    sql=f"""
        SELECT {_FLIGHT_SQL}, scheduled_departure, scheduled_arrival, distance AS distance_miles,
            scheduled_departure - INTERVAL 2 HOUR AS event_timestamp,
            scheduled_departure - INTERVAL 2 HOUR AS created_timestamp
        FROM flights""",
    description="A flight is two hours before its scheduled departure",
    known="two hours before scheduled departure, with its schedule and tail number",
)

departures_due = Events(
    name="departures_due",
    sources=(flights,),
    id=("flight_id",),
    columns={**_FLIGHT, "is_cancelled": "BOOLEAN"},
    sql=f"""
        SELECT {_FLIGHT_SQL}, is_cancelled,
            scheduled_departure AS event_timestamp, scheduled_departure AS created_timestamp
        FROM flights""",
    description="A flight reaches its scheduled departure, cancelled or not",
    known="at the scheduled departure: a cancellation is known by then",
)

departures = Events(
    name="departures",
    sources=(flights,),
    id=("flight_id",),
    columns={
        **_FLIGHT,
        "dep_delay_minutes": "BIGINT",
        "is_late_departure": "BOOLEAN",
        "departed_at_unix_seconds": "BIGINT",
    },
    sql=f"""
        SELECT {_FLIGHT_SQL}, dep_delay AS dep_delay_minutes, dep_delay >= 15 AS is_late_departure,
            epoch_us(departure) // 1000000 AS departed_at_unix_seconds,
            departure AS event_timestamp, departure AS created_timestamp
        FROM flights WHERE departure IS NOT NULL""",
    description="A flight leaves the gate",
    known="when it happens",
)

arrivals = Events(
    name="arrivals",
    sources=(flights,),
    id=("flight_id",),
    columns={
        **_FLIGHT,
        "arr_delay_minutes": "BIGINT",
        "is_late_arrival": "BOOLEAN",
        "air_time_minutes": "BIGINT",
        "made_up_minutes": "BIGINT",
        "arrived_at_unix_seconds": "BIGINT",
    },
    sql=f"""
        SELECT {_FLIGHT_SQL}, arr_delay AS arr_delay_minutes, arr_delay >= 15 AS is_late_arrival,
            air_time AS air_time_minutes, dep_delay - arr_delay AS made_up_minutes,
            epoch_us(arrival) // 1000000 AS arrived_at_unix_seconds,
            arrival AS event_timestamp, arrival AS created_timestamp
        FROM flights WHERE arrival IS NOT NULL""",
    description="A flight reaches its gate",
    known="when it happens",
)

weather_observations = Events(
    name="weather_observations",
    sources=(weather,),
    id=("origin", "observed_at_unix_seconds"),
    columns={
        "origin": "VARCHAR",
        "observed_at_unix_seconds": "BIGINT",
        "temperature_f": "DOUBLE",
        "dew_point_f": "DOUBLE",
        "humidity_percent": "DOUBLE",
        "wind_speed_mph": "DOUBLE",
        "wind_gust_mph": "DOUBLE",
        "precipitation_inches": "DOUBLE",
        "pressure_hpa": "DOUBLE",
        "visibility_miles": "DOUBLE",
    },
    sql="""
        SELECT origin, epoch_us(time_hour::TIMESTAMP) // 1000000 AS observed_at_unix_seconds,
            temp AS temperature_f, dewp AS dew_point_f, humid AS humidity_percent,
            wind_speed AS wind_speed_mph, wind_gust AS wind_gust_mph,
            precip AS precipitation_inches, pressure AS pressure_hpa, visib AS visibility_miles,
            time_hour::TIMESTAMP AS event_timestamp,
            time_hour::TIMESTAMP + INTERVAL 10 MINUTE AS created_timestamp
        FROM weather""",
    description="The weather at an airport on the hour",
    known="ten minutes after its hour",
)

registrations = Events(
    name="registrations",
    sources=(planes,),
    id=("tailnum",),
    columns={
        "tailnum": "VARCHAR",
        "built_year": "BIGINT",
        "seats": "BIGINT",
        "engines": "BIGINT",
        "manufacturer": "VARCHAR",
        "engine_type": "VARCHAR",
    },
    sql="""
        SELECT tailnum, year AS built_year, seats, engines, manufacturer, engine AS engine_type,
            TIMESTAMP '2013-01-01' AS event_timestamp, TIMESTAMP '2013-01-01' AS created_timestamp
        FROM planes""",
    description="A plane is in the register",
    known="before the data begin: the file has no dates, so its planes count as registered at the"
    " start of 2013",
)
