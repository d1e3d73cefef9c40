"""Stored features: the punctuality of carriers, airports, routes, flights and planes; the weather.

All views are computed on an hourly grid. Their rows may be used five minutes after the hour, by
when an hourly run has finished.
"""

from __future__ import annotations

from datetime import timedelta

from punctual import count, latest_feature_view, mean, share, std, windowed_feature_view

from .entities import carrier, destination, flight_number, origin, plane
from .events import (
    arrivals,
    departures,
    departures_due,
    registrations,
    scheduled_flights,
    weather_observations,
)

HOURLY = timedelta(hours=1)
DONE_AFTER = timedelta(minutes=5)

carrier_departures = windowed_feature_view(
    name="carrier_departures",
    entities=[carrier],
    events=departures,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "dep_delay_minutes",
            over=("3h", "24h", "7d"),
            description="Mean departure delay of the carrier in minutes",
        ),
        share(
            "is_late_departure",
            over=("3h", "24h", "30d"),
            description="Share of the carrier's departures 15 minutes late or more",
        ),
        count(over=("3h", "24h"), description="Departures of the carrier"),
    ],
    description="How punctually a carrier leaves New York",
)

origin_departures = windowed_feature_view(
    name="origin_departures",
    entities=[origin],
    events=departures,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "dep_delay_minutes",
            over=("1h", "3h", "24h"),
            description="Mean departure delay at the airport in minutes",
        ),
        std(
            "dep_delay_minutes",
            over=("3h",),
            description="Standard deviation of departure delays at the airport in minutes",
        ),
        share(
            "is_late_departure",
            over=("1h", "3h"),
            description="Share of the airport's departures 15 minutes late or more",
        ),
        count(over=("1h", "3h"), description="Departures from the airport"),
    ],
    description="How punctually an airport's flights leave",
)

carrier_origin_departures = windowed_feature_view(
    name="carrier_origin_departures",
    entities=[carrier, origin],
    events=departures,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "dep_delay_minutes",
            over=("3h", "24h"),
            description="Mean departure delay of the carrier at this airport in minutes",
        ),
        share(
            "is_late_departure",
            over=("6h", "7d"),
            description="Share of the carrier's departures here 15 minutes late or more",
        ),
    ],
    description="How punctually a carrier leaves one airport",
)

carrier_cancellations = windowed_feature_view(
    name="carrier_cancellations",
    entities=[carrier],
    events=departures_due,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        share(
            "is_cancelled",
            over=("6h", "24h", "7d"),
            description="Share of the carrier's flights that were cancelled",
        ),
    ],
    description="How often a carrier cancels",
)

origin_cancellations = windowed_feature_view(
    name="origin_cancellations",
    entities=[origin],
    events=departures_due,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        share(
            "is_cancelled",
            over=("3h", "24h"),
            description="Share of the airport's flights that were cancelled",
        ),
        count(over=("3h",), description="Flights that were due to leave the airport"),
    ],
    description="How often flights from an airport are cancelled",
)

origin_schedule = windowed_feature_view(
    name="origin_schedule",
    entities=[origin],
    events=scheduled_flights,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        count(
            over=("1h", "3h"),
            description="Flights that came within two hours of their departure from the airport",
        )
    ],
    description="How many departures an airport has ahead",
)

destination_arrivals = windowed_feature_view(
    name="destination_arrivals",
    entities=[destination],
    events=arrivals,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "arr_delay_minutes",
            over=("6h", "24h", "7d"),
            description="Mean arrival delay at the destination in minutes",
        ),
        share(
            "is_late_arrival",
            over=("24h", "30d"),
            description="Share of arrivals at the destination 15 minutes late or more",
        ),
        count(over=("24h",), description="Arrivals at the destination"),
    ],
    description="How punctually flights from New York reach a destination",
)

route_arrivals = windowed_feature_view(
    name="route_arrivals",
    entities=[origin, destination],
    events=arrivals,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "arr_delay_minutes",
            over=("24h", "7d", "30d"),
            description="Mean arrival delay on the route in minutes",
        ),
        share(
            "is_late_arrival",
            over=("7d", "30d"),
            description="Share of arrivals on the route 15 minutes late or more",
        ),
        mean(
            "made_up_minutes",
            over=("30d",),
            description="Mean time made up between departure and arrival on the route in minutes",
        ),
        mean("air_time_minutes", over=("7d",), description="Mean air time on the route in minutes"),
    ],
    description="How punctual a route is",
)

flight_number_arrivals = windowed_feature_view(
    name="flight_number_arrivals",
    entities=[carrier, flight_number],
    events=arrivals,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "arr_delay_minutes",
            over=("7d", "30d"),
            description="Mean arrival delay of this flight number in minutes",
        ),
        share(
            "is_late_arrival",
            over=("30d",),
            description="Share of this flight number's arrivals 15 minutes late or more",
        ),
        count(over=("30d",), description="Arrivals of this flight number"),
    ],
    description="How punctual a flight number is",
)

plane_departures = windowed_feature_view(
    name="plane_departures",
    entities=[plane],
    events=departures,
    every=HOURLY,
    available_after=DONE_AFTER,
    features=[
        mean(
            "dep_delay_minutes",
            over=("24h", "7d"),
            description="Mean departure delay of the plane from New York in minutes",
        ),
        count(over=("24h", "30d"), description="Departures of the plane from New York"),
    ],
    description="How punctual a plane was, and how busy",
)

plane_last_departure = latest_feature_view(
    name="plane_last_departure",
    entities=[plane],
    events=departures,
    every=HOURLY,
    available_after=DONE_AFTER,
    fields={
        "dep_delay_minutes": "Departure delay of the plane's last flight from New York in minutes",
        "departed_at_unix_seconds": "When the plane last left New York, in seconds since 1970",
    },
    description="The plane's last flight from New York",
)

plane_register = latest_feature_view(
    name="plane_register",
    entities=[plane],
    events=registrations,
    every=HOURLY,
    available_after=DONE_AFTER,
    fields={
        "built_year": "Year the plane was built",
        "seats": "Seats of the plane",
        "engines": "Engines of the plane",
        "manufacturer": "Manufacturer of the plane",
        "engine_type": "Kind of the plane's engines",
    },
    description="What the register says of a plane",
)

origin_weather = latest_feature_view(
    name="origin_weather",
    entities=[origin],
    events=weather_observations,
    every=HOURLY,
    available_after=DONE_AFTER,
    fields={
        "temperature_f": "Temperature in degrees Fahrenheit",
        "dew_point_f": "Dew point in degrees Fahrenheit",
        "humidity_percent": "Relative humidity in percent",
        "wind_speed_mph": "Wind speed in miles per hour",
        "wind_gust_mph": "Wind gusts in miles per hour; missing where there were none",
        "precipitation_inches": "Precipitation of the hour in inches",
        "pressure_hpa": "Pressure at sea level in hectopascal",
        "visibility_miles": "Visibility in miles",
        "observed_at_unix_seconds": "When the weather was observed, in seconds since 1970",
    },
    ttl=timedelta(hours=6),
    description="The latest weather at the airport of departure",
)
