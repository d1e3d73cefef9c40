"""In the morning: how much will the shop sell today?"""

from datetime import timedelta

from punctual import Gate, Label, TimeSplit, UseCase

from .shop import mornings, takings

next_sales = UseCase(
    name="next_sales",
    description="In the morning: how much will the shop sell today?",
    task="regression",
    feature_service="next_sales_v1",
    requests=mornings,
    label=Label("cents", of=takings, horizon=timedelta(hours=24)),
    split=TimeSplit(train="180d", validation="30d", test="60d"),
    metric="rmse",
    gate=Gate(minimum_rows=100),
    describe_columns=("shop_id", "day"),
)
