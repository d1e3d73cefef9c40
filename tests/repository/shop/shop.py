"""Sources, events, views and service of the shops in one file: a domain may be that small."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.types import Int64, UnixTimestamp

from punctual import (
    CsvSource,
    Domain,
    Events,
    RequestFeature,
    Rule,
    count,
    latest_feature_view,
    mean,
    moment,
    request_feature_view,
    std,
    sum_of,
    windowed_feature_view,
)

DAILY = timedelta(days=1)

_MORNING = "day::TIMESTAMP + INTERVAL 6 HOUR"
_OPENING = "day::TIMESTAMP + INTERVAL 8 HOUR"
_CLOSING = "day::TIMESTAMP + INTERVAL 24 HOUR"

shop_domain = Domain(
    name="shop",
    description="Daily sales of shops",
    demo_at=moment("2020-12-01T06:00Z"),
    schedule={"materialize": "0 0 * * *"},
)

sales = CsvSource(
    name="sales",
    location="raw/sales.csv",
    columns={"shop_id": "BIGINT", "day": "DATE", "cents": "BIGINT", "is_promotion": "BOOLEAN"},
    key=("shop_id", "day"),
    rules=(Rule("sales_not_negative", "cents >= 0"),),
)

# A day's sales become known at the end of the day, a promotion in the morning.
closed_days = Events(
    name="closed_days",
    sources=(sales,),
    id=("shop_id", "day"),
    columns={"shop_id": "BIGINT", "day": "DATE", "cents": "BIGINT", "is_promotion": "BOOLEAN"},
    sql=f"""SELECT shop_id, day, cents, is_promotion, {_CLOSING} AS event_timestamp,
        {_CLOSING} AS created_timestamp FROM sales""",
)
mornings = Events(
    name="mornings",
    sources=(sales,),
    id=("shop_id", "day"),
    columns={"shop_id": "BIGINT", "day": "DATE", "is_promotion": "BOOLEAN", "opens": "TIMESTAMPTZ"},
    sql=f"""SELECT shop_id, day, is_promotion, timezone('UTC', {_OPENING}) AS opens,
        {_MORNING} AS event_timestamp, {_MORNING} AS created_timestamp FROM sales""",
)
takings = Events(
    name="takings",
    sources=(sales,),
    id=("shop_id", "day"),
    columns={"shop_id": "BIGINT", "day": "DATE", "cents": "BIGINT"},
    sql=f"""SELECT shop_id, day, cents, {_MORNING} AS event_timestamp,
        {_CLOSING} AS created_timestamp FROM sales""",
)

shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64, description="A shop")

shop_sales = windowed_feature_view(
    name="shop_sales",
    entities=[shop],
    events=closed_days,
    every=DAILY,
    available_after=timedelta(hours=1),
    features=[
        mean("cents", over=("7d", "28d"), description="Mean daily sales in cents"),
        std("cents", over=("28d",), description="Deviation of daily sales in cents"),
        sum_of("cents", over=("7d",), description="Sales in cents"),
        count(over=("28d",), description="Days open"),
    ],
    description="What a shop sold",
)
last_day = latest_feature_view(
    name="last_day",
    entities=[shop],
    events=closed_days,
    every=DAILY,
    available_after=timedelta(hours=1),
    fields={
        "cents": "Sales of the last day in cents",
        "is_promotion": "Whether the last day had a promotion",
    },
    ttl=timedelta(days=3),
    description="The last day of a shop",
)

shop_request = RequestSource(
    name="shop_request",
    schema=[Field(name="at", dtype=UnixTimestamp), Field(name="opens", dtype=UnixTimestamp)],
)


@request_feature_view(
    sources=[shop_request, shop_sales[["cents_mean_7d"]]],
    features=[
        RequestFeature("day_of_week", Int64, "Day of the week the shop opens, Monday is 0"),
        RequestFeature("mean_known", Int64, "1 if the shop has sold anything in a week"),
    ],
    description="The day",
)
def shop_day(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "day_of_week": [opens.weekday() for opens in inputs["opens"]],
        "mean_known": [int(value is not None) for value in inputs["cents_mean_7d"]],
    }


next_sales_v1 = FeatureService(name="next_sales_v1", features=[shop_sales, last_day, shop_day])
