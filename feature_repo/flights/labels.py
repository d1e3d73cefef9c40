"""The label of `arrival_delay`, and when it becomes known."""

from __future__ import annotations

from punctual import Events

from .sources import flights

late_arrivals = Events(
    name="late_arrivals",
    sources=(flights,),
    id=("flight_id",),
    columns={
        "flight_id": "VARCHAR",
        "is_late": "BOOLEAN",
        "arr_delay_minutes": "BIGINT",
        "no_label_because": "VARCHAR",
    },
    # A cancelled flight, and one that never reached its planned destination, has no arrival delay.
    # That is known at the scheduled departure, or one day after the scheduled arrival.
    sql="""
        SELECT flight_id, arr_delay >= 15 AS is_late, arr_delay AS arr_delay_minutes,
            CASE
                WHEN is_cancelled THEN 'cancelled'
                WHEN arr_delay IS NULL THEN 'no arrival recorded'
            END AS no_label_because,
            scheduled_departure - INTERVAL 2 HOUR AS event_timestamp,
            CASE
                WHEN is_cancelled THEN scheduled_departure
                WHEN arr_delay IS NULL THEN scheduled_arrival + INTERVAL 1 DAY
                ELSE arrival
            END AS created_timestamp
        FROM flights""",
    description="Whether a flight arrived 15 minutes late or more",
    known="at arrival",
)
