"""The features that a model reads.

A service that a champion uses is frozen: a change is a new service.
"""

from __future__ import annotations

from feast import FeatureService

from .feature_views import (
    carrier_cancellations,
    carrier_departures,
    carrier_origin_departures,
    destination_arrivals,
    flight_number_arrivals,
    origin_cancellations,
    origin_departures,
    origin_schedule,
    origin_weather,
    plane_departures,
    plane_last_departure,
    plane_register,
    route_arrivals,
)
from .request_features import flight_request_features

arrival_delay_v1 = FeatureService(
    name="arrival_delay_v1",
    features=[
        carrier_departures,
        origin_departures,
        carrier_origin_departures,
        carrier_cancellations,
        origin_cancellations,
        origin_schedule,
        destination_arrivals,
        route_arrivals,
        flight_number_arrivals,
        plane_departures,
        plane_last_departure[["dep_delay_minutes"]],
        plane_register,
        # A timestamp is not a feature; its age is, in flight_request_features.
        origin_weather[
            [
                "temperature_f",
                "dew_point_f",
                "humidity_percent",
                "wind_speed_mph",
                "wind_gust_mph",
                "precipitation_inches",
                "pressure_hpa",
                "visibility_miles",
            ]
        ],
        flight_request_features,
    ],
    description="What the first arrival-delay model reads",
)
