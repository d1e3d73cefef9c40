"""Features of the moment: what the caller sends, and how old the stored values are; one code for training and serving."""

from __future__ import annotations

from typing import Any

from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

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


@on_demand_feature_view(
    sources=[flight_request, origin_departures, origin_weather, plane_last_departure, route_arrivals],
    schema=[
        Field(name="departure_hour_local", dtype=Int64, description="Hour of scheduled departure in New York"),
        Field(name="departure_minute_of_day_local", dtype=Int64, description="Minute of the day of scheduled departure in New York"),
        Field(name="departure_day_of_week", dtype=Int64, description="Day of the week of departure in New York, Monday is 0"),
        Field(name="departure_day_of_year", dtype=Int64, description="Day of the year of departure in New York"),
        Field(name="route_distance_miles", dtype=Int64, description="Distance flown in miles"),
        Field(name="block_time_minutes", dtype=Int64, description="Scheduled time from gate to gate in minutes"),
        Field(name="slack_minutes", dtype=Float64, description="Scheduled block time beyond the route's mean air time in minutes"),
        Field(name="hours_to_departure", dtype=Float64, description="Hours from the prediction to the scheduled departure"),
        Field(name="weather_age_minutes", dtype=Float64, description="Age of the weather observation in minutes"),
        Field(name="plane_idle_hours", dtype=Float64, description="Hours since the plane last left New York"),
        Field(
            name="delay_in_weather", dtype=Float64,
            description="Mean departure delay of the last hour at the airport times its precipitation in inches",
        ),
    ],
    mode="python",
    description="Request-time features: the clock, the schedule, and the age of what is known",
)  # fmt: skip
def flight_request_features(inputs: dict[str, Any]) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    new_york = ZoneInfo("America/New_York")
    local = [moment.astimezone(new_york) for moment in inputs["scheduled_departure"]]
    block = [
        round((arrival - departure).total_seconds() / 60)
        for departure, arrival in zip(inputs["scheduled_departure"], inputs["scheduled_arrival"])
    ]

    def elapsed(seconds: list[Any], unit: float) -> list[Any]:
        return [None if then is None else (at.timestamp() - then) / unit for at, then in zip(inputs["at"], seconds)]

    return {
        "departure_hour_local": [moment.hour for moment in local],
        "departure_minute_of_day_local": [moment.hour * 60 + moment.minute for moment in local],
        "departure_day_of_week": [moment.weekday() for moment in local],
        "departure_day_of_year": [moment.timetuple().tm_yday for moment in local],
        "route_distance_miles": list(inputs["distance_miles"]),
        "block_time_minutes": block,
        "slack_minutes": [
            None if air is None else minutes - air for minutes, air in zip(block, inputs["air_time_minutes_mean_7d"])
        ],
        "hours_to_departure": [
            (departure - at).total_seconds() / 3600 for at, departure in zip(inputs["at"], inputs["scheduled_departure"])
        ],
        "weather_age_minutes": elapsed(inputs["observed_at_unix_seconds"], 60.0),
        "plane_idle_hours": elapsed(inputs["departed_at_unix_seconds"], 3600.0),
        "delay_in_weather": [
            None if delay is None or rain is None else delay * rain
            for delay, rain in zip(inputs["dep_delay_minutes_mean_1h"], inputs["precipitation_inches"])
        ],
    }
