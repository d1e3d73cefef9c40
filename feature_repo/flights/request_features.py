"""Request-time features, computed from the request and from stored values and their age.

Training and serving run the same function.
"""

from __future__ import annotations

from typing import Any

from feast import Field, RequestSource
from feast.types import Float64, Int64, UnixTimestamp

from punctual import RequestFeature, request_feature_view

from .feature_views import origin_departures, origin_weather, plane_last_departure, route_arrivals

flight_request = RequestSource(
    name="flight_request",
    schema=[
        Field(name="at", dtype=UnixTimestamp),
        Field(name="scheduled_departure", dtype=UnixTimestamp),
        Field(name="scheduled_arrival", dtype=UnixTimestamp),
        Field(name="distance_miles", dtype=Int64),
    ],
    description="The moment of prediction and the flight's schedule",
)


@request_feature_view(
    sources=[
        flight_request,
        origin_departures[["dep_delay_minutes_mean_1h"]],
        origin_weather[["precipitation_inches", "observed_at_unix_seconds"]],
        plane_last_departure[["departed_at_unix_seconds"]],
        route_arrivals[["air_time_minutes_mean_7d"]],
    ],
    features=[
        RequestFeature("departure_hour_local", Int64, "Hour of scheduled departure in New York"),
        RequestFeature(
            "departure_minute_of_day_local",
            Int64,
            "Minute of the day of scheduled departure in New York",
        ),
        RequestFeature(
            "departure_day_of_week", Int64, "Day of the week of departure in New York, Monday is 0"
        ),
        RequestFeature("route_distance_miles", Int64, "Distance flown in miles"),
        RequestFeature("block_time_minutes", Int64, "Scheduled time from gate to gate in minutes"),
        RequestFeature(
            "slack_minutes",
            Float64,
            "Scheduled block time beyond the route's mean air time in minutes",
        ),
        RequestFeature("weather_age_minutes", Float64, "Age of the weather observation in minutes"),
        RequestFeature("plane_idle_hours", Float64, "Hours since the plane last left New York"),
        RequestFeature(
            "delay_in_rain",
            Float64,
            "Mean departure delay of the last hour at the airport"
            " times its precipitation in inches",
        ),
    ],
    description="Request-time features: the clock, the schedule, and the age of what is known",
)
def flight_request_features(inputs: dict[str, Any]) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    new_york = ZoneInfo("America/New_York")
    local = [moment.astimezone(new_york) for moment in inputs["scheduled_departure"]]
    block = [
        round((arrival - departure).total_seconds() / 60)
        for departure, arrival in zip(inputs["scheduled_departure"], inputs["scheduled_arrival"])
    ]

    def elapsed(seconds: list[Any], unit: float) -> list[Any]:
        return [
            None if then is None else (at.timestamp() - then) / unit
            for at, then in zip(inputs["at"], seconds)
        ]

    return {
        "departure_hour_local": [moment.hour for moment in local],
        "departure_minute_of_day_local": [moment.hour * 60 + moment.minute for moment in local],
        "departure_day_of_week": [moment.weekday() for moment in local],
        "route_distance_miles": list(inputs["distance_miles"]),
        "block_time_minutes": block,
        "slack_minutes": [
            None if air is None else minutes - air
            for minutes, air in zip(block, inputs["air_time_minutes_mean_7d"])
        ],
        "weather_age_minutes": elapsed(inputs["observed_at_unix_seconds"], 60.0),
        "plane_idle_hours": elapsed(inputs["departed_at_unix_seconds"], 3600.0),
        "delay_in_rain": [
            None if delay is None or rain is None else delay * rain
            for delay, rain in zip(
                inputs["dep_delay_minutes_mean_1h"], inputs["precipitation_inches"]
            )
        ],
    }
