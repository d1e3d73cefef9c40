"""Two hours before scheduled departure: will the flight arrive 15 minutes late or more?"""

from __future__ import annotations

from datetime import timedelta

from punctual import Gate, Label, Recipe, TimeSplit, UseCase

from .events import scheduled_flights
from .labels import late_arrivals

arrival_delay = UseCase(
    name="arrival_delay",
    description="Two hours before scheduled departure:"
    " will the flight arrive 15 minutes late or more?",
    task="binary",
    feature_service="arrival_delay_v1",
    requests=scheduled_flights,
    # The slowest label of 2013 became known 34.7 hours after its prediction time;
    # a quarter of the labels took more than 6 hours.
    label=Label(
        "is_late", of=late_arrivals, horizon=timedelta(hours=36), reason="no_label_because"
    ),
    split=TimeSplit(train="240d", validation="30d", test="30d"),
    metric="average_precision",
    gate=Gate(beats_champion_by=0.002, beats_baseline_by=0.01, minimum_rows=1_000),
    # Chosen on the validation part (September 2013, trained to the end of August): many small
    # steps, each on few rows and features, since the label is noisy.
    recipe=Recipe(
        parameters={
            "n_estimators": 1200,
            "learning_rate": 0.04,
            "max_depth": 9,
            "min_child_weight": 150,
            "subsample": 0.6,
            "colsample_bytree": 0.25,
            "reg_lambda": 5.0,
            "max_bin": 128,
            "early_stopping_rounds": 40,
        }
    ),
    threshold=0.35,
    optional_keys=("tailnum",),
    describe_columns=("carrier", "flight_number", "origin", "dest", "scheduled_departure"),
    limits=(
        "Flights out of New York in 2013. Cancelled flights and flights whose arrival was never "
        "recorded have no label, so the probability is that of a late arrival given that the "
        "flight arrives. The schedule and the tail number are taken as known two hours before "
        "departure."
    ),
)
