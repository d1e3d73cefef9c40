"""The entities that features describe."""

from __future__ import annotations

from feast import Entity, ValueType

carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="Airline, by its two-character code",
)
origin = Entity(
    name="origin",
    join_keys=["origin"],
    value_type=ValueType.STRING,
    description="New York airport the flight leaves from",
)
destination = Entity(
    name="destination",
    join_keys=["dest"],
    value_type=ValueType.STRING,
    description="Airport the flight goes to",
)
flight_number = Entity(
    name="flight_number",
    join_keys=["flight_number"],
    value_type=ValueType.INT64,
    description="Number of a flight, unique with its carrier",
)
plane = Entity(
    name="plane",
    join_keys=["tailnum"],
    value_type=ValueType.STRING,
    description="Aircraft, by its tail number; may be unknown",
)
