"""Parcels of a small carrier: the throw-away domain of the inference tests."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.types import Float64, Int64, UnixTimestamp

from punctual import (
    CsvSource,
    Domain,
    Events,
    Label,
    RequestFeature,
    TimeSplit,
    UseCase,
    count,
    latest_feature_view,
    mean,
    request_feature_view,
    share,
    windowed_feature_view,
)

parcels_domain = Domain(
    "parcels", "Parcels of a small carrier", demo_at=datetime(2024, 2, 20, 12, tzinfo=UTC)
)
HOURLY, SOON = timedelta(hours=1), timedelta(minutes=5)

parcels = CsvSource(
    name="parcels",
    location=lambda: Path(__file__).parent / "parcels.csv",
    columns={
        "parcel": "INTEGER",
        "courier": "VARCHAR",
        "depot": "VARCHAR",
        "route": "INTEGER",
        "weight_grams": "INTEGER",
        "booked": "TIMESTAMP",
        "promised": "TIMESTAMP",
        "delivered": "TIMESTAMP",
        "service_class": "VARCHAR",
    },
    key=("parcel",),
)

bookings = Events(
    "bookings",
    (parcels,),
    id=("parcel",),
    columns={
        "parcel": "BIGINT",
        "courier": "VARCHAR",
        "depot": "VARCHAR",
        "route": "BIGINT",
        "weight_grams": "BIGINT",
        "promised": "TIMESTAMPTZ",
    },
    sql="""
        SELECT
            parcel, courier, depot, route, weight_grams, promised,
            booked AS event_timestamp,
            booked AS created_timestamp
        FROM parcels
    """,
)
deliveries = Events(
    "deliveries",
    (parcels,),
    id=("parcel",),
    columns={
        "parcel": "BIGINT",
        "courier": "VARCHAR",
        "depot": "VARCHAR",
        "route": "BIGINT",
        "delay_minutes": "BIGINT",
        "is_late": "BOOLEAN",
        "service_class": "VARCHAR",
        "delivered_at_unix_seconds": "BIGINT",
    },
    sql="""
        SELECT
            parcel, courier, depot, route,
            date_diff('minute', promised, delivered) AS delay_minutes,
            delivered > promised AS is_late,
            service_class,
            epoch_us(delivered) // 1000000 AS delivered_at_unix_seconds,
            delivered AS event_timestamp,
            delivered AS created_timestamp
        FROM parcels
        WHERE delivered IS NOT NULL
    """,
)
lateness = Events(
    "lateness",
    (parcels,),
    id=("parcel",),
    columns={
        "parcel": "BIGINT",
        "is_late": "BOOLEAN",
        "delay_minutes": "BIGINT",
        "no_label_because": "VARCHAR",
    },
    sql="""
        SELECT
            parcel,
            delivered > promised AS is_late,
            date_diff('minute', promised, delivered) AS delay_minutes,
            CASE WHEN delivered IS NULL THEN 'lost' END AS no_label_because,
            booked AS event_timestamp,
            coalesce(delivered, booked + INTERVAL 40 HOUR) AS created_timestamp
        FROM parcels
    """,
)

courier = Entity(
    name="courier", join_keys=["courier"], value_type=ValueType.STRING, description="Who brings it"
)
depot = Entity(
    name="depot",
    join_keys=["depot"],
    value_type=ValueType.STRING,
    description="Where it comes from; may be unknown",
)
route = Entity(
    name="route", join_keys=["route"], value_type=ValueType.INT64, description="The courier's route"
)

courier_deliveries = windowed_feature_view(
    name="courier_deliveries",
    entities=[courier],
    events=deliveries,
    every=HOURLY,
    available_after=SOON,
    features=[
        mean("delay_minutes", over=("24h", "7d"), description="Mean delay"),
        share("is_late", over=("7d",), description="Share of late deliveries"),
        count(over=("24h",), description="Deliveries"),
    ],
    description="How a courier does",
)
depot_deliveries = windowed_feature_view(
    name="depot_deliveries",
    entities=[depot],
    events=deliveries,
    every=HOURLY,
    available_after=SOON,
    features=[count(over=("24h",), description="Deliveries")],
    description="How much goes through a depot",
)
route_deliveries = windowed_feature_view(
    name="route_deliveries",
    entities=[courier, route],
    events=deliveries,
    every=HOURLY,
    available_after=SOON,
    features=[mean("delay_minutes", over=("7d",), description="Mean delay")],
    description="How a courier does on a route",
)
last_delivery = latest_feature_view(
    name="last_delivery",
    entities=[courier],
    events=deliveries,
    every=HOURLY,
    available_after=SOON,
    ttl=timedelta(hours=30),
    fields={
        "delay_minutes": "Delay of the last delivery",
        "service_class": "Class of the last delivery",
        "delivered_at_unix_seconds": "When it was",
    },
    description="A courier's last delivery",
)

parcel_request = RequestSource(
    name="parcel_request",
    schema=[
        Field(name="at", dtype=UnixTimestamp),
        Field(name="promised", dtype=UnixTimestamp),
        Field(name="weight_grams", dtype=Int64),
    ],
)


@request_feature_view(
    sources=[
        parcel_request,
        last_delivery[["delivered_at_unix_seconds"]],
        courier_deliveries[["delay_minutes_mean_24h"]],
    ],
    features=[
        RequestFeature("hours_to_promise", Float64, "Hours until it is promised"),
        RequestFeature("grams_per_hour", Float64, "Weight by hours to the promise"),
        RequestFeature("idle_hours", Float64, "Hours since the last delivery"),
        RequestFeature("weight_kilos", Int64, "Whole kilos"),
    ],
    description="Features of the moment",
)
def parcel_request_features(inputs: dict[str, Any]) -> dict[str, Any]:
    hours = [
        (promised - at).total_seconds() / 3600
        for at, promised in zip(inputs["at"], inputs["promised"], strict=True)
    ]
    return {
        "hours_to_promise": hours,
        "grams_per_hour": [
            weight / (hour + 0.5)
            for weight, hour in zip(inputs["weight_grams"], hours, strict=True)
        ],
        "idle_hours": [
            None if then is None else (at.timestamp() - then) / 3600
            for at, then in zip(inputs["at"], inputs["delivered_at_unix_seconds"], strict=True)
        ],
        "weight_kilos": [weight // 1000 for weight in inputs["weight_grams"]],
    }


parcels_v1 = FeatureService(
    name="parcels_v1",
    features=[
        courier_deliveries,
        depot_deliveries,
        route_deliveries,
        last_delivery[["delay_minutes", "service_class"]],
        parcel_request_features,
    ],
)
SPLIT = TimeSplit(train="20d", validation="5d", test="5d")
parcel_lateness = UseCase(
    name="parcel_lateness",
    description="Will the parcel be late?",
    task="binary",
    feature_service="parcels_v1",
    requests=bookings,
    label=Label("is_late", of=lateness, horizon=timedelta(hours=48), reason="no_label_because"),
    split=SPLIT,
    metric="roc_auc",
    threshold=0.4,
    optional_keys=("depot",),
)
parcel_delay = UseCase(
    name="parcel_delay",
    description="By how many minutes is the parcel late?",
    task="regression",
    feature_service="parcels_v1",
    requests=bookings,
    label=Label("delay_minutes", of=lateness, horizon=timedelta(hours=48)),
    split=SPLIT,
    metric="rmse",
    optional_keys=("depot",),
)
